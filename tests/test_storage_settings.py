"""Stores in `ftpsd.yaml`, and the homes and folders in them: what can be written, and the faults."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftpsd.accounts.user_store import InvalidRecord
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.sections.storage import S3Storage, parse_place
from ftpsd.system.aws import boto
from tests.daemon import SECRET
from tests.test_configuration import GOOD, files, settings_of
from tests.test_documents import keys, rows, told

__all__ = ["files"]

pytest.importorskip("boto3")

#: A store that can be used.
STORE: dict[str, Any] = {"type": "s3", "bucket": "partners"}


def write(base: Path, stores: object, users: dict[str, Any] | None = None, **sections: Any) -> Path:
    """Write both files; return the path of ftpsd.yaml."""
    (base / "ftpsd.yaml").write_text(f"{GOOD}{yaml.safe_dump({'storage': stores}, sort_keys=False)}")
    found = {name: {"password": SECRET, **values} for name, values in (users or {}).items()}
    (base / "users.yaml").write_text(yaml.safe_dump({"users": found, **sections}, sort_keys=False))
    return base / "ftpsd.yaml"


def faults(path: Path) -> list[str]:
    """Return the faults of a configuration."""
    with pytest.raises(InvalidConfiguration) as found:
        load.load(path)
    return [str(fault).replace(f"{path.parent}/", "") for fault in found.value.faults]


def secret_file(base: Path, content: str = "wJalrXUt\n", mode: int = 0o600) -> Path:
    """Write a file with a secret."""
    (base / "secret").write_text(content)
    (base / "secret").chmod(mode)
    return base / "secret"


def test_the_keys_are_documented() -> None:
    """docs/storage.md has every key of a store, with its default, and no other."""
    text = (Path(__file__).parents[1] / "docs/storage.md").read_text()
    assert rows(text) == {key: told(default) for key, default in keys(S3Storage).items()}


def test_a_store_with_all_keys(files: Path) -> None:
    """All keys of a store are read, and its secret from the file, which no text of the store shows."""
    secret_file(files)
    path = write(
        files,
        {
            "archive": {
                **STORE,
                "prefix": "in/",
                "endpoint": "https://s3.example.org",
                "region": "eu-1",
                "credentials": {"access_key_id": "AKIA1", "secret_access_key_file": "secret"},
                "part_size": "16M",
                "parallel": 8,
                "memory": "1G",
                "rename_directories": 100,
            },
            "cold": {**STORE, "credentials": {"role": "arn:aws:iam::123456789012:role/ftp"}, "prefix": "cold"},
            "plain": {**STORE, "bucket": "other", "credentials": "default"},
        },
    )
    archive, cold, plain = load.load(path).stores
    settings = archive.settings
    assert (archive.name, archive.secret, settings.bucket, settings.key_prefix) == (
        "archive",
        "wJalrXUt",
        "partners",
        "in/",
    )
    assert (settings.endpoint, settings.region) == ("https://s3.example.org", "eu-1")
    assert (settings.part_size, settings.parallel, settings.memory) == (16 << 20, 8, 1 << 30)
    assert settings.rename_directories == 100
    assert settings.credentials.access_key_id == "AKIA1"
    assert (cold.settings.credentials.role, cold.secret) == ("arn:aws:iam::123456789012:role/ftp", None)
    assert (plain.settings.key_prefix, plain.settings.part_size, plain.settings.memory) == ("", 8 << 20, 512 << 20)
    assert "wJalrXUt" not in repr(archive)


ROWS: list[tuple[Any, str]] = [
    ([], "storage: must be a mapping of names. Write each name"),
    ({"a b": STORE}, "storage.a b: “a b” is not a name of a store. Use letters"),
    ({"a": {"bucket": "partners"}}, "storage.a.type: is missing. Add type."),
    ({"a": "partners"}, "storage.a: must be a mapping. Write its keys"),
    ({"a": {"type": "s3"}}, "storage.a.bucket: is missing. Add bucket."),
    ({"a": {**STORE, "type": "azure"}}, "storage.a.type: “azure” is not a valid value. Write one of: s3."),
    ({"a": {**STORE, "bukcet": 1}}, "storage.a.bukcet: unknown key. Did you mean bucket?"),
    ({"a": {**STORE, "bucket": "s3://partners"}}, "storage.a.bucket: “s3://partners” is not the name of a bucket."),
    ({"a": {**STORE, "prefix": "/in"}}, "storage.a.prefix: “/in” starts with /. Write “in”"),
    ({"a": {**STORE, "prefix": "in/../out"}}, "storage.a.prefix: “in/../out” is not a path in a store."),
    ({"a": {**STORE, "prefix": "in//out"}}, "storage.a.prefix: “in//out” is not a path in a store."),
    ({"a": {**STORE, "endpoint": "s3.example.org"}}, "storage.a.endpoint: “s3.example.org” is not the URL of a server."),
    ({"a": {**STORE, "endpoint": "https://s3.example.org/partners"}}, "storage.a.endpoint: "),
    ({"a": {**STORE, "endpoint": "https://k:secret@s3.example.org"}}, "storage.a.endpoint: “https://s3.example.org” is not"),
    ({"a": {**STORE, "endpoint": "https://s3:port"}}, "storage.a.endpoint: "),
    ({"a": {**STORE, "part_size": "1M"}}, "storage.a.part_size: 1048576 bytes are not possible for a part. Write a size"),
    ({"a": {**STORE, "part_size": "6G", "memory": "1T"}}, "storage.a.part_size: "),
    ({"a": {**STORE, "parallel": 0}}, "storage.a.parallel: 0 is out of range. Write a number from 1 to 64."),
    ({"a": {**STORE, "parallel": 65}}, "storage.a.parallel: 65 is out of range."),
    (
        {"a": {**STORE, "memory": "8M", "parallel": 1}},
        "storage.a.memory: 8388608 bytes are too few for 2 parts of 8388608 bytes. Write 16M or",
    ),
    ({"a": {**STORE, "memory": "10M"}}, "storage.a.memory: 10485760 bytes are too few for 4 parts of 8388608 bytes. Write 32M or"),
    ({"a": {**STORE, "credentials": "instance"}}, "storage.a.credentials: “instance” names no credentials. Write default,"),
    ({"a": {**STORE, "credentials": {"secret": "x"}}}, "storage.a.credentials.secret: unknown key."),
    ({"a": {**STORE, "credentials": {"access_key_id": "A"}}}, "storage.a.credentials.secret_access_key_file: is missing."),
    ({"a": {**STORE, "credentials": {"secret_access_key_file": "x"}}}, "storage.a.credentials.access_key_id: is missing."),
    ({"a": {**STORE, "credentials": {"role": "admin"}}}, "storage.a.credentials.role: “admin” is not the ARN of a role."),
    (
        {"a": {**STORE, "credentials": {"access_key_id": "A", "secret_access_key_file": "missing"}}},
        "storage.a.credentials.secret_access_key_file: missing cannot be read: no such file",
    ),
    ({"a": STORE, "b": {**STORE, "prefix": "x/"}}, "storage.b: has objects of the store a. Choose another prefix"),
    ({"a": {**STORE, "bucket": "b"}}, "storage.a.bucket: “b” is not the name of a bucket. Write its name alone."),
    ({"a": {**STORE, "bucket": "..."}}, "storage.a.bucket: “...” is not the name of a bucket."),
    ({"a": {**STORE, "bucket": "a" * 256}}, "storage.a.bucket: "),
    ({"a": {**STORE, "bucket": "parts of ours"}}, "storage.a.bucket: "),
    ({"a": {**STORE, "bucket": "arn:aws:s3:eu-1:1:x"}}, "storage.a: boto3 refuses it: "),
    ({"a": {**STORE, "region": "eu 1"}}, "storage.a.region: “eu 1” is not a region. Write it as your store names it"),
    ({"a": {**STORE, "region": ""}}, "storage.a.region: "),
    ({"a": {**STORE, "region": "eu_west_1"}}, "storage.a.region: "),
    ({"a": {**STORE, "region": "17"}}, "storage.a.region: "),
    ({"a": {**STORE, "endpoint": ""}}, "storage.a.endpoint: “” is not the URL of a server."),
    ({"a": {**STORE, "endpoint": "ftp://s3.example.org"}}, "storage.a.endpoint: "),
    ({"a": {**STORE, "endpoint": "https://s3:99999"}}, "storage.a.endpoint: "),
    ({"a": {**STORE, "endpoint": "https://s3_1.example.org"}}, "storage.a.endpoint: boto3 refuses it: Invalid endpoint"),
    ({"a": {**STORE, "endpoint": "https://grüße.example"}}, "storage.a.endpoint: boto3 refuses it: "),
    ({"a": {**STORE, "part_size": 0}}, "storage.a.part_size: 0 bytes are not possible for a part."),
    ({"a": {**STORE, "part_size": -1}}, "storage.a.part_size: "),
    ({"a": {**STORE, "parallel": -1}}, "storage.a.parallel: -1 is negative. Write 0 or"),
    ({"a": {**STORE, "memory": -1}}, "storage.a.memory: "),
    ({"a": {**STORE, "rename_directories": -1}}, "storage.a.rename_directories: -1 is negative. Write 0 or"),
]  # fmt: skip


@pytest.mark.parametrize(("stores", "expected"), ROWS)
def test_faults_of_stores(files: Path, stores: Any, expected: str) -> None:
    """Each mistake in a store is one fault, which names the line, the key and the remedy."""
    (fault,) = faults(write(files, stores))
    line, _, text = fault.partition(" ")
    assert re.fullmatch("ftpsd.yaml:[1-9][0-9]*:", line), fault
    assert text.startswith(expected), fault


@pytest.mark.parametrize(("one", "other"), [
    ("https://s3.example.org", "https://s3.example.org/"),
    ("https://s3.example.org", "https://s3.example.org:443"),
    ("https://s3.example.org", "HTTPS://S3.Example.ORG."),
    ("http://s3.example.org:80/", "http://s3.example.org"),
    ("http://s3.example.org", "https://s3.example.org"),
    (None, "https://s3.amazonaws.com"),
    (None, "https://s3.eu-central-1.amazonaws.com"),
    ("http://127.0.0.1:9000", "https://127.0.0.1:9000/"),
])  # fmt: skip
def test_one_service_with_two_spellings(files: Path, one: str | None, other: str) -> None:
    """A default port, a slash, capitals, the region of Amazon: two stores with one bucket are found all the same."""
    stores = {"a": {**STORE, "endpoint": one}, "b": {**STORE, "endpoint": other, "prefix": "x/"}}
    (fault,) = faults(write(files, stores))
    assert "storage.b: has objects of the store a." in fault


@pytest.mark.parametrize(("one", "other"), [
    ("https://s3.amazonaws.com", "https://s3.cn-north-1.amazonaws.com.cn"),
    ("https://s3.us-east-1.amazonaws.com", "https://s3.us-gov-west-1.amazonaws.com"),
    (None, "https://s3-us-gov-east-1.amazonaws.com"),
])  # fmt: skip
def test_partitions_of_amazon(files: Path, one: str | None, other: str) -> None:
    """China, GovCloud and the others have buckets of their own: one name in two of them is no fault."""
    stores = {"a": {**STORE, "endpoint": one}, "b": {**STORE, "endpoint": other}}
    assert len(load.load(write(files, stores)).stores) == 2


def test_settings_of_the_environment(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What boto3 refuses of the environment and of ~/.aws is a fault of the store, too."""
    path = write(files, {"a": STORE})
    (files / "aws").write_text("[default\nregion")
    for name, value in (
        ("AWS_PROFILE", "missing"),
        ("AWS_DEFAULT_REGION", "no region"),
        ("AWS_CONFIG_FILE", str(files / "aws")),
    ):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            (fault,) = faults(path)
            assert "storage.a: boto3 refuses it: " in fault
            assert "Correct it, or what the environment (AWS_…) and ~/.aws say." in fault
    assert len(load.load(path).stores) == 1


