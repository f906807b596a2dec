"""Folders in `users.yaml`: for whom they are, and their faults."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftpsd.accounts.user_store import InvalidRecord
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.sections.folders import FolderSettings
from ftpsd.protocol.permissions import PROFILES
from tests.daemon import SECRET
from tests.test_configuration import files, settings_of
from tests.test_documents import keys, rows, told

__all__ = ["files"]

pytestmark = pytest.mark.quick


@pytest.fixture
def base(files: Path) -> Path:
    """A valid configuration, and directories."""
    for name in ("alice", "bob", "one", "two", "one/inner"):
        (files / name).mkdir()
    (files / "link").symlink_to("two")
    return files


def write(base: Path, users: dict[str, Any], **sections: Any) -> Path:
    """Write users.yaml; return the path of ftpsd.yaml."""
    each = {name: {"password": SECRET, "home": name, **values} for name, values in users.items()}
    (base / "users.yaml").write_text(yaml.safe_dump({"users": each, **sections}, sort_keys=False))
    return base / "ftpsd.yaml"


def folders(base: Path, configuration: load.Configuration, name: str) -> dict[str, str]:
    """Return the folders of a user and their directories, relative to the base."""
    found = settings_of(name, configuration).folders
    return {"/" + "/".join(at): os.path.relpath(folder.path, os.path.realpath(base)) for at, folder in found.items()}


def faults(path: Path) -> list[str]:
    """Return the faults of a configuration."""
    with pytest.raises(InvalidConfiguration) as found:
        load.load(path)
    return [str(fault).replace(f"{path.parent}/", "") for fault in found.value.faults]


def test_for_whom_folders_are(base: Path) -> None:
    """Folders at the top level are for all users, or for those that `for` names; folders elsewhere add to them."""
    path = write(
        base,
        {
            "alice": {"groups": ["staff"], "folders": {"/own": {"path": "two"}}},
            "bob": {"folders": {"/all": None, "/team/": {"path": str(base / "two"), "permissions": ["list"]}}},
        },
        groups={"staff": {"folders": {"/group": {"path": "one"}}}},
        folders={
            "/all": {"path": "one"},
            "/staff": {"path": "link", "for": ["group:staff"]},
            "/bob": {"path": "one", "for": ["bob", "nobody"]},
            "/team": {
                "path": "one",
                "for": ["bob", "group:staff"],
                "permissions": "read-only",
                "quota": {"bytes": "1G"},
            },
            "/none": {"path": "one", "for": []},
        },
    )
    configuration = load.load(path)
    assert folders(base, configuration, "alice") == {
        "/all": "one",
        "/staff": "two",
        "/team": "one",
        "/group": "one",
        "/own": "two",
    }
    assert folders(base, configuration, "bob") == {"/bob": "one", "/team": "two"}
    team = settings_of("alice", configuration).folders["team",]
    assert (team.permissions, team.quota.bytes) == (PROFILES["read-only"], 1 << 30)
    homes = configuration.users.homes
    real = os.path.realpath(base)
    assert {f"{real}/one", f"{real}/two"} <= homes.all
    assert homes.with_quota == {f"{real}/one"}
    assert real in homes.parents


def test_a_user_whose_name_looks_like_a_group(base: Path) -> None:
    """The name `group:staff` gives nothing that is for the group."""
    name = "group:staff"
    path = write(
        base,
        {name: {"home": "alice"}, "bob": {"groups": ["staff"]}},
        groups={"staff": {}},
        folders={"/staff": {"path": "one", "for": [name, "bob"]}, "/all": {"path": "two"}},
    )
    configuration = load.load(path)
    assert folders(base, configuration, name) == {"/all": "two"}
    assert folders(base, configuration, "bob") == {"/staff": "one", "/all": "two"}


def test_folders_of_the_defaults(base: Path) -> None:
    """Folders of `defaults` are for users without own folders. A folder for all is counted before anybody has it."""
    path = write(
        base,
        {"alice": {}, "bob": {"folders": {"/own": {"path": "two"}}}},
        defaults={"folders": {"/common": {"path": "one", "quota": {"files": 7}}}},
    )
    configuration = load.load(path)
    assert folders(base, configuration, "alice") == {"/common": "one"}
    assert folders(base, configuration, "bob") == {"/own": "two"}
    path = write(base, {}, folders={"/x": {"path": "one", "quota": {"files": 7}}})
    assert load.load(path).users.homes.with_quota == {os.path.realpath(base / "one")}


FAULTS: list[tuple[Any, str]] = [
    ([], "folders: must be a mapping of paths to folders. Write it as"),
    ({"shared": {"path": "one"}}, "folders.shared: the path shared does not start with /. Write /shared."),
    ({"/": {"path": "one"}}, "folders./: / is the home. Write a path below /"),
    ({"/a": {"path": "one"}, "//a/": {"path": "two"}}, "folders.//a/: has the path of another folder. Remove one"),
    ({"/a": "one"}, "folders./a: must be a mapping. Write its keys"),
    ({"/a": {}}, "folders./a.path: is missing. Add path."),
    ({"/a": {"path": 7}}, "folders./a.path: "),
    ({"/a": {"path": "one", "pth": 1}}, "folders./a.pth: unknown key. Did you mean path?"),
    ({"/a": {"path": "one", "quota": {"bites": 1}}}, "folders./a.quota.bites: unknown key. Did you mean bytes?"),
    ({"/a": {"path": "one", "permissions": "raed-only"}}, "folders./a.permissions: “raed-only” is not a permission"),
    ({"/a": {"path": "missing"}}, "folders./a.path: missing is not a directory. Create it for the daemon's user: ins"),
    ({"/a": {"path": "ftpsd.yaml"}}, "folders./a.path: ftpsd.yaml is not a directory. Create it"),
    ({"/" + "a/" * 300: {"path": "one"}}, ": Path too deep. Choose a shorter path."),
]


@pytest.mark.parametrize("where", ["top", "user", "group", "defaults"])
@pytest.mark.parametrize(("value", "expected"), FAULTS)
def test_faults(base: Path, where: str, value: Any, expected: str) -> None:
    """Each fault has file, line, key and remedy, wherever the folder stands, and is reported once."""
    key, users, sections = {
        "top": ("", {"alice": {}, "bob": {}}, {"folders": value}),
        "user": ("users.alice.", {"alice": {"folders": value}, "bob": {}}, {}),
        "group": (
            "groups.staff.",
            {"alice": {"groups": ["staff"]}, "bob": {"groups": ["staff"]}},
            {"groups": {"staff": {"folders": value}}},
        ),
        "defaults": ("defaults.", {"alice": {}, "bob": {}}, {"defaults": {"folders": value}}),
    }[where]
    (fault,) = faults(write(base, users, **sections))
    assert fault.startswith("users.yaml:")
    assert int(fault.split(":")[1]) > 0
    assert expected in fault
    if expected.startswith("folders"):
        assert f": {key}{expected}" in fault


FOR: list[tuple[Any, str]] = [
    ("alice", "folders./a.for: must be a list. Write names of users, or group:NAME"),
    ([7], "folders./a.for[0]: 7 is not a name. Write the name of a user"),
    (["alice", "group:stuff"], "folders./a.for[1]: there is no group stuff. Add it below groups:"),
]


@pytest.mark.parametrize(("value", "expected"), FOR)
def test_faults_of_for(base: Path, value: Any, expected: str) -> None:
    """`for` may name users of any source; a group that it names must exist."""
    path = write(base, {"alice": {}}, folders={"/a": {"path": "one", "for": value}}, groups={"staff": {}})
    (fault,) = faults(path)
    assert expected in fault


def test_for_is_for_the_top_level_only(base: Path) -> None:
    """Elsewhere the folder belongs to the user or the group that has it."""
    (fault,) = faults(write(base, {"alice": {"folders": {"/a": {"path": "one", "for": ["bob"]}}}}))
    assert "users.alice.folders./a.for: unknown key" in fault


OVERLAPS: list[tuple[bool, dict[str, Any], dict[str, Any]]] = [
    # whether it is a fault, the keys of Alice, whose home is one/inner, and the folders
    (False, {}, {"/a": {"path": "one"}}),
    (True, {"quota": {"bytes": 1}}, {"/a": {"path": "one"}}),
    (True, {}, {"/a": {"path": "one", "quota": {"bytes": 1}}}),
    (False, {"quota": {"bytes": 1}}, {"/a": {"path": "one", "permissions": "read-only"}}),
    (False, {"quota": {"bytes": 1}}, {"/a": {"path": "one/inner"}}),
    (False, {"quota": {"bytes": 1}}, {"/a": {"path": "two", "quota": {"bytes": 1}}}),
    (False, {}, {"/a": {"path": "one/inner/below"}}),
    (True, {"quota": {"files": 1}}, {"/a": {"path": "one/inner/below"}}),
    (True, {}, {"/a": {"path": "one/inner/below", "quota": {"files": 1}}}),
    (True, {}, {"/a": {"path": "one/inner/below", "quota": {"files": 1}}, "/b": {"path": "one"}}),
]


@pytest.mark.parametrize(("wrong", "alice", "common"), OVERLAPS)
def test_overlaps(base: Path, wrong: bool, alice: dict[str, Any], common: dict[str, Any]) -> None:
    """A folder around or in a home or another folder is a fault if one of them is counted, unless nobody can write."""
    (base / "one/inner/below").mkdir()
    path = write(base, {"alice": {"home": "one/inner", **alice}, "bob": {}}, folders=common)
    if not wrong:
        load.load(path)
        return
    found = faults(path)
    assert all("lie in each other" in fault and "users.yaml:" in fault and "folders./" in fault for fault in found)


def test_the_name_of_the_user(base: Path) -> None:
    """`{user}` in a path is the name of the user: each has a directory and a quota of its own, wherever the folder stands.

    One that is missing is a fault, which names the directory. New ones need no restart: their parent is known.
    """
    for name in ("alice", "bob", "carol"):
        (base / "one" / name).mkdir()
        (base / "two" / name / "in").mkdir(parents=True)
    inbox = {"path": "one/{user}", "quota": {"files": 7}}
    users: dict[str, Any] = {"alice": {"groups": ["staff"]}, "bob": {"folders": {"/own": {"path": "two/{user}/in"}}}}
    sections: dict[str, Any] = {
        "folders": {"/inbox": inbox},
        "groups": {"staff": {"folders": {"/staff": {"path": "two/{user}/in"}}}},
    }
    path = write(base, users, **sections)
    configuration = load.load(path)
    assert folders(base, configuration, "alice") == {"/inbox": "one/alice", "/staff": "two/alice/in"}
    assert folders(base, configuration, "bob") == {"/inbox": "one/bob", "/own": "two/bob/in"}
    real = os.path.realpath(base)
    homes = configuration.users.homes
    assert {f"{real}/one/alice", f"{real}/one/bob"} <= set(homes.with_quota)
    assert {f"{real}/one", f"{real}/two"} <= homes.parents
    (base / "two/carol/home").mkdir()
    built = configuration.builder.build("carol", {"home": str(base / "two/carol/home")})
    assert built.folders[("inbox",)].path == f"{real}/one/carol"
    (fault,) = faults(write(base, {**users, "dave": {"home": "alice"}}, **sections))
    assert "users.dave.folders./inbox.path: one/dave is not a directory" in fault
    for name in ("..", "x/../alice"):
        assert all("inbox" not in each for each in faults(write(base, {name: {"home": "alice"}}, **sections)))


def test_users_of_sources(base: Path) -> None:
    """Users of sources get the folders at the top level, too; their own must lie below sandbox.homes."""
    (base / "ftpsd.yaml").write_text(
        (base / "ftpsd.yaml").read_text() + f"sandbox: {{homes: [{base}/one, {base}/two]}}\n"
    )
    (base / "one/carol").mkdir()
    path = write(base, {}, folders={"/all": {"path": "two"}, "/c": {"path": "two", "for": ["carol"]}})
    builder = load.load(path).builder
    built = builder.build("carol", {"home": str(base / "one/carol"), "folders": {"/own": {"path": "one/inner"}}})
    real = os.path.realpath(base)
    assert {at: folder.path for at, folder in built.folders.items()} == {
        ("all",): f"{real}/two",
        ("c",): f"{real}/two",
        ("own",): f"{real}/one/inner",
    }
    (base / "two/dave").mkdir()
    with pytest.raises(InvalidRecord) as caught:
        builder.build("dave", {"home": str(base / "two/dave"), "quota": {"bytes": 1}})
    assert "home: " in str(caught.value) and "lie in each other" in str(caught.value)
    assert builder.build("dave", {"home": str(base / "two/dave")}).home == f"{real}/two/dave"
    for folder, expected in (("/etc", "sandbox.homes"), ("one/nothing", "is not a directory"), (7, "path")):
        with pytest.raises(InvalidRecord) as caught:
            builder.build("carol", {"home": str(base / "one/carol"), "folders": {"/own": {"path": folder}}})
        assert "folders./own.path" in str(caught.value) and expected in str(caught.value)


OWN_OVERLAPS: list[tuple[bool, dict[str, Any], dict[str, Any]]] = [
    # whether it is a fault, the keys of Carol, whose home is two/carol, and her folders
    (False, {}, {"/a": {"path": "two"}}),
    (True, {"quota": {"bytes": 1}}, {"/a": {"path": "two"}}),
    (True, {"quota": {"bytes": 1}}, {"/a": {"path": "two/carol/in"}}),
    (False, {"quota": {"bytes": 1}}, {"/a": {"path": "two/carol/in", "permissions": "read-only"}}),
    (True, {}, {"/a": {"path": "two/carol/in", "quota": {"files": 1}}}),
    (True, {}, {"/a": {"path": "two/other", "quota": {"files": 1}}, "/b": {"path": "two/other/in"}}),
    (False, {}, {"/a": {"path": "two/other"}, "/b": {"path": "two/other/in"}}),
    (True, {}, {"/a": {"path": "one"}}),
    (True, {}, {"/a": {"path": "one/inner/below"}}),
    (False, {}, {"/a": {"path": "one/inner"}}),
    (False, {}, {"/a": {"path": "one", "permissions": "read-only"}}),
    (False, {}, {"/a": {"path": "bob/in"}}),
]


@pytest.mark.parametrize(("wrong", "carol", "own"), OWN_OVERLAPS)
def test_overlaps_of_users_of_sources(base: Path, wrong: bool, carol: dict[str, Any], own: dict[str, Any]) -> None:
    """Folders of users of sources are compared with their homes, each other, and the counted homes of users.yaml."""
    for name in ("two/carol/in", "two/other/in", "one/inner/below", "bob/in"):
        (base / name).mkdir(parents=True)
    (base / "ftpsd.yaml").write_text((base / "ftpsd.yaml").read_text() + f"sandbox: {{homes: [{base}]}}\n")
    path = write(base, {"alice": {"home": "one/inner", "quota": {"bytes": 1}}, "bob": {}})
    builder, values = load.load(path).builder, {"home": str(base / "two/carol"), **carol, "folders": own}
    if not wrong:
        builder.build("carol", values)
        return
    with pytest.raises(InvalidRecord, match=r"^folders\./[ab]: .* lie in each other, and have a quota"):
        builder.build("carol", values)


@pytest.mark.parametrize("where", ["folders", "defaults", "groups"])
def test_a_home_around_the_own_folders_of_others(base: Path, where: str) -> None:
    """A user of a source gets no home around the place of folders with {user}, if one of both is counted."""
    for name in ("two/inbox/carol", "two/inbox-other"):
        (base / name).mkdir(parents=True)
    (base / "ftpsd.yaml").write_text((base / "ftpsd.yaml").read_text() + f"sandbox: {{homes: [{base}]}}\n")
    counted, read_only = {"quota": {"bytes": 1}}, {"permissions": "read-only"}

    def build(folder: dict[str, Any], home: str, **values: Any) -> None:
        folders = {"/own": {"path": "two/inbox/{user}", **folder}}
        section: dict[str, Any] = {"folders": folders}
        if where != "folders":
            section = {"defaults": {"folders": folders}} if where == "defaults" else {"groups": {"g": section}}
        builder = load.load(write(base, {}, **section)).builder
        builder.build("dave", {"home": str(base / home), "folders": {"/own": None}, **values})

    for home in ("two", "two/inbox"):
        for folder, values in ((counted, {}), ({}, counted)):
            with pytest.raises(InvalidRecord, match=r"^home: .* lie in each other, and have a quota"):
                build(folder, home, **values)
        build({}, home)
        build(counted | read_only, home)
    build(counted, "two/inbox-other", **counted)


def test_the_example_of_the_document(base: Path) -> None:
    """docs/folders.md has an example that loads, and means what its comments say; and a row for each key."""
    text = (Path(__file__).parents[1] / "docs/folders.md").read_text()
    match = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert match is not None
    example = re.sub(r'(: "?)(/srv|/nas)', rf"\1{base}\2", match[1]).replace("$argon2id$…", SECRET)
    for path in re.findall(rf"{re.escape(str(base))}/[a-z/]+", example):
        Path(path).mkdir(parents=True, exist_ok=True)
    (base / "srv/inbox/alice").mkdir()
    (base / "users.yaml").write_text(example)
    found = folders(base, load.load(base / "ftpsd.yaml"), "alice")
    assert found.keys() == {"/team", "/archive", "/outgoing/drop", "/inbox", "/reports", "/scans"}
    assert found["/inbox"] == "srv/inbox/alice"
    documented = rows(text.split("## What users see")[0])
    assert documented == {key: told(default) for key, default in keys(FolderSettings).items()} | {"for": "`null`"}
