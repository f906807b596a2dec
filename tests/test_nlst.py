"""NLST returns names that RETR accepts, for clients that download whole directories with it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.daemon import PATIENCE, Daemon
from tests.hostile import plain_login

HERE = ["a.bin", "sub"]
NAMES: list[tuple[str, list[str]]] = [
    ("NLST", HERE),
    ("NLST .", HERE),
    ("NLST ./", HERE),
    ("NLST -a", [".", "..", *HERE]),
    ("NLST sub", ["sub/b.bin", "sub/c d.bin", "sub/deep"]),
    ("NLST sub/", ["sub/b.bin", "sub/c d.bin", "sub/deep"]),
    ("NLST sub//", ["sub/b.bin", "sub/c d.bin", "sub/deep"]),
    ("NLST -a sub", ["sub/.", "sub/..", "sub/b.bin", "sub/c d.bin", "sub/deep"]),
    ("NLST ./sub", ["./sub/b.bin", "./sub/c d.bin", "./sub/deep"]),
    ("NLST sub/..", ["sub/../a.bin", "sub/../sub"]),
    ("NLST /nlst", ["/nlst/a.bin", "/nlst/sub"]),
    ("NLST /nlst/", ["/nlst/a.bin", "/nlst/sub"]),
    ("NLST ..", ["../nlst"]),
    ("NLST /", ["/nlst"]),
    ("NLST sub/deep", ["sub/deep/e.bin"]),
    ("NLST sub/b.bin", ["sub/b.bin"]),
    ("NLST *.bin", ["a.bin"]),
    ("NLST sub/*", ["sub/b.bin", "sub/c d.bin", "sub/deep"]),
    ("NLST /nlst/sub/*.bin", ["/nlst/sub/b.bin", "/nlst/sub/c d.bin"]),
    ("NLST su*/", ["sub"]),
    ("NLST s*/.", ["/nlst/sub"]),
    ("NLST -d sub", ["sub"]),
    ("NLST -R sub", ["sub/b.bin", "sub/c d.bin", "sub/deep", "", "/nlst/sub/deep:", "sub/deep/e.bin"]),
]


@pytest.fixture
def tree(plain: Daemon) -> Path:
    """Make a directory with files at three levels."""
    top = plain.home("bob") / "nlst"
    (top / "sub" / "deep").mkdir(parents=True, exist_ok=True)
    for name in ("a.bin", "sub/b.bin", "sub/c d.bin", "sub/deep/e.bin"):
        (top / name).write_text(name)
    return top


@pytest.mark.parametrize(("line", "expected"), NAMES)
def test_names(plain: Daemon, tree: Path, line: str, expected: list[str]) -> None:
    """`NLST dir` sends `dir/` before each name (RFC 1123 section 4.1.2.7), without an argument bare names.

    Each file can be downloaded under its name.
    """
    with plain_login(plain, "bob") as client:
        client.expect(250, "CWD nlst")
        names = client.download(line).decode().split("\r\n")
        assert names.pop() == ""
        assert [name for name in names if name.startswith(("../", "/")) or name in expected] == names
        assert [name for name in names if name in expected] == expected
        for name in names:
            if name.endswith(".bin"):
                assert client.download(f"RETR {name}").decode().endswith(Path(name).name)


def run(command: list[str], text: str, directory: Path) -> str:
    """Run a client and return its output."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, input=text, cwd=directory, capture_output=True, text=True, timeout=PATIENCE)
    return done.stdout + done.stderr


def test_tnftp_fetches_a_directory(plain: Daemon, tree: Path, tmp_path: Path) -> None:
    """tnftp's `mget dir` downloads the files of a directory, using the names of NLST."""
    (tmp_path / "sub").mkdir()
    text = f"open 127.0.0.1 {plain.port}\nuser bob secret\nepsv4 off\nbinary\ncd nlst\nmget sub\nbye\n"
    said = run(["tnftp", "-n", "-i", "-p"], text, tmp_path)
    for name in ("sub/b.bin", "sub/c d.bin"):
        assert (tmp_path / name).read_text() == name, said


PHP = """<?php
$ftp = ftp_connect("127.0.0.1", (int)$argv[1]);
ftp_login($ftp, "bob", "secret");
ftp_pasv($ftp, true);
foreach (ftp_nlist($ftp, $argv[2]) as $name) {
    $size = ftp_size($ftp, $name);
    if ($size >= 0) { ftp_get($ftp, basename($name), $name, FTP_BINARY); }
}
"""


@pytest.mark.parametrize("name", ["nlst/sub", "/nlst/sub", "nlst/sub/"])
def test_php_fetches_a_directory(plain: Daemon, tree: Path, tmp_path: Path, name: str) -> None:
    """PHP's `ftp_nlist` returns names that `ftp_get` accepts."""
    if "ftp" not in run(["php", "-m"], "", tmp_path).split():
        pytest.skip("PHP has no FTP here")
    (tmp_path / "fetch.php").write_text(PHP)
    said = run(["php", "fetch.php", str(plain.port), name], "", tmp_path)
    assert sorted(each.name for each in tmp_path.glob("*.bin")) == ["b.bin", "c d.bin"], said


def test_lftp_fetches_names(plain: Daemon, tree: Path, tmp_path: Path) -> None:
    """lftp's `nlist` prints paths, and its `mget` expands a pattern itself."""
    text = (
        f"set ftp:ssl-allow no\nopen -u bob,secret ftp://127.0.0.1:{plain.port}\ncd nlst\nnlist sub\nmget sub/*.bin\n"
    )
    said = run(["lftp", "-f", "/dev/stdin"], text, tmp_path)
    assert "sub/b.bin" in said.split("\n")
    assert (tmp_path / "b.bin").read_text() == "sub/b.bin", said


@pytest.mark.parametrize(("method", "expected"), [("multicwd", "b.bin"), ("nocwd", "nlst/sub/b.bin")])
def test_curl_lists_names(plain: Daemon, tree: Path, tmp_path: Path, method: str, expected: str) -> None:
    """curl -l prints bare names after CWD, and paths if it sends no CWD."""
    url = f"ftp://bob:secret@127.0.0.1:{plain.port}/nlst/sub/"
    said = run(["curl", "-sS", "-l", "--ftp-method", method, url], "", tmp_path)
    assert said.splitlines()[0].lstrip("/") == expected, said