def test_neighbours_are_no_overlap(files: Path) -> None:
    """Prefixes that only begin alike are different directories, and the same bucket at another endpoint is another."""
    there = {**STORE, "endpoint": "http://127.0.0.1:9000"}
    stores = {"a": {**STORE, "prefix": "in"}, "b": {**STORE, "prefix": "in2"}, "c": there}
    assert len(load.load(write(files, stores)).stores) == 3


@pytest.mark.parametrize(("content", "mode", "expected"), [
    ("wJalr\n", 0o604, "everyone on this machine may read"),
    ("", 0o600, "does not hold one line with a secret"),
    ("a\nb\n", 0o600, "does not hold one line with a secret"),
])  # fmt: skip
def test_faults_of_the_secret(files: Path, content: str, mode: int, expected: str) -> None:
    """A secret that everyone may read, or that is no secret, is a fault that does not repeat it."""
    secret_file(files, content, mode)
    credentials = {"access_key_id": "A", "secret_access_key_file": "secret"}
    (fault,) = faults(write(files, {"a": {**STORE, "credentials": credentials}}))
    assert expected in fault
    assert "wJalr" not in fault


def test_homes_and_folders_in_stores(files: Path) -> None:
    """Users, groups, defaults and users.d can put homes and folders in a store; they need no directory there."""
    stores = {"archive": STORE, "other": {**STORE, "bucket": "other"}, "third": {**STORE, "bucket": "third"}}
    (files / "users.d").mkdir()
    (files / "users.d/dora.yaml").write_text(
        yaml.safe_dump({"password": SECRET, "home": {"storage": "other", "path": "d/{user}/x"}})
    )
    path = write(
        files,
        stores,
        {
            "alice": {"folders": {"/old": {"storage": "archive", "path": "old/", "quota": {"bytes": "1G"}}}},
            "bob": {"home": "home", "folders": {"/a": {"storage": "third", "path": ""}}},
            "carol": {"groups": ["staff"], "quota": {"files": 5}},
        },
        defaults={"home": {"storage": "archive", "path": "homes/{user}/"}},
        groups={"staff": {"home": {"storage": "other", "path": "staff"}}},
    )
    configuration = load.load(path)
    alice, bob, carol, dora = (settings_of(name, configuration) for name in ("alice", "bob", "carol", "dora"))
    assert alice.home == "s3:archive/homes/alice"
    assert alice.folders["old",].path == "s3:archive/old"
    assert bob.home == os.path.realpath(files / "home")
    assert bob.folders["a",].path == "s3:third"
    assert (carol.home, dora.home) == ("s3:other/staff", "s3:other/d/dora/x")
    assert parse_place("s3:archive/homes/alice") == ("archive", "homes/alice/")
    assert parse_place("s3:archive") == ("archive", "")
    homes = configuration.users.homes
    assert {"s3:archive/homes/alice", "s3:archive/old", "s3:third", "s3:other/staff"} <= homes.all
    assert homes.with_quota == {"s3:archive/old", "s3:other/staff"}
    # Only directories of this machine are swept, and allowed by the sandbox.
    assert list(homes.outermost) == [bob.home]
    assert homes.parents == {os.path.realpath(files)}


