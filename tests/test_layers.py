"""Which package may import which, read from the source. CONTRIBUTING's map is checked against the same table."""

from __future__ import annotations

import ast
import configparser
import re
from functools import cache
from pathlib import Path

import pytest
from twisted.protocols.ftp import FTP

import ftpsd
from ftpsd.commands import TABLE
from ftpsd.protocol.command import NOT_SERVED

PACKAGE = Path(ftpsd.__file__).parent

#: Each package, and the packages that it may import. `config.settings` is one module, apart from the rest of `config`:
#: every component is given its own section of the settings, while a configuration load knows the components. The modules
#: of `config.sections` belong to it.
MAY_IMPORT = {
    "protocol": "",
    "commands": "protocol",
    "config.settings": "protocol",
    "system": "protocol config.settings",
    "helper": "",
    "web": "system",
    "events": "protocol config.settings system",
    "outbox": "protocol config.settings events system",
    "limits": "protocol config.settings events system",
    "data": "protocol config.settings events system limits",
    "storage": "protocol config.settings events system outbox limits data",
    "accounts": "protocol config.settings events system limits storage",
    "figures": "protocol config.settings events system limits data accounts",
    "config": "protocol config.settings events system outbox limits accounts",
    "checks": "protocol config.settings system accounts config",
    "snapshot": "protocol config.settings system limits data",
    "control": "protocol config.settings events system limits data accounts config commands snapshot",
    "admin": "protocol config.settings web events system outbox limits data storage accounts figures config checks control snapshot",
    "metrics": "protocol config.settings web events system outbox limits accounts figures config control admin",
    "processes": "protocol config.settings events system outbox limits data storage accounts figures config control snapshot",
    "service": "protocol config.settings events system outbox limits data storage accounts figures config control snapshot admin metrics processes",
    "deliver": "protocol config.settings events system outbox config",
    "cli": "protocol config.settings events system outbox limits storage accounts config checks service deliver",
}

#: Classes with more than 15 methods. Interfaces demand most of them: one for each operation of a home (`Files`,
#: `LocalFiles`) or an upload, one for each event of a session, and what Twisted calls of a transport and a protocol.
LARGE = {
    "Files": 19,
    "LocalFiles": 24,
    "S3Files": 24,
    "S3Upload": 20,
    "FolderFiles": 29,
    "DropBoxFiles": 20,
    "Upload": 18,
    "SessionEvents": 18,
    "ControlConnection": 25,
    "FtpsProtocol": 20,
}

#: Libraries that the pure packages must not touch, and the modules that may use OpenSSL.
IMPURE = {"twisted", "OpenSSL", "zope", "attrs", "cattrs", "socket", "yaml"}


def modules() -> list[Path]:
    """Every module of the package."""
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem not in ("__init__",))


def name_of(path: Path) -> str:
    """`ftpsd/protocol/parsing.py` is protocol.parsing."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str) -> str:
    """The row of MAY_IMPORT that a module belongs to."""
    if module == "config.settings" or module.startswith("config.sections"):
        return "config.settings"
    return "cli" if module == "__main__" else module.partition(".")[0]


def test_the_distribution_has_every_package() -> None:
    """setup.cfg names each package: one that it forgets is in a checkout, but not in a wheel or a Debian package."""
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    if not setup.sections():
        pytest.skip("the installed package has no setup.cfg beside it")
    found = {".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in PACKAGE.rglob("__init__.py")}
    assert set(setup["options"]["packages"].split()) == {*found, "twisted.plugins"}


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> set[str]:
    """The modules that a file imports when it runs (those for type checkers only are left out)."""
    tree = tree_of(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from ftpsd.config import settings` names a module, `from ftpsd.config.settings import Limits` does not.
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                is_module = (PACKAGE.parent / (dotted.replace(".", "/") + ".py")).exists()
                found.add(dotted if is_module else node.module)
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_layers(path: Path) -> None:
    """No module imports a package that its own may not import, and the protocol is pure."""
    own = package_of(name_of(path))
    allowed = {own, *MAY_IMPORT[own].split()}
    for module in imports(path):
        top, _, rest = module.partition(".")
        if top == "ftpsd" and rest:
            assert package_of(rest) in allowed, f"{name_of(path)} imports {module}"
        elif own in ("protocol", "commands"):
            assert top not in IMPURE, f"{name_of(path)} imports {module}"


def test_the_table_has_no_circle() -> None:
    """Each package imports only packages above it in the table, so that no two know each other."""
    order = list(MAY_IMPORT)
    for package, allowed in MAY_IMPORT.items():
        assert all(order.index(each) < order.index(package) for each in allowed.split()), package


def test_packages_stay_small() -> None:
    """Beside the packages there are a few modules, and no package has more than fourteen."""
    beside = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert beside <= {"__init__.py", "__main__.py", "py.typed", "service.py", "snapshot.py"}
    for package in {path.parent for path in modules()} - {PACKAGE}:
        assert len([path for path in package.glob("*.py") if path.name != "__init__.py"]) <= 14, package


def test_classes_stay_small() -> None:
    """No class has more than 15 methods, but those of `LARGE`, which do not grow."""
    sizes = {
        node.name: sum(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in node.body)
        for path in modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
    }
    assert {name: size for name, size in sizes.items() if size > LARGE.get(name, 15)} == {}, "divide it"


def test_every_package_says_what_it_is_for() -> None:
    """A package's docstring states its purpose, what it may import and which file to read first."""
    for init in PACKAGE.rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(init.read_text())) or ""
        assert text, init
        if init.parent != PACKAGE:
            assert "May import" in text, init
            assert "Read first" in text or "Start with" in text, init


def test_contributing_has_the_same_map() -> None:
    """The table of packages in CONTRIBUTING.md is this one."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+?)(?:/|\.py)?` \|[^|]*\| ([^|]*) \|$", text, re.MULTILINE)
    assert {
        name: " ".join(re.findall(r"[a-z_.]+", allowed.replace("nothing", ""))) for name, allowed in rows
    } == MAY_IMPORT


def test_one_place_imports_the_reactor() -> None:
    """One function imports the reactor."""
    naming = [path.name for path in modules() if "import reactor" in path.read_text()]
    assert naming == ["twisted_private.py"]


def test_few_types_are_any() -> None:
    """`Any` remains where Twisted, sqlite3 and boto3 have no types, and for JSON. A new one needs a reason, and another one's removal."""
    words = sum(len(re.findall(r"\bAny\b", path.read_text())) for path in modules())
    assert words < 70


def test_openssl_stays_in_few_modules() -> None:
    """TLS calls are made where TLS is the subject."""
    users = {name_of(path) for path in modules() if any("OpenSSL" in name for name in imports(path))}
    allowed = """
        system.tls.certificates system.tls.certificate_parts system.tls.client_certificates config.tls.client_certificates system.tls.contexts system.tls.errors system.tls.private system.tls.trial control.tls_layer control.tls.engine control.tls.output control.control_channel config.tls.certificates
        control.tls.data_checks config.tls.certificates config.tls.client_certificates data.handshakes data.shared data.streams
        """
    assert users <= set(allowed.split())


def test_every_command_of_the_base_class_is_accounted_for() -> None:
    """No inherited `ftp_*` method is served: each is a row of ours, or a command that we do not serve."""
    inherited = {name.removeprefix("ftp_") for name in dir(FTP) if name.startswith("ftp_")}
    assert inherited <= set(TABLE) | NOT_SERVED
