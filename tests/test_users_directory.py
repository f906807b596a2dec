"""`users.d`: one file for each user beside users.yaml."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ftpsd.config import load
from ftpsd.config.disk_watch import DiskWatch
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.users.directory import UserFiles
from ftpsd.config.users.loader import load_users
from tests.daemon import SECRET, Daemon
from tests.ftpclient import FtpClient, secured

Make = Callable[..., Daemon]


@pytest.fixture
def daemon(make_daemon: Make) -> Daemon:
    """A configuration with the user bob in users.yaml, and an empty users.d."""
    made = make_daemon(start=False, users={"bob": {}})
    text = made.users_file.read_text()
    made.users_file.write_text(f"defaults: {{home: 'homes/{{user}}', quota: {{files: 7}}}}\n{text}")
    (made.directory / "users.d").mkdir(mode=0o750)
    made.users_file.chmod(0o640)
    return made


def put(daemon: Daemon, name: str, text: str = f'password: "{SECRET}"\n') -> Path:
    """A file in users.d, and the home."""
    path = daemon.directory / "users.d" / f"{name}.yaml"
    path.write_text(text)
    path.chmod(0o640)
    daemon.home(name).mkdir(parents=True, exist_ok=True)
    return path


def faults(daemon: Daemon) -> list[str]:
    """The faults of the configuration."""
    try:
        load.load(daemon.config)
    except InvalidConfiguration as error:
        return [str(fault) for fault in error.faults]
    return []


def test_both_serve(daemon: Daemon) -> None:
    """Users of both places log in, and the defaults in users.yaml hold for both; a reload sees new files."""
    put(daemon, "alice")
    daemon.start()
    for name in ("alice", "bob"):
        with secured(daemon, name) as client:
            assert "Files: 0 of 7," in client.command("SITE QUOTA")
    put(daemon, "carol")
    (daemon.directory / "users.d" / "alice.yaml").unlink()
    daemon.reload()
    with secured(daemon, "carol"), FtpClient(daemon) as client:
        client.start_tls()
        client.expect("331", "USER alice")
        client.expect("530", "PASS secret")


def test_other_names(daemon: Daemon) -> None:
    """What editors and package managers leave breaks nothing; a name that is meant to be a user's is a fault."""
    directory = daemon.directory / "users.d"
    for name in ("alice.yaml~", ".alice.yaml.swp", "#alice.yaml#", "4913", "alice.yaml.dpkg-new", "README"):
        (directory / name).write_text("users: [")
    (directory / ".#alice.yaml").symlink_to("root@host.1234:5678")
    (directory / "old").mkdir()
    assert faults(daemon) == []
    put(daemon, "alice").rename(directory / "alice.yml")
    assert faults(daemon) == [
        f"{directory}/alice.yml: is not read, since its name does not end in .yaml. Rename it to alice.yaml."
    ]
    (directory / "alice.yml").unlink()
    (directory / "-rf.yaml").write_text("")
    (directory / "a\nb.yaml").write_text("")
    (directory / os.fsdecode(b"\xff.yaml")).write_text("")
    told = faults(daemon)
    assert len(told) == 3 and all("the name of the user" in line and "Rename the file." in line for line in told)


def test_faults_name_the_file_and_the_line(daemon: Daemon) -> None:
    """A fault is in the file that has it, once, also a fault of the defaults; a name in both names both lines."""
    alice = put(daemon, "alice", f'password: "{SECRET}"\n\nlimits:\n  sessions: 0\n')
    bob = put(daemon, "bob")
    carol = put(daemon, "carol", f'password: "{SECRET}"\ncolour: red\nhome: nowhere\n')
    dave = put(daemon, "dave", "")
    told = faults(daemon)
    line = 1 + daemon.users_file.read_text().splitlines().index("  bob:")
    assert [each.partition(". ")[0] for each in told] == [
        f"{alice}:4: limits.sessions: 0 is too small",
        f"{bob}:1: the user bob is in {daemon.users_file}:{line}, too",
        f"{carol}:2: colour: unknown key",
        f"{dave}: the file is empty",
    ]
    for path in (alice, bob, carol, dave):
        path.unlink()
    put(daemon, "alice")
    daemon.users_file.write_text(daemon.users_file.read_text().replace("files: 7", "files: 7, bytes: lots"))
    (told_of_defaults,) = faults(daemon)
    assert told_of_defaults.startswith(f"{daemon.users_file}:1: defaults.quota.bytes: ")