def test_many_users_in_a_store_share_their_settings(files: Path) -> None:
    """The settings of users who differ in name and home only are made once, as for homes on a disk."""
    users = {f"user{number}": {"home": {"storage": "archive", "path": f"{number}/"}} for number in range(50)}
    table = load.load(write(files, {"archive": STORE}, users)).users.users
    assert len(table._kinds) == 1
    found = table.get("user7")
    assert found is not None
    assert found.settings.home == "s3:archive/7"


def test_the_home_of_anonymous_users(files: Path) -> None:
    """The home of anonymous users can be in a store; the home of a user may be neither in nor around it."""
    place = {"storage": "archive", "path": "public/"}
    users = {"alice": {"home": {"storage": "archive", "path": "alice/"}}}
    path = write(files, {"archive": STORE}, users)
    text = path.read_text()

    def with_home(home: object, **more: object) -> Path:
        path.write_text(text + yaml.safe_dump({"anonymous": {"home": home, **more}}))
        return path

    configuration = load.load(with_home(place, quota={"files": 5}))
    assert configuration.anonymous is not None
    assert configuration.anonymous.settings.home == "s3:archive/public"
    homes = configuration.users.homes
    assert (homes.with_quota, "s3:archive/public" in homes.all) == ({"s3:archive/public"}, True)
    assert not any(each.startswith("s3:") for each in (*homes.outermost, *homes.parents))
    for home, expected in (
        ({**place, "storage": "archiv"}, "anonymous.home: there is no store “archiv”. Did you mean archive?"),
        ({**place, "path": "/public"}, "anonymous.home.path: “/public” starts with /."),
        ({**place, "paht": "x"}, "anonymous.home.paht: unknown key. Did you mean path?"),
        (
            {**place, "path": "alice/in"},
            "s3:archive/alice/in and s3:archive/alice, the home of a user, are the same or lie",
        ),
        ({**place, "path": ""}, "the home of a user, are the same or lie in each other. Choose a separate path."),
        ([1], "anonymous.home: [1] is neither a directory nor a place in a store."),
        (None, "anonymous.home: "),
    ):
        (fault,) = faults(with_home(home))
        assert expected in fault
        assert re.match("ftpsd.yaml:[1-9]", fault)


