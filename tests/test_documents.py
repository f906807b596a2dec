"""The documents tell the truth: keys and defaults, commands, the examples."""

from __future__ import annotations

import ast
import re
import runpy
import shutil
from pathlib import Path
from typing import Any, get_args, get_origin

import attrs
import pytest

from ftpsd.commands import TABLE
from ftpsd.config import load
from ftpsd.config.convert import optional_section
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.sections.sources import SOURCES
from ftpsd.config.settings import PortRange, Settings, UserSettings
from ftpsd.protocol.command import Command
from ftpsd.protocol.permissions import PERMISSIONS, PROFILES

ROOT = Path(__file__).parents[1]


def keys(cls: type, prefix: str = "") -> dict[str, Any]:
    """Every key of a section with its default; nested sections are walked."""
    found: dict[str, Any] = {}
    for field in attrs.fields(attrs.resolve_types(cls)):
        name = prefix + field.name
        inner = get_args(field.type)[0] if get_origin(field.type) is tuple else field.type
        section = optional_section(inner)
        if section is not None:
            found.update(keys(section, name + "."))
        elif attrs.has(inner) and inner is not PortRange:
            found.update(keys(inner, name + ("[]." if inner is not field.type else ".")))
        else:
            found[name] = field.default
    return found


def told(default: Any) -> str:
    """A default as the table writes it."""
    if default is attrs.NOTHING:
        return ""
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return "`{}`"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    profile = next((name for name, value in PROFILES.items() if value == default), None)
    words = {None: "null", True: "true", False: "false"}
    if default == ():
        return "`[]`"
    plain = words[default] if default is None or isinstance(default, bool) else str(default)
    return f"`{profile or plain}`"


def rows(text: str) -> dict[str, str]:
    """The keys and defaults of a table in Markdown."""
    return dict(re.findall(r"^\| `([a-z_.\[\]]+)` \| ([^|]*?) ?\| ", text, re.MULTILINE))


def test_configuration_is_documented() -> None:
    """docs/configuration.md has every key of both files, with its default, and no other."""
    text = (ROOT / "docs/configuration.md").read_text()
    main, users = text.split("## users.yaml")
    assert rows(main) == {key: told(default) for key, default in keys(Settings).items()}
    mandatory = {"password": "", "home": ""}  # None stands for what only `defaults` may leave out
    expected = {key: told(default) for key, default in keys(UserSettings).items()} | mandatory
    assert rows(users.split("| permission |")[0]) == expected
    for permission in PERMISSIONS:
        assert f"`{permission}`" in users


@pytest.mark.parametrize("kind", sorted(set(SOURCES) - {"yaml"}))
def test_each_source_is_documented(kind: str) -> None:
    """docs/users-TYPE.md has every key of a source, with its default, and no other; docs/users.md links to it."""
    assert rows((ROOT / f"docs/users-{kind}.md").read_text()) == {
        key: told(default) for key, default in keys(SOURCES[kind]).items() if key != "type"
    }
    assert f"(users-{kind}.md)" in (ROOT / "docs/users.md").read_text()


@pytest.mark.parametrize(("page", "section"), [("ftpsd.yaml.5", Settings), ("ftpsd-users.yaml.5", UserSettings)])
def test_man_pages_have_every_key(page: str, section: type) -> None:
    """The man pages of both files have an entry for each key; the entry of a list describes the keys of its entries."""
    text = (ROOT / "docs/man" / page).read_text()
    for key in keys(section):
        name, inside, last = key.partition("[].")
        assert re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text), key
        assert not inside or last in text, key


def test_every_command_is_documented() -> None:
    """docs/conformance.md has a row for each command: specification, login, permissions."""
    text = (ROOT / "docs/conformance.md").read_text()
    documented = re.findall(r"^\| `[A-Z]+(?: [^`]*)?` \|.*$", text, re.MULTILINE)
    assert documented == [as_documented(TABLE[verb]) for verb in sorted(TABLE)]


def as_documented(row: Command) -> str:
    """The row of a command in docs/conformance.md."""
    source = row.rfc if row.rfc.startswith("draft") else f"RFC {row.rfc}"
    syntax = row.help.replace(row.help.split()[0], row.verb, 1).replace("|", "\\|")
    return f"| `{syntax}` | {source} | {'no' if row.login else 'yes'} | {row.needs()} |"


