"""The first use of this daemon: curl on a cloud server downloads a file of 77 MB."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
from pathlib import Path

from tests.daemon import Daemon

SIZE = 77_200_652

SEQUENCE = r"""
< 220 .*
> AUTH SSL
< 234 .*
> USER alice
< 331 .*
> PASS secret
< 230 .*
> PBSZ 0
< 200 PBSZ=0
> PROT P
< 200 .*
> PWD
< 257 "/".*
> EPSV
< 229 Entering Extended Passive Mode \(\|\|\|\d+\|\)
> TYPE I
< 200 .*
> SIZE big\.bin
< 213 77200652
> RETR big\.bin
< 150 .*
< 226 .*
""".strip().splitlines()


def test_curl_fetches_77_megabytes(shared: Daemon, tmp_path: Path) -> None:
    """EPSV without argument over IPv4, a data connection that resumes the TLS session, SIZE, RETR, and the same bytes."""
    content = random.Random(1).randbytes(SIZE)
    (shared.home() / "big.bin").write_bytes(content)
    target = tmp_path / "big.bin"
    url = f"ftp://127.0.0.1:{shared.port}/big.bin"
    curl = subprocess.run(
        ["curl", "-v", "-k", "-sS", "--ssl-reqd", "-u", "alice:secret", "-o", str(target), url],
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert curl.returncode == 0, curl.stderr
    said = [line for line in curl.stderr.splitlines() if re.match(r"[<>] ", line)]
    assert len(said) == len(SEQUENCE), curl.stderr
    for line, pattern in zip(said, SEQUENCE, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"
    assert "SSL re-using session ID" in curl.stderr
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(content).digest()
    target.unlink()