HOMES: list[tuple[Any, str]] = [
    ({"storage": "archiv", "path": "x/"}, "users.alice.home: there is no store “archiv”. Did you mean archive?"),
    ({"storage": "{user}", "path": "x/"}, "users.alice.home: there is no store “{user}”. Write one of: archive."),
    ({"storage": "archive"}, "users.alice.home.path: is missing. Add path."),
    ({"path": "x/"}, "users.alice.home.storage: is missing. Add storage."),
    ({"storage": "archive", "path": "/x"}, "users.alice.home.path: “/x” starts with /. Write “x”"),
    ({"storage": "archive", "path": "../x"}, "users.alice.home.path: “../x” is not a path in a store."),
    ({"storage": "archive", "path": "x", "bucket": 1}, "users.alice.home.bucket: unknown key."),
    ({"storage": 1, "path": "x"}, "users.alice.home.storage: 1 is not a string."),
    ([1], "users.alice.home: [1] is neither a directory nor a place in a store."),
]


@pytest.mark.parametrize(("home", "expected"), HOMES)
def test_faults_of_homes(files: Path, home: Any, expected: str) -> None:
    """Each mistake in a home is one fault."""
    users = {"alice": {"home": home}, "bob": {"home": {"storage": "archive", "path": "b"}}}
    (fault,) = faults(write(files, {"archive": STORE}, users))
    assert expected in fault


