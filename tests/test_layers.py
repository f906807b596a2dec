"""Who may import whom: the layers of the house, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from twisted.protocols.ftp import FTP

import ftpsd
from ftpsd.command import NOT_SERVED
from ftpsd.commands import TABLE

HOUSE = Path(ftpsd.__file__).parent

#: Pure, in the order in which they may import each other.
WORDS = [
    "replies",
    "names",
    "rights",
    "paths",
    "wire",
    "access",
    "listing",
    "representation",
    "turns",
    "command",
    "session",
]
DEEDS = ["commands"]
#: Only these import the command's and the daemon's outermost files.
OUTERMOST = {"service", "cli", "demo"}


def files() -> list[Path]:
    """Every file of the package."""
    return sorted(HOUSE.rglob("*.py"))


def layer(path: Path) -> str:
    """`ftpsd/wire.py` is wire, `ftpsd/commands/login.py` is commands."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The modules that a file imports when it runs (those for type checkers only are left out)."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "ftpsd":
            found.update(f"ftpsd.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_layers(path: Path) -> None:
    """Words import earlier words, deeds import words, and nobody imports the outermost files."""
    own = layer(path)
    for module in imports(path):
        top, _, rest = module.partition(".")
        theirs = rest.partition(".")[0]
        if own in WORDS:
            assert top not in ("twisted", "OpenSSL", "zope", "attrs", "socket"), module
            assert top != "ftpsd" or theirs in WORDS[: WORDS.index(own)], module
        elif own in DEEDS:
            assert top not in ("twisted", "OpenSSL", "zope", "socket", "os"), module
            assert top != "ftpsd" or theirs in (*WORDS, *DEEDS, ""), module
        elif own != "cli":
            assert theirs not in OUTERMOST or top != "ftpsd", module
            assert theirs not in DEEDS or own == "protocol", module


def test_one_place_imports_the_reactor() -> None:
    """The reactor comes in by the door: one function imports it."""
    naming = [path.name for path in files() if "import reactor" in path.read_text()]
    assert naming == ["service.py"]


def test_openssl_stays_in_few_files() -> None:
    """TLS calls are made where TLS is the subject."""
    users = {layer(path) for path in files() if any("OpenSSL" in name for name in imports(path))}
    assert users <= {"tls", "control", "handshakes", "streams", "connect", "data", "client", "certificates"}


def test_every_command_of_the_base_class_is_accounted_for() -> None:
    """No inherited `ftp_*` method is served: each is a row of ours, or a command that we do not serve."""
    inherited = {name.removeprefix("ftp_") for name in dir(FTP) if name.startswith("ftp_")}
    assert inherited <= set(TABLE) | NOT_SERVED


def test_rows_are_complete() -> None:
    """Every row tells its syntax and where it is specified; secrets are marked."""
    for verb, row in TABLE.items():
        assert row.help.split()[0] in (verb, verb.removeprefix("X"), {"XCUP": "CDUP"}.get(verb)), verb
        assert row.rfc, verb
    assert {verb for verb, row in TABLE.items() if row.secret} == {"PASS", "ACCT"}
    assert {verb for verb, row in TABLE.items() if row.uses_data} == set(
        "RETR STOR APPE STOU LIST NLST MLSD".split()  # noqa: SIM905
    )
