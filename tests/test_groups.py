"""Groups of users: what a user gets from them, and their faults."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest
import yaml

from ftpsd.accounts.user_store import InvalidRecord
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.sections.groups import SharedSettings
from ftpsd.config.settings import UserSettings
from ftpsd.config.users.layers import PERSONAL
from ftpsd.config.users.loader import load_users
from ftpsd.config.users.merge import RULES, Rule, merge, origins
from ftpsd.limits.member_homes import MOST_SHARED
from ftpsd.limits.shared.table import SLOTS
from tests.daemon import SECRET
from tests.test_configuration import files, settings_of
from tests.test_documents import keys, rows, told

__all__ = ["files"]

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[1]

#: For each key that groups can have: its values in `defaults`, in two groups and in a user.
VALUES: dict[str, tuple[Any, Any, Any, Any]] = {
    "home": ("home", "{user}", "first/{user}", "own"),
    "permissions": ("upload-only", "read-only", ["list", "mkdir"], ["upload"]),
    "paths": (
        {"/d": "read-only"},
        {"/a": "read-only", "/b": "read-only"},
        {"/b": ["list"]},
        {"/c": ["mkdir"], "/b/": ["rmdir"]},
    ),
    "tls.data_session": ("off", "allow", "require", "off"),
    "tls.close_notify": ("lenient", "require", "lenient", "require"),
    "quota.bytes": ("1M", "2M", "3M", None),
    "quota.files": (1, 2, 3, 4),
    "limits.sessions": (1, 2, 3, None),
    "limits.transfers": (1, 2, 3, 4),
    "limits.upload_rate": ("1M", "2M", "3M", "4M"),
    "limits.download_rate": ("1M", "2M", "3M", "4M"),
    "limits.session_upload_rate": ("1M", "2M", "3M", "4M"),
    "limits.session_download_rate": ("1M", "2M", "3M", "4M"),
    "enabled": (True, True, False, True),
    "networks.allow": (["10.0.0.0/8"], ["10.1.0.0/16"], ["10.2.0.0/16"], []),
    "networks.deny": (["10.0.0.0/8"], ["10.1.0.0/16"], ["10.2.0.0/16", "10.1.0.0/16"], ["10.3.0.0/16"]),
    "expires": ("2027-01-01", "2027-01-02", "2027-01-03", None),
    "hours": (["Mon 01:00-02:00"], ["Tue 01:00-02:00"], ["Wed 01:00-02:00"], []),
    "names.deny": (["*.a"], ["*.b"], ["*.c"], ["*.d", "*.b"]),
    "names.hide": (["*.a"], ["*.b"], ["*.c"], ["*.d"]),
    "names.encoding": ("cp1252", "cp850", "shift_jis", "koi8-r"),
    "umask": ("022", "027", "077", None),
}

#: What holds if both groups and the user have the key, and the rule is not that the last one decides.
TOGETHER: dict[str, Any] = {
    "paths": {"/a": "read-only", "/b": ["rmdir"], "/c": ["mkdir"]},
    "enabled": False,
    "networks.deny": ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"],
    "names.deny": ["*.b", "*.c", "*.d"],
    "names.hide": ["*.b", "*.c", "*.d"],
}


def nested(key: str, value: Any) -> dict[str, Any]:
    """The keys of a user with one key."""
    section, _, name = key.partition(".")
    return {section: {name: value}} if name else {section: value}


def write(directory: Path, defaults: Any, groups: Any, users: Any) -> Path:
    """Write a users' file; return the configuration's path. Each user has a password."""
    users = {name: {"password": SECRET, **values} for name, values in users.items()}
    top = {"defaults": {"home": "home", **defaults}, "groups": groups, "users": users}
    (directory / "users.yaml").write_text(yaml.safe_dump(top, sort_keys=False))
    return directory / "ftpsd.yaml"


def alice(directory: Path, defaults: Any, groups: Any, own: Any) -> UserSettings:
    """The settings of Alice, who is in all of some groups."""
    path = write(directory, defaults, groups, {"alice": {"groups": list(groups), **own}})
    return settings_of("alice", load.load(path))


def faults(directory: Path, groups: Any, own: Any, defaults: Any = ()) -> list[str]:
    """The faults of a users' file with Alice, without the lines."""
    path = write(directory, dict(defaults), groups, {"alice": own})
    with pytest.raises(InvalidConfiguration) as found:
        load.load(path)
    return [re.sub(r"^.*?\.yaml:\d+: ", "", str(fault)) for fault in found.value.faults]