@pytest.mark.parametrize(("folder", "expected"), [
    ({"storage": "archiv", "path": "x/"}, "folders./old.storage: there is no store “archiv”. Did you mean archive?"),
    ({"storage": "archive", "path": "/x"}, "folders./old.path: “/x” starts with /. Write “x”"),
])  # fmt: skip
@pytest.mark.parametrize("where", ["user", "top", "group"])
def test_faults_of_folders(files: Path, folder: Any, expected: str, where: str) -> None:
    """Each mistake in a folder is one fault, wherever the folder stands."""
    section = {"folders": {"/old": folder}}
    user = {"home": "home", **(section if where == "user" else {})}
    sections = {"user": {}, "top": section, "group": {"groups": {"staff": section}}}[where]
    (fault,) = faults(write(files, {"archive": STORE}, {"alice": user}, **sections))
    assert expected in fault


def test_places_that_lie_in_each_other(files: Path) -> None:
    """A folder in a counted home is a fault in a store, too, and a name that only begins alike is none."""
    home = {"storage": "archive", "path": "alice"}
    folders = {"/in": {"storage": "archive", "path": "alice/in"}, "/beside": {"storage": "archive", "path": "alice2"}}
    user = {"home": home, "folders": folders, "quota": {"files": 5}}
    (fault,) = faults(write(files, {"archive": STORE}, {"alice": user}))
    assert "s3:archive/alice/in and s3:archive/alice lie in each other" in fault
    whole = {"home": {"storage": "archive", "path": ""}, "folders": folders, "quota": {"files": 5}}
    assert len(faults(write(files, {"archive": STORE}, {"alice": whole}))) == 2


