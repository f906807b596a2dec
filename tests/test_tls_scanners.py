"""What testssl.sh and sslyze find at the explicit and at the implicit port: nothing above informational.

Both take long, so CI runs them once (`-m "not scanner"` leaves them out). sslyze asks for an older release
of cryptography than ours, so `tests/run` gives it a virtual environment of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.authority import make_chain
from tests.daemon import Daemon

pytestmark = pytest.mark.scanner

#: Seconds; both bound their connections themselves. On an idle machine testssl.sh takes 30, sslyze 2.
LONGEST = 600

TESTSSL = shutil.which("testssl") or shutil.which("testssl.sh")
SSLYZE = shutil.which("sslyze", path=f"{sys.prefix}/sslyze/bin") or shutil.which("sslyze")

#: CI says that they must be there.
REQUIRED = os.environ.get("FTPSD_SCANNERS") == "required"

#: Protocols, suites, forward secrecy, what the server prefers, certificate and extensions, vulnerabilities.
CHECKS = ("-p", "-s", "-f", "-P", "-S", "-U")

#: What testssl.sh says of itself.
NOT_OURS = {
    ("WARN", "engine_problem"),  # its openssl has no engine for GOST
    # TLS 1.3: its s_client is often gone before the ticket has come, and then has nothing to try again with
    ("WARN", "sessionresumption_ticket"),
    ("WARN", "sessionresumption_ID"),
}

KINDS = ["explicit", "implicit"]


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with default settings, and a certificate of an authority."""
    directory = tmp_path_factory.mktemp("chained")
    make_chain(directory)
    daemon = Daemon(directory, directory).start()
    yield daemon
    daemon.stop()


def run(*command: str | Path) -> str:
    """What a scanner prints."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=LONGEST, text=True)
    return done.stdout


@pytest.mark.skipif(TESTSSL is None and not REQUIRED, reason="testssl.sh is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_testssl(chained: Daemon, tmp_path: Path, kind: str) -> None:
    """testssl.sh rates nothing above INFO."""
    assert TESTSSL is not None
    where = ["--starttls", "ftp", f"127.0.0.1:{chained.port}"]
    if kind == "implicit":
        where = [f"127.0.0.1:{chained.implicit_port}"]
    report = tmp_path / "report.json"
    options = ["--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip", "127.0.0.1"]
    files = ["--add-ca", chained.directory / "ca.pem", "--jsonfile", report]
    said = run(TESTSSL, *options, *files, *CHECKS, *where)
    findings = {each["id"]: each for each in json.loads(report.read_text())}
    assert {"TLS1_2", "TLS1_3", "cert_chain_of_trust", "heartbleed", "secure_client_renego"} <= set(findings), said
    bad = [
        f"{each['severity']} {each['id']}: {each['finding']}"
        for each in findings.values()
        if each["severity"] not in ("OK", "INFO", "DEBUG") and (each["severity"], each["id"]) not in NOT_OURS
    ]
    assert not bad, said


@pytest.mark.skipif(SSLYZE is None and not REQUIRED, reason="sslyze is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_sslyze(chained: Daemon, tmp_path: Path, kind: str) -> None:
    """sslyze finds no weakness, and no difference from what Mozilla calls intermediate but two more curves."""
    assert SSLYZE is not None
    where = ["--starttls", "ftp", f"localhost:{chained.port}"]
    if kind == "implicit":
        where = [f"localhost:{chained.implicit_port}"]
    report = tmp_path / "report.json"
    files = ["--certinfo_ca_file", chained.directory / "ca.pem", "--json_out", report]
    said = run(SSLYZE, *files, *where)
    (server,) = json.loads(report.read_text())["server_scan_results"]
    assert server["scan_status"] == "COMPLETED", said
    results = {name: each["result"] for name, each in server["scan_result"].items() if each and each["result"]}
    check_protocols(results)
    check_weaknesses(results)
    check_certificate(results)
    check_differences(said.partition("COMPLIANCE")[2])


def check_protocols(results: dict[str, Any]) -> None:
    """TLS 1.2 and 1.3, and their suites with forward secrecy and AEAD only."""
    suites = {
        name.removesuffix("_cipher_suites"): [each["cipher_suite"]["name"] for each in result["accepted_cipher_suites"]]
        for name, result in results.items()
        if name.endswith("_cipher_suites")
    }
    assert len(suites) == 6
    assert {name for name, accepted in suites.items() if accepted} == {"tls_1_2", "tls_1_3"}
    assert all(re.search("ECDHE_.*(GCM|CHACHA20)", name) for name in suites["tls_1_2"])


def check_weaknesses(results: dict[str, Any]) -> None:
    """Nothing that has a name of its own."""
    assert not results["heartbleed"]["is_vulnerable_to_heartbleed"]
    assert not results["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
    assert results["robot"]["robot_result"].startswith("NOT_VULNERABLE")
    assert not results["tls_compression"]["supports_compression"]
    assert results["tls_fallback_scsv"]["supports_fallback_scsv"]
    assert results["tls_extended_master_secret"]["supports_ems_extension"]
    renegotiation = results["session_renegotiation"]
    assert renegotiation["supports_secure_renegotiation"]
    assert renegotiation["client_renegotiations_success_count"] == 0


def check_certificate(results: dict[str, Any]) -> None:
    """The chain is sent as it was configured, and leads to the authority."""
    (deployment,) = results["certificate_info"]["certificate_deployments"]
    assert deployment["received_chain_has_valid_order"]
    assert not deployment["received_chain_contains_anchor_certificate"]
    assert not deployment["verified_chain_has_sha1_signature"]
    trusted = {
        each["trust_store"]["name"]: each["was_validation_successful"] for each in deployment["path_validation_results"]
    }
    assert trusted["Supplied CA file"]


def check_differences(said: str) -> None:
    """Mozilla's list has three curves. X448 and secp521r1 are stronger ones that OpenSSL offers by itself.

    pyOpenSSL 23 cannot choose several curves, and to choose one would take X25519 and the hybrid with ML-KEM away.
    """
    differences = dict(re.findall(r"^ +\* (\w+): (.*)$", said, re.MULTILINE))
    assert "Mozilla" in said
    assert set(differences) <= {"tls_curves"}, said
    assert set(re.findall(r"'(\w+)'", differences.get("tls_curves", ""))) <= {"X448", "secp521r1"}, said
