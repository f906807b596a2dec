"""Many users: a start and a reload are fast, and do not disturb sessions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftpsd.config.users import loader
from ftpsd.config.users.loader import load_users
from tests.conftest import PLAIN
from tests.daemon import PATIENCE, SECRET, Daemon, merge
from tests.ftpclient import FtpClient
from tests.hostile import MIB, wait_until

MANY = 20_000


#: A default: each user has a folder.
OWN_FOLDER = "folders: {/own: {path: 'own/{user}'}}"


def users(path: Path, count: int, more: str = "", default: str = "") -> None:
    """Write users to a file: `count` of them, who share a home. Each has a hash of its own.

    The last user has `more` keys, and all have a `default`.
    """
    lines = [
        f'  user{number}:\n    password: "$5$rounds=1000$salt{number}$geSfdgweKkmpcWZrZnH5w.qser4CUVtgBW1FBbYAKH."\n'
        for number in range(count)
    ]
    with path.open("w") as file:
        file.write(f"defaults: {{home: {path.parent}/homes/alice, {default}}}\nusers:\n")
        file.write(f'  alice: {{password: "{SECRET}"}}\n')
        file.writelines(lines)
        file.write(more)


def test_a_reload_longer_than_the_deadline_of_a_disk_call(make_daemon: Callable[..., Daemon]) -> None:
    """A reload of many users takes longer than `stalled: 1`.

    It is completed all the same, a session is answered meanwhile, and the log blames no disk.
    """
    daemon = make_daemon(merge(PLAIN, {"timeouts": {"stalled": 1}}))
    users(daemon.users_file, 3 * MANY)
    with FtpClient(daemon).login() as client:
        os.kill(daemon.pid, signal.SIGHUP)
        longest, answers, deadline = 0.0, 0, time.monotonic() + 5 * PATIENCE
        while "reloaded" not in daemon.log:
            assert time.monotonic() < deadline
            began = time.monotonic()
            client.expect(200, "NOOP")
            longest, answers = max(longest, time.monotonic() - began), answers + 1
            time.sleep(0.005)
        assert "reloaded: new sessions" in daemon.log
        assert "does not respond" not in daemon.log
        assert answers > 20 and longest < 1
    with FtpClient(daemon) as client:
        client.login()


def test_a_session_during_reloads(make_daemon: Callable[..., Daemon]) -> None:
    """While many users with homes, quotas and a group of their own are loaded twice, a session gets its replies.

    The machine may be busy: only the slowest tenth of the replies may take longer than 250 ms.
    """
    daemon = make_daemon(PLAIN)
    homes = daemon.users_file.parent / "homes"
    for number in range(MANY):
        (homes / f"user{number}").mkdir()
    users(daemon.users_file, MANY)
    text = daemon.users_file.read_text().replace(
        f"{homes}/alice}}", f"'{homes}/{{user}}', quota: {{bytes: 1G}}, groups: [staff]}}"
    )
    daemon.users_file.write_text(f"groups: {{staff: {{shared: {{quota: {{bytes: 10G}}}}}}}}\n{text}")
    with FtpClient(daemon).login() as client:
        for reloads in (1, 2):
            os.kill(daemon.pid, signal.SIGHUP)
            times, deadline = [], time.monotonic() + 5 * PATIENCE
            while Path.read_text(daemon.log_file).count("reloaded: new sessions") < reloads:  # not `log`: it waits
                assert time.monotonic() < deadline, daemon.log
                began = time.monotonic()
                client.expect(200, "NOOP")
                times.append(time.monotonic() - began)
                time.sleep(0.005)
            assert sorted(times)[len(times) * 9 // 10] < 0.25
    with FtpClient(daemon) as client:
        client.login()


def test_open_sessions_keep_no_old_users(make_daemon: Callable[..., Daemon]) -> None:
    """A session that is older than many reloads keeps the limits of its user, but not the users of its time."""
    daemon = make_daemon(PLAIN, start=False)
    deep = daemon.users_file.parent.joinpath(*(4 * [200 * "d"]), "homes")  # each load takes more than 20 MB
    (deep / "alice").mkdir(parents=True)

    def write(size: int) -> None:
        users(daemon.users_file, MANY)
        text = daemon.users_file.read_text().replace(f"{daemon.users_file.parent}/homes", str(deep))
        daemon.users_file.write_text(text.replace("{password", f"{{quota: {{bytes: {size}}}, password", 1))

    write(1000)
    with ExitStack() as sessions:
        daemon.start()
        opened = []
        for reloads in range(5):
            write(1000 + reloads)
            daemon.reload()
            client = sessions.enter_context(FtpClient(daemon))
            opened += [client.login()] if reloads % 2 else [client]
            if reloads == 1:
                before = daemon.memory()
        most = before + 40 * MIB * len(daemon.serving() or [daemon.pid])
        wait_until(lambda: daemon.memory() < most, f"memory below {most} bytes")
        opened[0].login()
        for client in opened[:2]:
            assert client.upload("STOR f", bytes(1000)).startswith("226 ")
            assert client.upload("STOR g", bytes(100)).startswith("552 ")
            client.expect(250, "DELE f")


def test_what_many_users_have_in_common(tmp_path: Path) -> None:
    """Each of many users has a password and home of its own, and the settings that the file gives."""
    (tmp_path / "homes" / "alice").mkdir(parents=True)
    users(tmp_path / "users.yaml", 1000, "    quota: {files: 5}\n    permissions: read-only\n")
    loaded = load_users(tmp_path / "users.yaml", True)
    store = loaded.store
    assert store is not None and not loaded.faults
    assert len(store.users) == 1001 and len(set(store.users.names())) == 1001
    settings = {name: user.settings for name in store.users.names() if (user := store.users.get(name)) is not None}
    assert settings["user7"].password.split("$")[3] == "salt7"  # type: ignore[union-attr]
    assert settings["user7"].quota.files is None
    assert settings["user999"].quota.files == 5
    assert "upload" in settings["user7"].permissions and "upload" not in settings["user999"].permissions
    assert store.homes.all == store.homes.with_quota == {str(tmp_path / "homes" / "alice")}
    assert "nobody" not in store.users and store.users.get("nobody") is None


def test_folders_of_many_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each user has an own folder and quota; what users have in common is converted once, not for each of them."""
    for number in range(300):
        (tmp_path / "own" / f"user{number}").mkdir(parents=True)
    (tmp_path / "homes" / "alice").mkdir(parents=True)
    (tmp_path / "own" / "alice").mkdir(parents=True)
    users(tmp_path / "users.yaml", 300, "    quota: {files: 5}\n", OWN_FOLDER)
    converted: list[object] = []
    convert = loader.structure
    monkeypatch.setattr(loader, "structure", lambda *arguments: converted.append(arguments) or convert(*arguments))
    loaded = load_users(tmp_path / "users.yaml", True)
    assert loaded.store is not None and not loaded.faults
    for name, files in (("user7", None), ("user299", 5)):
        user = loaded.store.users.get(name)
        assert user is not None and user.settings.quota.files == files
        assert user.settings.folders["own",].path == f"{tmp_path}/own/{name}"
    assert len(converted) < 10