def test_every_row_of_the_threat_model_is_shown() -> None:
    """docs/security.md names a test for each attack, and each test that it names is there."""
    text = (ROOT / "docs/security.md").read_text()
    attacks = [row for row in re.findall(r"^\| (.+) \|$", text, re.MULTILINE) if row.count(" | ") == 2]
    for row in attacks:
        shown_by = row.rpartition(" | ")[2]
        assert "`" in shown_by or shown_by in ("shown by", "---"), row
    for file, name in re.findall(r"`(test_\w+\.py)::(\w+)`", text):
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(), name
    for script in re.findall(r"`(?:debian/tests/)?(vm-\w+|fail2ban)`", text):
        if (ROOT / "debian").exists():  # it is not beside an installed wheel
            assert (ROOT / "debian/tests" / script).exists(), script


def test_every_fault_is_documented() -> None:
    """docs/reliability.md has a row for each test of a fault, which knows each reply code that the row promises."""
    text = (ROOT / "docs/reliability.md").read_text()
    files = {path.name: path.read_text() for path in (ROOT / "tests").glob("test_faults_*.py")}
    tests = {
        f"{name}::{test}" for name, source in files.items() for test in re.findall(r"^def (test_\w+)", source, re.M)
    }
    documented = re.findall(r"^\| [^|]+ \| ([^|]+) \|.*`(test_faults_[^`]+)` \|$", text, re.MULTILINE)
    assert {test for _, test in documented} == tests
    for seen, test in documented:
        for code in re.findall(r"\b[2-5]\d\d\b", seen):
            file, _, name = test.partition("::")
            assert re.search(rf"\b{code}\b", told_by(files[file], name)), f"{test}: {code}"


def told_by(source: str, name: str) -> str:
    """A function with its decorators, and what of the same file it uses by name; no docstring, which only promises."""
    parts: dict[str, ast.stmt] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            parts[node.name] = node
            if ast.get_docstring(node) is not None:
                node.body[0] = ast.Pass()
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts.update((target.id, node) for target in targets if isinstance(target, ast.Name))
    used = {node.id for node in ast.walk(parts[name]) if isinstance(node, ast.Name)}
    return "\n".join(ast.unparse(parts[each]) for each in [name, *sorted(used & set(parts))])


@pytest.mark.parametrize("commented", [True, False], ids=["as it is", "with all comments taken off"])
def test_the_example_is_good(tmp_path: Path, certificate: Path, commented: bool) -> None:
    """etc/ftpsd.yaml works, and so does every line in it that is commented out: these are the defaults."""
    text = (ROOT / "etc/ftpsd.yaml").read_text()
    if not commented:
        text = re.sub(r"^# (?=(  )*(- .*|[a-z_]+: ?.*)$)", "", text, flags=re.MULTILINE)
        assert "\nlimits:" in text
    (tmp_path / "ftpsd.yaml").write_text(text)
    shutil.copy(ROOT / "etc/users.yaml", tmp_path)
    pem = [(certificate / name).read_text() for name in ("certificate.pem", "key.pem")]
    (tmp_path / "certificate.pem").touch(0o600)
    (tmp_path / "certificate.pem").write_text("".join(pem))
    plain = load.load(tmp_path / "ftpsd.yaml").settings
    assert plain.passive.ports == PortRange(50000, 50999)


def test_the_fault_of_a_reload_is_shown_as_it_is(tmp_path: Path) -> None:
    """docs/operating.md shows the line that `ftpsd check` and a reload print for a reversed range in etc/ftpsd.yaml."""
    text = (ROOT / "etc/ftpsd.yaml").read_text().replace("ports: 50000-50999", "ports: 50999-50000")
    (tmp_path / "ftpsd.yaml").write_text(text)
    with pytest.raises(InvalidConfiguration) as refused:
        load.load(tmp_path / "ftpsd.yaml")
    shown = [str(fault).replace(str(tmp_path), "/etc/ftpsd") for fault in refused.value.faults]
    printed = next(line for line in shown if "passive.ports" in line)
    assert f"\n{printed}\n" in (ROOT / "docs/operating.md").read_text()


def test_pictures_of_a_daemon_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script ends with what the daemon says, and does not wait for ever."""
    pytest.importorskip("rich")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    draw_top = runpy.run_path(str(ROOT / "docs" / "draw_top.py"))
    (tmp_path / "ftpsd.yaml").write_text("nonsense: 1\n")
    with pytest.raises(SystemExit, match="nonsense"), draw_top["running"](tmp_path):
        pass