@pytest.fixture
def homes(files: Path) -> Path:
    """A directory with a valid configuration, and the homes that the tests name."""
    for name in ("home", "own", "alice", "first/alice"):
        (files / name).mkdir(parents=True, exist_ok=True)
    return files


# --- the rules -----------------------------------------------------------------------------------------


def test_every_key_has_a_rule() -> None:
    """Each key of a user has a rule, which is in docs/users.md, unless no group can have the key."""
    assert RULES.keys() == keys(UserSettings).keys()
    assert VALUES.keys() == RULES.keys() - PERSONAL.keys() - {"folders"}
    text = (ROOT / "docs/users.md").read_text()
    for rule in get_args(Rule):
        row = re.search(rf"^\| {rule} \| (.*) \|$", text, re.MULTILINE)
        assert row is not None, rule
        documented = [key.strip("`") for key in row[1].split(", ")]
        assert documented == [key for key, each in RULES.items() if each == rule and key not in PERSONAL]


def test_shared_keys_are_documented() -> None:
    """docs/users.md and the man page have each key of `shared`, with its default."""
    documented = {key: told(default) for key, default in keys(SharedSettings, "shared.").items()}
    assert rows((ROOT / "docs/users.md").read_text()).items() >= documented.items()
    page = (ROOT / "docs/man/ftpsd-users.yaml.5").read_text()
    assert [key for key in documented if key not in page] == []


@pytest.mark.parametrize("key", VALUES)
def test_what_a_user_gets(homes: Path, key: str) -> None:
    """The defaults hold for a key that nobody has; then a group, the later group, the user, or all of these."""
    default, *layers = VALUES[key]
    common, first, second, own = (nested(key, value) for value in VALUES[key])

    def gets(groups: dict[str, Any], own: dict[str, Any]) -> UserSettings:
        return attrs.evolve(alice(homes, common, groups, own), groups=())

    def only(value: Any) -> UserSettings:
        return alice(homes, {}, {}, nested(key, value))

    assert gets({"first": {}, "second": {}}, {}) == only(default)
    assert gets({"first": first, "second": {}}, {}) == only(layers[0])
    assert gets({"first": first, "second": second}, own) == only(TOGETHER.get(key, layers[2]))
    if RULES[key] == "last":
        assert gets({"first": first, "second": second}, {}) == only(layers[1])


def test_a_section_of_null(homes: Path) -> None:
    """A section of null removes the keys of the layers before it, and permits nothing that they forbid."""
    group = {"quota": {"bytes": "1M"}, "networks": {"allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"]}}
    got = alice(homes, {"quota": {"files": 7}}, {"staff": group}, {"quota": None, "networks": None})
    assert (got.quota.bytes, got.quota.files) == (None, None)
    assert got.networks.allow == () and [str(each) for each in got.networks.deny] == ["10.1.0.0/16"]


def test_where_a_value_comes_from() -> None:
    """The layers that decide about a key: the last one, or all of them; the defaults if no other has it."""
    layers: list[Any] = [
        {"quota": {"bytes": 1}, "names": {"deny": ["a"]}, "umask": "022"},
        {"names": {"deny": ["b"]}, "quota": {"bytes": 2, "files": 2}},
        {"names": {"deny": ["c"]}, "quota": None},
    ]
    assert origins("names.deny", layers) == [1, 2]
    assert origins("quota.bytes", layers) == origins("quota.files", layers) == [2]
    assert origins("umask", layers) == [0]
    assert origins("names.deny", layers[:1]) == [0]
    assert origins("expires", layers) == []


def test_merging_changes_no_layer() -> None:
    """The layers are as they were, so that the next user gets the same."""
    layers: list[Any] = [
        {"names": {"deny": ["a"]}, "paths": {"/a": []}},
        {"names": {"deny": ["b"]}, "paths": {"/b": []}},
    ]
    before = repr(layers)
    assert merge({}, layers) == {"names": {"deny": ["a", "b"]}, "paths": {"/a": [], "/b": []}}
    assert repr(layers) == before


# --- groups of the file and of groups.d ------------------------------------------------------------------