def test_every_fault_of_a_user_with_a_folder(tmp_path: Path) -> None:
    """A folder that is missing is a fault of each user, beside those of the user's other settings."""
    (tmp_path / "homes" / "alice").mkdir(parents=True)
    users(tmp_path / "users.yaml", 2, "    tls: {data_session: require}\n", OWN_FOLDER)
    faults = load_users(tmp_path / "users.yaml", False).faults
    found = {fault.key for fault in faults}
    assert {f"users.{name}.folders./own.path" for name in ("alice", "user0", "user1")} <= found
    assert "users.user1.tls.data_session" in found


@pytest.mark.parametrize("at", [0, 500, 1999])
def test_a_fault_among_many_users(tmp_path: Path, at: int) -> None:
    """The line of one fault among many users is printed, and the lines of several with the same fault."""
    (tmp_path / "homes" / "alice").mkdir(parents=True)
    users(tmp_path / "users.yaml", 2000)
    text = (tmp_path / "users.yaml").read_text().replace(f"  user{at}:\n", f"  user{at}:\n    umask: 7\n")
    (tmp_path / "users.yaml").write_text(text + "    umask: 7\n" if at != 1999 else text)
    faults = load_users(tmp_path / "users.yaml", True).faults
    assert min(faults).key == f"users.user{at}.umask"
    assert min(fault.line for fault in faults) == 5 + 2 * at
    assert len(faults) == (1 if at == 1999 else 2)


@pytest.mark.process
def test_a_process_with_many_users_ends(tmp_path: Path) -> None:
    """A process that still has many users when the interpreter ends does end."""
    (tmp_path / "homes" / "alice").mkdir(parents=True)
    users(tmp_path / "users.yaml", MANY)
    load = f"from ftpsd.config.users.loader import load_users; kept = load_users(Path({str(tmp_path / 'users.yaml')!r}), True)"
    subprocess.run([sys.executable, "-c", f"from pathlib import Path; {load}"], check=True, timeout=60)