@pytest.mark.parametrize("kind", ["directory", "pipe", "link", "large", "text"])
def test_files_that_cannot_be_read(daemon: Daemon, kind: str) -> None:
    """A directory, a pipe, a dangling link, a huge file and nonsense are faults of that file, found at once."""
    path = daemon.directory / "users.d" / "alice.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("nowhere")
    elif kind == "large":
        path.write_bytes(b"# " + bytes([120]) * (1 << 21))
    else:
        path.write_text("- 1\n")
    started = time.monotonic()
    (told,) = faults(daemon)
    assert told.startswith(str(path)) and time.monotonic() - started < 5


def test_the_directory(daemon: Daemon) -> None:
    """`users.directory` names another one. It must exist; the default one need not. Homes are relative to users.yaml."""
    (daemon.directory / "users.d").rmdir()
    assert faults(daemon) == []
    daemon.settings["users"] = {"directory": "people"}
    daemon.config.write_text(yaml.safe_dump(daemon.settings))
    (told,) = faults(daemon)
    assert f"users.directory: {daemon.directory}/people is not a directory. Create it: install -d" in told
    (daemon.directory / "people").mkdir(mode=0o750)
    (daemon.directory / "people" / "alice.yaml").write_text(f'password: "{SECRET}"\nhome: homes/bob\n')
    alice = load.load(daemon.config).users.users.get("alice")
    assert alice is not None and alice.settings.home == str(daemon.home("bob"))


def test_who_else_may_write_or_read(daemon: Daemon) -> None:
    """A file or directory that everyone may write to is a fault, hashes that everyone may read are a warning."""
    alice, directory = put(daemon, "alice"), daemon.directory / "users.d"
    put(daemon, "carol").chmod(0o644)
    alice.chmod(0o644)
    warnings = [each for each in load.warnings(load.load(daemon.config), 0.0) if each.key == ("users", "directory")]
    assert [(each.problem, each.remedy) for each in warnings] == [
        (
            f"everyone on this machine may read the password hashes in {alice} and 1 other files in its directory",
            f"chmod o-r {directory}/*.yaml",
        )
    ]
    for path, mode in ((alice, 0o642), (directory, 0o1777)):
        path.chmod(mode)
        (told,) = faults(daemon)
        command = told.partition("Run: ")[2].partition(" (or")[0]
        subprocess.run(command, shell=True, check=True)
        assert faults(daemon) == []


def test_thousands_of_files(tmp_path: Path) -> None:
    """5,000 files are loaded within seconds, with the faults of each."""
    (tmp_path / "users.yaml").write_text("defaults: {home: '.'}\n")
    (tmp_path / "users.d").mkdir()
    for number in range(5000):
        text = f'password: "{SECRET}"\nlimits: {{sessions: {number % 7 + 1}}}\n'
        (tmp_path / "users.d" / f"user{number}.yaml").write_text(text)
    (tmp_path / "users.d" / "user77.yaml").write_text("password: secret\n")
    started = time.process_time()
    files = UserFiles(tmp_path / "users.d", DiskWatch())
    loaded = load_users(tmp_path / "users.yaml", True, files=files)
    store, found = loaded.store, loaded.faults
    assert time.process_time() - started < 10
    assert store is not None and len(store.users) == 5000
    assert [Path(each.file).name for each in found] == ["user77.yaml"]