def test_groups_d(homes: Path) -> None:
    """A file of groups.d is a group; a group in both places is a fault that names both."""
    (homes / "groups.d").mkdir()
    (homes / "groups.d" / "staff.yaml").write_text("permissions: read-only\nshared: {limits: {sessions: 3}}\n")
    (homes / "groups.d" / ".staff.yaml.swp").write_text("what an editor leaves")
    path = write(homes, {}, {}, {"alice": {"groups": ["staff"]}, "bob": {}})
    configuration = load.load(path)
    assert "upload" not in settings_of("alice", configuration).permissions
    assert "upload" in settings_of("bob", configuration).permissions
    assert configuration.layers.shared["staff"].limits.sessions == 3
    (found,) = faults(homes, {"staff": {}}, {"groups": ["staff"]})
    assert "the group staff is in" in found and "users.yaml:" in found


@pytest.mark.parametrize("shared", [{"quota": {"files": 5}}, {"limits": {"sessions": 5}}])
def test_more_homes_than_workers_can_count(homes: Path, monkeypatch: pytest.MonkeyPatch, shared: Any) -> None:
    """Workers that count the homes of a large group would fill their table, so that is a fault; one process counts all.

    A home that several members or groups have counts once, and groups without a quota do not count.
    """
    monkeypatch.setattr(load, "MOST_SHARED", 3)
    for number in range(4):
        (homes / f"user{number}").mkdir()
    users: dict[str, Any] = {f"user{n}": {"home": f"user{n}", "groups": ["staff", "team"]} for n in range(4)}
    users["again"] = {"home": "user0", "groups": ["team"]}
    path = write(homes, {}, {name: {"shared": shared} for name in ("staff", "team")}, users)
    alone = path.read_text()
    load.load(path)
    path.write_text(f"{alone}\nworkers: 3\n")
    if "limits" in shared:
        load.load(path)
        return
    with pytest.raises(InvalidConfiguration, match="workers: groups with a shared quota have 4 homes, and workers can"):
        load.load(path)
    del users["user3"]
    write(homes, {}, {name: {"shared": shared} for name in ("staff", "team")}, users)
    load.load(path)
    assert MOST_SHARED <= SLOTS / 2


def test_who_may_write_to_groups_d(homes: Path) -> None:
    """A file that everyone may write to is a fault, as in users.d; so are a file of another kind and a wrong name."""
    (homes / "groups.d").mkdir()
    file = homes / "groups.d" / "staff.yaml"
    file.write_text("umask: '027'\n")
    file.chmod(0o666)
    path = write(homes, {}, {}, {"alice": {"groups": ["staff"]}})
    with pytest.raises(InvalidConfiguration, match=r"everyone on this machine may write to .*staff\.yaml"):
        load.load(path)
    file.chmod(0o640)
    (homes / "groups.d" / "other.yml").write_text("")
    with pytest.raises(InvalidConfiguration, match=r"Rename it to other\.yaml"):
        load.load(path)


def test_groups_in_the_defaults(homes: Path) -> None:
    """`groups` in the defaults holds for users without the key."""
    groups = {"staff": {"quota": {"files": 1}}, "other": {}}
    users: dict[str, Any] = {"alice": {}, "bob": {"groups": ["other"]}}
    configuration = load.load(write(homes, {"groups": ["staff"]}, groups, users))
    assert settings_of("alice", configuration).quota.files == 1
    assert settings_of("alice", configuration).groups == ("staff",)
    assert settings_of("bob", configuration).quota.files is None


def test_a_group_that_is_named_twice(homes: Path) -> None:
    """A user is in a group once, so that its limits count once."""
    assert alice(homes, {}, {"staff": {}, "other": {}}, {"groups": ["staff", "other", "staff"]}).groups == (
        "staff",
        "other",
    )