def test_a_relative_home_that_looks_like_a_place(files: Path) -> None:
    """A home that is a string is a directory, whatever its name."""
    (files / "s3:archive").mkdir()
    configuration = load.load(write(files, {"archive": STORE}, {"alice": {"home": "s3:archive"}}))
    assert settings_of("alice", configuration).home == os.path.realpath(files / "s3:archive")


def test_records_of_other_sources(files: Path) -> None:
    """Users of SQL, LDAP and web servers can have homes in stores; an unknown store is a fault of the record."""
    configuration = load.load(
        write(files, {"archive": STORE}, {}, defaults={"home": {"storage": "archive", "path": "{user}"}})
    )
    build = configuration.builder.build
    assert build("alice", {}).home == "s3:archive/alice"
    folder: Any = {"/x": {"storage": "archive", "path": "x"}}
    user = build("bob", {"home": {"storage": "archive", "path": "b/"}, "folders": folder})
    assert (user.home, user.folders["x",].path) == ("s3:archive/b", "s3:archive/x")
    for home in ({"storage": "cold", "path": ""}, {"storage": "archive", "path": "a/../b"}):
        with pytest.raises(InvalidRecord):
            build("carol", {"home": dict(home)})
    with pytest.raises(InvalidRecord, match="does not lie below"):
        build("dan", {"home": "s3:archive/b"})
    with pytest.raises(InvalidRecord, match="not a valid user name"):
        build("../dan", {})


def test_boto3_is_needed(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3, or with one that is too old, the fault names the packages; without stores nobody imports it."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    (fault,) = faults(write(files, {"a": STORE}))
    assert "storage: needs the Python module boto3" in fault
    assert "pip install 'ftpsd[s3]', or apt install python3-boto3" in fault
    load.load(write(files, {}, {"alice": {"home": "home"}}))
    old = type(sys)("boto3")
    old.__version__ = "1.9.253"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "boto3", old)
    (fault,) = faults(write(files, {"a": STORE}))
    assert "boto3 1.9.253 is older than 1.26" in fault


def test_checksums_that_other_stores_refuse_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 sends checksums only where they are required. The administrator may let it check those of answers."""
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_supported")
    boto.import_boto3()
    assert os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"
    assert os.environ["AWS_RESPONSE_CHECKSUM_VALIDATION"] == "when_supported"


def test_files_of_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox permits the files that boto3 reads, also those that variables name."""
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/x")
    assert boto.files() == ["/home/x/.aws/credentials", "/home/x/.aws/config"]
    monkeypatch.setenv("AWS_CA_BUNDLE", "/etc/ssl/own.pem")
    assert "/etc/ssl/own.pem" in boto.files()


def test_plain_http_is_a_warning(files: Path) -> None:
    """Files that go through the network unencrypted are worth a warning; those to this machine are not."""
    stores = {"a": {**STORE, "endpoint": "http://s3.example.org"}, "b": {**STORE, "endpoint": "http://127.0.0.1:9000"}}
    found = [each.problem for each in load.warnings(load.load(write(files, stores)), 0.0)]
    assert [each for each in found if "unencrypted" in each] == ["files go to http://s3.example.org unencrypted"]