@pytest.mark.parametrize(
    ("groups", "own", "expected"),
    [
        ({"staff": {}}, {"groups": ["staf"]}, "users.alice.groups[0]: there is no group staf. Did you mean staff?"),
        (
            {},
            {"groups": ["staff"]},
            "users.alice.groups[0]: there is no group staff. Add it below groups: in users.yaml",
        ),
        ({"staff": {}}, {"groups": "staff"}, "users.alice.groups: must be a list."),
        ({"staff": {}}, {"groups": ["staff", 7]}, "users.alice.groups[1]: 7 is not a string"),
        ({"a": {"groups": ["a"]}}, {}, "groups.a.groups: cannot be a key of a group. Name all groups at the users"),
        ({"a": {"password": SECRET}}, {}, "groups.a.password: cannot be a key of a group"),
        ({"a": {"umask": 7}}, {"groups": ["a"]}, "groups.a.umask: 7 is a number, not a umask"),
        ({"a": {"limit": {}}}, {"groups": ["a"]}, "groups.a.limit: unknown key. Did you mean limits?"),
        ({"a": {"sharde": {}}}, {"groups": ["a"]}, "groups.a.sharde: unknown key. Did you mean shared?"),
        (
            {"a": {"shared": {"quota": {"bytes": "x"}}}},
            {"groups": ["a"]},
            "groups.a.shared.quota.bytes: “x” is not a size",
        ),
        ({"a": {"shared": {"limits": {"sessions": 0}}}}, {}, "groups.a.shared.limits.sessions: 0 is too small"),
        ({"a": {"limits": {"sessions": 0}}}, {"groups": ["a"]}, "groups.a.limits.sessions: 0 is too small"),
        (
            {"a": {"names": {"deny": ["*.a"]}}},
            {"groups": ["a"], "names": {"deny": ["/"]}},
            "users.alice.names.deny[0]: ",
        ),
        ({"a": [1]}, {"groups": ["a"]}, "groups.a: must be a mapping."),
        ({"a/b": {}}, {}, "groups.a/b: the name of the group contains /"),
        ([], {}, "groups: must be a mapping of names."),
        ({}, {"shared": {}}, "users.alice.shared: unknown key."),
    ],
)
def test_faults_of_groups(homes: Path, groups: Any, own: Any, expected: str) -> None:
    """Each fault is reported once, where it is: a user has none because of a group's fault."""
    found = faults(homes, groups, own)
    assert len(found) == 1 and found[0].startswith(expected), found


def test_a_group_of_defaults_that_does_not_exist(homes: Path) -> None:
    """The fault is reported once, at the defaults."""
    assert faults(homes, {}, {}, {"groups": ["staff"]})[0].startswith("defaults.groups[0]: there is no group staff.")


def test_a_record_with_an_unknown_group(homes: Path) -> None:
    """A user of another source who has a group that does not exist cannot log in: the group may restrict the user."""
    configuration = load.load(
        write(homes, {"home": str(homes / "{user}")}, {"staff": {"umask": "077"}}, {"bob": {"home": "home"}})
    )
    builder = configuration.builder
    built = builder.build("alice", {"groups": ["staff"]})
    assert built.umask == 0o077 and built.groups == ("staff",)
    with pytest.raises(InvalidRecord, match=r"groups\[1\]: there is no group stuff. Did you mean staff\?"):
        builder.build("alice", {"groups": ["staff", "stuff"]})


# --- many --------------------------------------------------------------------------------------------------


def test_a_user_in_50_of_1000_groups(homes: Path) -> None:
    """1,000 groups and users with 50 of them each are loaded within seconds; the last of them decides."""
    groups = {
        f"group{number}": {
            "quota": {"files": number + 1},
            "names": {"deny": [f"*.{number}"]},
            "paths": {f"/{number}": []},
        }
        for number in range(1000)
    }
    users = {f"user{at}": {"groups": [f"group{number}" for number in range(at, at + 50)]} for at in range(500)}
    path = write(homes, {}, groups, users)
    started = time.process_time()
    configuration = load.load(path)
    assert time.process_time() - started < 10
    got = settings_of("user7", configuration)
    assert got.quota.files == 57 and len(got.names.deny) == len(got.paths) == 50


def test_an_unknown_group_of_many_users(homes: Path) -> None:
    """The same fault of 5,000 users among 1,000 groups is reported for each of them within seconds."""
    users = {f"user{number}": {"groups": ["grup7x"], "quota": {"files": number}} for number in range(5000)}
    path = write(homes, {}, {f"group{number}": {} for number in range(1000)}, users)
    started = time.process_time()
    with pytest.raises(InvalidConfiguration) as found:
        load.load(path)
    assert time.process_time() - started < 20
    assert len(found.value.faults) == 5000


def test_homes_of_groups(homes: Path) -> None:
    """The homes of the members of a group with a shared quota are counted; other groups need no counting."""
    groups = {"counted": {"shared": {"quota": {"files": 9}}}, "limited": {"shared": {"limits": {"sessions": 9}}}}
    users = {"alice": {"groups": ["counted", "limited"]}, "bob": {"home": "own", "groups": ["limited"]}}
    write(homes, {}, groups, users)
    store = load_users(homes / "users.yaml", True).store
    assert store is not None
    assert store.homes.of_groups == {"counted": {str(homes / "home")}}
    assert store.homes.with_quota == {str(homes / "home")}
    assert "digest" in vars(store.homes.of_groups["counted"]), "sessions would wait for it later"
