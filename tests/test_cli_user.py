"""`ftpsd user`: what an administrator types, and what clients and the next command see then."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest
import yaml

from ftpsd.accounts import hashes
from ftpsd.cli.admin_client import AdminClient
from ftpsd.cli.main import main
from ftpsd.config import load
from ftpsd.limits.bans import tables
from ftpsd.protocol.permissions import PROFILES
from ftpsd.system.state import FILE, State
from tests.daemon import PATIENCE, Daemon, ftpsd
from tests.disks import SmallDisk, read_only
from tests.ftpclient import FtpClient

Make = Callable[..., Daemon]

Capture = pytest.CaptureFixture[str]

#: The hash of "secret", which costs nothing to make.
HASH = "password=$5$rounds=1000$ftpsdtests$geSfdgweKkmpcWZrZnH5w.qser4CUVtgBW1FBbYAKH."


@pytest.fixture
def daemon(make_daemon: Make) -> Daemon:
    """A configuration in which bob is in users.yaml, and homes are below `homes`. The daemon does not run."""
    made = make_daemon(start=False, users={"bob": {}})
    text = made.users_file.read_text()
    made.users_file.write_text(f"# mine\ndefaults: {{home: 'homes/{{user}}'}}\n{text}")
    made.users_file.chmod(0o640)
    return made


def user(daemon: Daemon, action: str, *arguments: str) -> int:
    """Run `ftpsd user` in this process; return the exit status."""
    return main(["user", action, "-c", str(daemon.config), *arguments])


def command(daemon: Daemon, *arguments: str) -> list[str]:
    """The command line of `ftpsd user`, for a process of its own."""
    return ftpsd("user", arguments[0], "-c", str(daemon.config), *arguments[1:])


def files(daemon: Daemon) -> dict[str, bytes]:
    """All files of users, by name, hidden ones included."""
    directory = daemon.directory / "users.d"
    return {path.name: path.read_bytes() for path in directory.iterdir()} if directory.exists() else {}


def keys(daemon: Daemon, name: str) -> dict[str, object]:
    """The keys in a user's file."""
    found: dict[str, object] = yaml.safe_load(files(daemon)[f"{name}.yaml"])
    return found


def log_in(daemon: Daemon, name: str, password: str) -> str:
    """The reply to the password."""
    with FtpClient(daemon) as client:
        client.start_tls()
        client.expect("331", f"USER {name}")
        return client.command(f"PASS {password}".encode("utf-8", "surrogateescape"))[:3]


def test_the_own_folders_of_a_user(daemon: Daemon, capsys: Capture) -> None:
    """`add` and `set` make the own folders of a user, also if the home is in a store; `remove` names what it keeps."""
    daemon.settings["storage"] = {"cloud": {"type": "s3", "bucket": "partners"}}
    text = daemon.users_file.read_text()
    daemon.write()
    folders = "groups:\n  cloud:\n    home: {storage: cloud, path: '{user}/'}\n"
    folders += "    folders: {/own: {path: 'own/{user}'}}\n"
    folders += "  team:\n    folders: {/own: {path: 'own/{user}'}}\n"
    daemon.users_file.write_text(folders + text.replace("groups: {}\n", ""))
    assert user(daemon, "add", "eve", "--group", "cloud", "--generate") == 0, capsys.readouterr()
    assert (daemon.directory / "own" / "eve").is_dir()
    assert user(daemon, "add", "alice", "--generate") == 0
    assert not (daemon.directory / "own" / "alice").exists()
    assert user(daemon, "set", "alice", "--group", "team") == 0, capsys.readouterr()
    assert (daemon.directory / "own" / "alice").is_dir()
    capsys.readouterr()
    assert user(daemon, "remove", "alice", "--delete-home", "--yes") == 0
    assert f"The folder {daemon.directory}/own/alice is kept." in capsys.readouterr().out


def test_from_the_first_user_to_the_last(daemon: Daemon, capsys: Capture) -> None:
    """One command adds a user who can log in and upload; passwd, set, disable, enable and remove do what they say."""
    daemon.start()
    assert user(daemon, "add", "alice", "--generate") == 0
    told = capsys.readouterr().out
    password = told.partition("The password is: ")[2].split()[0]
    assert password not in str(files(daemon)) and "SIGHUP" in told
    daemon.reload()
    curl = ["curl", "-sS", "--ssl-reqd", "--cacert", str(daemon.certificate), "-u", f"alice:{password}"]
    url = f"ftp://127.0.0.1:{daemon.port}/"
    subprocess.run([*curl, "-T", str(daemon.config), url], check=True, timeout=PATIENCE)
    assert (daemon.home() / "ftpsd.yaml").exists()

    given = subprocess.run(
        command(daemon, "passwd", "alice", "--password-stdin"), input=b"p\xe4ss\n", capture_output=True, timeout=60
    )
    assert given.returncode == 0 and b"new password" in given.stdout
    assert user(daemon, "set", "alice", "--permissions", "read-only", "--set", "limits.sessions=1") == 0
    daemon.reload()
    with FtpClient(daemon) as client:
        client.start_tls()
        client.expect("331", "USER alice")
        client.expect("230", b"PASS p\xe4ss")
        client.expect("550", "DELE ftpsd.yaml")
        assert log_in(daemon, "alice", "p\udce4ss") == "421"

    assert user(daemon, "disable", "alice") == 0
    daemon.reload()
    assert log_in(daemon, "alice", "p\udce4ss") == "530"
    assert user(daemon, "enable", "alice") == 0
    daemon.reload()
    assert log_in(daemon, "alice", "p\udce4ss") == "230"
    assert user(daemon, "remove", "alice") == 0
    assert "is kept" in capsys.readouterr().out and (daemon.home() / "ftpsd.yaml").exists()
    daemon.reload()
    assert log_in(daemon, "alice", "p\udce4ss") == "530"
    assert log_in(daemon, "bob", "secret") == "230"


def test_owner_and_mode(daemon: Daemon) -> None:
    """Files have the owner and the mode of users.yaml; the directory and homes are closed to others."""
    daemon.users_file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(daemon.users_file, 12345, 23456)
    assert user(daemon, "add", "alice", "--set", HASH) == 0
    expected = daemon.users_file.stat()
    for path, mode in ((daemon.directory / "users.d" / "alice.yaml", 0o640), (daemon.directory / "users.d", 0o750)):
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (expected.st_uid, expected.st_gid)
        assert stat.S_IMODE(found.st_mode) == mode
    assert stat.S_IMODE(daemon.home().stat().st_mode) == 0o750


def test_every_key_can_be_set(daemon: Daemon) -> None:
    """`--set` sets each key with a YAML value, `--unset` removes it, and the rest of the file stays as it is."""
    settings = {
        "quota.bytes": "10G",
        "quota.files": "null",
        "paths./in a.b": "[list, upload]",
        "networks.allow": "[192.0.2.0/24]",
        "expires": "2031-01-31 18:00",
        "hours": '["Mon-Fri 08:00-18:00"]',
        "names": '{deny: ["*.exe"], hide: []}',
        "umask": '"027"',
        "tls.data_session": "allow",
        "limits": "{sessions: 5, upload_rate: 64K}",
        "enabled": "false",
        "home": "homes/bob",
        "permissions": "upload-only",
        "password": HASH.partition("=")[2],
    }
    assert (
        user(daemon, "add", "alice", *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")))
        == 0
    )
    found = load.load(daemon.config).users.users.get("alice")
    assert found is not None and found.settings.home == str(daemon.home("bob"))
    assert (found.settings.quota.bytes, found.settings.umask, found.settings.limits.sessions) == (10 << 30, 0o27, 5)
    assert user(daemon, "set", "alice", "--unset", "limits.sessions", "--unset", "hours", "--set", "umask=null") == 0
    after = keys(daemon, "alice")
    assert (after["limits"], after["umask"], "hours" in after) == ({"upload_rate": "64K"}, None, False)
    assert after["paths"] == {"/in a.b": ["list", "upload"]}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "limits.sessions=0"], "users.d/alice.yaml:4: limits.sessions: 0 is too small. Write 1"),
        (["--set", "colour=red"], "users.d/alice.yaml:3: colour: unknown key. Write one of: "),
        (["--set", "quota.byte=1"], "quota.byte: unknown key. Did you mean bytes?"),
        (["--set", "permissions=[fly]"], "permissions"),
        (["--set", "umask=022"], "umask: 18 is a number, not a umask."),
        (["--set", "expires=yesterday"], "expires"),
        (["--set", "home=null"], "needs a home"),
        (["--set", "enabled"], "is not KEY=VALUE"),
        (["--set", "hours=[a"], "--set hours:1: not valid YAML"),
        (["--set", "hours=&a [*a]"], "--set hours: the file is nested too deeply"),
        (["--set", 'banner="\\0"'], "NUL"),
        (["--set", "password=secret"], "password: is not a supported password hash"),
        (["--permissions", "read-write,fly"], "permissions"),
        (["--home", "/proc/nothing/here"], "/proc/nothing"),
    ],
)
def test_bad_values(daemon: Daemon, capsys: Capture, arguments: list[str], told: str) -> None:
    """A value that cannot be used is reported as by `ftpsd check`, and nothing is changed."""
    word = [] if "password" in arguments[-1] else ["--set", HASH]
    assert user(daemon, "add", "alice", *word, *arguments) in (1, 2)
    assert told in capsys.readouterr().err
    assert files(daemon) == {} and not daemon.home().exists()


def test_bad_names(daemon: Daemon, capsys: Capture) -> None:
    """A name that can be no file is refused with a sentence by each command, and touches no file."""
    assert user(daemon, "add", "alice", "--set", HASH) == 0
    before = files(daemon)
    outside = daemon.directory / "outside.yaml"
    outside.write_text("{}\n")
    names = ["../outside", "..", ".", ".hidden", "", "a/b", "/etc/passwd", "a\0b", "a\nb", "\udcff", " a", "a" * 251]
    for name in names:
        for action in (
            ["add", "--generate"],
            ["passwd", "--generate"],
            ["enable"],
            ["remove", "--delete-home", "--yes"],
        ):
            assert user(daemon, action[0], *action[1:], "--", name) == 2, name
            assert "the name" in capsys.readouterr().err
    for name, reason in (("alice", "already"), ("bob", "already"), ("ALICE", "only in case"), ("Bob", "only in case")):
        assert user(daemon, "add", name, "--generate") == 1
        assert reason in capsys.readouterr().err
    for name in ("carol", "Alice"):
        assert user(daemon, "passwd", name, "--generate") == 1
        assert f"there is no user {name}" in capsys.readouterr().err
    assert files(daemon) == before and outside.read_text() == "{}\n"


def test_the_administrator_s_file_is_never_changed(daemon: Daemon, capsys: Capture) -> None:
    """A user in users.yaml is not changed; the answer names the line."""
    before = daemon.users_file.read_bytes()
    line = 1 + before.decode().splitlines().index("  bob:")
    for action in (["passwd", "--generate"], ["set", "--set", "umask=null"], ["disable"], ["remove"]):
        assert user(daemon, action[0], "bob", *action[1:]) == 1
        assert f"bob is in {daemon.users_file}:{line}" in capsys.readouterr().err
    assert daemon.users_file.read_bytes() == before


def test_many_commands_at_once(daemon: Daemon) -> None:
    """Commands at the same moment lose nothing: each change is there, and one name is added once."""
    assert user(daemon, "add", "alice", "--set", HASH) == 0
    running = [
        subprocess.Popen(command(daemon, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for words in (
            ("set", "alice", "--set", "limits.sessions=3"),
            ("set", "alice", "--set", "quota.files=7"),
            ("add", "carol", "--set", HASH),
            ("add", "carol", "--set", HASH),
            ("add", "dave", "--set", HASH),
        )
    ]
    statuses = [process.wait(PATIENCE) for process in running]
    assert sorted(statuses[:2] + statuses[4:]) == [0, 0, 0] and sorted(statuses[2:4]) == [0, 1]
    assert keys(daemon, "alice").keys() == {"password", "limits", "quota"}
    assert sorted(files(daemon)) == ["alice.yaml", "carol.yaml", "dave.yaml"]


@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_killed_while_it_writes(daemon: Daemon, call: str) -> None:
    """A command that is killed leaves the old file or the new one, and nothing that breaks a reload."""
    assert user(daemon, "add", "alice", "--set", HASH) == 0
    before = files(daemon)
    killed = f"import os, signal; os.{call} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
    script = killed + "from ftpsd.cli.main import main; main()"
    words = command(daemon, "set", "alice", "--set", "umask=null")
    done = subprocess.run([sys.executable, "-c", script, *words[3:]], timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL
    left = files(daemon)
    assert left.items() > before.items() and len(load.load(daemon.config).users.users) == 2
    assert user(daemon, "set", "alice", "--set", "umask=null") == 0
    assert list(files(daemon)) == ["alice.yaml"]


def test_a_full_disk(daemon: Daemon) -> None:
    """On a full disk the command says so, and the old file is still there."""
    disk = SmallDisk(daemon.directory / "users.d", 8192)
    add = " ".join(f"'{word}'" for word in command(daemon, "add", "alice", "--set", HASH))
    grow = " ".join(f"'{word}'" for word in command(daemon, "set", "alice", "--set", f"names.deny=[{'x' * 9000}]"))
    script = f"{add} >&2 && {{ {grow}; echo $?; ls -A {disk.directory}; grep -c rounds {disk.directory}/alice.yaml; }}"
    done = subprocess.run([*disk.prefix, "sh", "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.split() == ["1", "alice.yaml", "1"]
    assert "users.d/alice.yaml: no space left on device" in done.stderr


def test_a_read_only_directory(daemon: Daemon) -> None:
    """In a directory that cannot be written the command says so, and makes no home."""
    directory = daemon.directory / "users.d"
    directory.mkdir(mode=0o750)
    words = [*read_only(directory), *command(daemon, "add", "alice", "--set", HASH)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and "users.d/alice.yaml: read-only file system" in done.stderr
    assert "Traceback" not in done.stderr and not daemon.home().exists()


def test_no_link_is_followed(daemon: Daemon, capsys: Capture) -> None:
    """A home is neither made nor deleted through a symbolic link, at any place of its path."""
    target = daemon.directory / "target"
    (target / "inside").mkdir(parents=True)
    (daemon.directory / "homes").mkdir(exist_ok=True)
    daemon.home().symlink_to(target)
    for arguments in ([], ["--home", str(daemon.home() / "new")], ["--home", str(daemon.home() / "new/er")]):
        assert user(daemon, "add", "alice", "--set", HASH, *arguments) == 1
        assert f"{daemon.home()} is a symbolic link: name the directory itself ({target}" in capsys.readouterr().err
    assert list(target.iterdir()) == [target / "inside"] and files(daemon) == {}
    daemon.home().unlink()
    assert user(daemon, "add", "alice", "--set", HASH) == 0
    daemon.home().rmdir()
    daemon.home().symlink_to(target)
    assert user(daemon, "remove", "alice", "--delete-home", "--yes") == 1
    assert (target / "inside").exists()


def test_a_home_is_deleted_only_if_it_is_nobody_else_s(daemon: Daemon, capsys: Capture) -> None:
    """`--delete-home` asks first, and keeps homes that hold those of others or the configuration."""
    homes = {"alice": daemon.home("bob"), "carol": daemon.home("bob").parent, "dave": daemon.directory, "eve": None}
    for name, home in homes.items():
        assert user(daemon, "add", name, "--set", HASH, *(["--home", str(home)] if home else [])) == 0
        link = daemon.home("eve") / "link"
    (daemon.home("bob") / "file").write_text("kept")
    link.symlink_to(daemon.home("bob"))
    for name in homes:
        assert user(daemon, "remove", name, "--delete-home") == 2  # no terminal
        assert user(daemon, "remove", name, "--delete-home", "--yes") == (0 if name == "eve" else 1)
    assert (daemon.home("bob") / "file").read_text() == "kept" and not daemon.home("eve").exists()
    assert capsys.readouterr().err.count("is kept: it contains") == 3


def test_a_fault_elsewhere_prevents_no_change(daemon: Daemon, capsys: Capture) -> None:
    """A broken file of one user can be corrected or removed while others have faults; the command says what is left."""
    for name in ("alice", "carol", "dave"):
        assert user(daemon, "add", name, "--set", HASH) == 0
    daemon.home("carol").rmdir()
    (daemon.directory / "users.d" / "dave.yaml").write_text("[")
    assert user(daemon, "set", "alice", "--set", "limits.sessions=0") == 1
    assert "limits.sessions" in capsys.readouterr().err
    for arguments in (["set", "alice", "--set", "limits.sessions=2"], ["remove", "dave"]):
        assert user(daemon, *arguments) == 0
        assert "other faults" in capsys.readouterr().out
    assert user(daemon, "remove", "carol") == 0
    assert "other faults" not in capsys.readouterr().out


def test_list_and_show(make_daemon: Make, tmp_path: Path, capsys: Capture) -> None:
    """`list` and `show` print the home, last login, quota usage and bans, as lines and as JSON, but no hash."""
    (tmp_path / "state").mkdir(mode=0o700)
    settings = {"state": {"directory": str(tmp_path / "state")}, "bans": {"attempts": 1, "allow": []}}
    daemon = make_daemon(settings, start=False, users={"bob": {}})
    assert user(daemon, "list", "--json") == 0 and user(daemon, "show", "alice") == 1
    assert "does not exist: no daemon has run" in capsys.readouterr().err
    home = ["--home", str(daemon.home())]
    assert user(daemon, "add", "alice", "--set", HASH, *home, "--set", "quota={bytes: 10M, files: 100}") == 0
    (daemon.home() / "file").write_bytes(bytes(2048))
    daemon.start()
    assert log_in(daemon, "alice", "secret") == "230"
    daemon.stop()
    with closing(State(tmp_path / "state" / FILE)) as state:
        state.execute(tables.SAVE_BAN, "site", "2001:db8::/48 alice", time.time() + 100, 100.0)
    capsys.readouterr()
    assert user(daemon, "list") == 0
    alice, bob = capsys.readouterr().out.splitlines()[1:]
    assert re.fullmatch(rf"alice +banned +{date.today()} [0-9:]{{8}} +2.0 KiB of 10.0 MiB, 1 of 100 files +/.*", alice)
    assert re.fullmatch(r"bob +enabled +- +- +/.*homes/bob", bob)
    assert user(daemon, "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert user(daemon, "show", "alice", "--json") == 0
    text = capsys.readouterr().out
    shown = json.loads(text)
    assert "rounds" not in text and shown["settings"]["permissions"] == sorted(PROFILES["read-write"])
    del shown["settings"], shown["origins"]
    assert shown == listed[0] and shown["usage"] == {"bytes": 2048, "files": 1}
    assert (shown["last_address"], shown["bans"][0]["kind"]) == ("127.0.0.1", "site")
    assert (listed[1]["file"], listed[1]["last_login"]) == (str(daemon.users_file), None)
    assert user(daemon, "show", "alice") == 0
    assert "last login" in capsys.readouterr().out


def test_where_settings_come_from(make_daemon: Make, capsys: Capture) -> None:
    """`show` names the default, `ftpsd.yaml`, the defaults, the group or the user that decides, each with file and line."""
    daemon = make_daemon(
        {"limits": {"sessions_per_user": 7}},
        users={"bob": {}},
        groups={"staff": {"names": {"deny": ["*.exe"]}, "umask": "027", "shared": {"quota": {"bytes": "1K"}}}},
        start=False,
    )
    (daemon.directory / "groups.d").mkdir()
    (daemon.directory / "groups.d" / "scanners.yaml").write_text(
        "permissions: upload-only\nnames:\n  deny: ['*.php']\n"
    )
    home = ["--home", str(daemon.home()), "--group", "staff", "--group", "scanners"]
    assert user(daemon, "add", "alice", "--set", HASH, *home, "--set", "limits.transfers=3") == 0
    capsys.readouterr()
    assert user(daemon, "show", "alice") == 0
    rows = {key: value for key, _, value in (line.partition(" ") for line in capsys.readouterr().out.splitlines())}
    files = daemon.directory
    assert rows["permissions"].split(maxsplit=1)[1] == f"group scanners ({files}/groups.d/scanners.yaml:1)"
    assert re.fullmatch(rf' +"027" +group staff \({daemon.users_file}:\d+\)', rows["umask"])
    assert rows["names.deny"].endswith(f", group scanners ({files}/groups.d/scanners.yaml:3)")
    assert '["*.exe", "*.php"]' in rows["names.deny"]
    assert re.fullmatch(rf" +7 +ftpsd.yaml \({daemon.config}:\d+\)", rows["limits.sessions"])
    assert re.fullmatch(rf" +3 +user \({files}/users.d/alice.yaml:\d+\)", rows["limits.transfers"])
    assert rows["quota.bytes"].split() == ["null", "default"]
    assert rows["shared.quota.bytes"].split() == ["1024", "group", "staff,", "for", "all", "members", "together"]
    assert "password" not in rows
    assert user(daemon, "show", "alice", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["origins"]["limits.transfers"][0]["layer"] == "user"
    assert shown["settings"]["groups"] == ["staff", "scanners"]


def test_groups_of_a_user(daemon: Daemon, capsys: Capture) -> None:
    """`--group` sets all groups of a user; one that does not exist is a fault, and the home may come from a group."""
    daemon.groups = {"staff": {"home": str(daemon.directory / "homes" / "staff-{user}")}, "other": {}}
    daemon.write()
    assert user(daemon, "add", "alice", "--set", HASH, "--group", "staff") == 0
    assert (daemon.directory / "homes" / "staff-alice").is_dir()
    assert user(daemon, "set", "alice", "--group", "stuff") == 1
    assert "there is no group stuff. Did you mean staff?" in capsys.readouterr().err
    assert user(daemon, "set", "alice", "--group", "staff", "--group", "other") == 0
    assert "groups:\n- staff\n- other\n" in (daemon.directory / "users.d" / "alice.yaml").read_text()


def test_results_in_json(daemon: Daemon, capsys: Capture) -> None:
    """Each change prints a JSON object with what was done, and with a password that was generated."""
    assert user(daemon, "add", "alice", "--generate", "--json", "--home", str(daemon.home())) == 0
    added = json.loads(capsys.readouterr().out)
    assert (added["name"], added["loaded"]) == ("alice", False)
    assert added["file"] == str(daemon.directory / "users.d" / "alice.yaml")
    assert user(daemon, "passwd", "alice", "--generate", "--json") == 0
    changed = json.loads(capsys.readouterr().out)
    assert len(changed["password"]) > 15 and changed["password"] != added["password"]
    assert user(daemon, "add", "carol", "--set", HASH, "--json", "--home", str(daemon.home("carol"))) == 0
    assert "password" not in json.loads(capsys.readouterr().out)
    home = daemon.home("carol")
    for words, note in (
        (["set", "carol", "--set", "limits.sessions=5"], "carol is changed."),
        (["disable", "carol"], "carol can no longer log in; running sessions continue."),
        (["enable", "carol"], "carol may log in again."),
        (["remove", "carol", "--delete-home", "--yes"], "carol is removed. Running sessions continue."),
    ):
        assert user(daemon, *words, "--json") == 0
        done = json.loads(capsys.readouterr().out)
        assert (done["name"], done["loaded"], done["notes"][0]) == ("carol", False, note)
    assert done["notes"][1:] == [f"{home} is deleted."] and not home.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to hide a directory from the daemon")
def test_what_only_the_daemon_refuses_is_undone(make_daemon: Make, capsys: Capture, tmp_path: Path) -> None:
    """A change is undone that the command finds good and the daemon does not: its file, and the home that it made."""
    daemon = make_daemon({"admin": {"socket": "admin.sock"}, "sandbox": {"landlock": "off"}}, start=False)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    script = f'mount -t tmpfs none "{hidden}" && exec "$@"'
    daemon.start(prefix=("unshare", "-m", "--propagation", "private", "sh", "-c", script, "-"))
    assert user(daemon, "add", "carol", "--set", HASH, "--home", str(hidden / "carol")) == 1
    told = capsys.readouterr().err
    assert "carol.yaml" in told and "hidden/carol is not a directory" in told
    assert "the daemon cannot use it, so nothing was changed" in told
    assert not (daemon.directory / "users.d/carol.yaml").exists()
    assert not (hidden / "carol").exists()
    assert user(daemon, "add", "carol", "--set", HASH, "--home", str(daemon.home("carol"))) == 0
    before = (daemon.directory / "users.d/carol.yaml").read_text()
    assert user(daemon, "set", "carol", "--home", str(hidden)) == 0  # it is there for both
    (hidden / "other").mkdir()
    changed = (daemon.directory / "users.d/carol.yaml").read_text()
    assert user(daemon, "set", "carol", "--home", str(hidden / "other")) == 1
    assert (daemon.directory / "users.d/carol.yaml").read_text() == changed != before
    assert (hidden / "other").is_dir()  # the command has not made it
    assert log_in(daemon, "carol", "secret") == "230"


def test_the_daemon_loads_changes(make_daemon: Make, capsys: Capture) -> None:
    """With an admin socket, a change is loaded when the command ends; one that the daemon cannot load is undone."""
    daemon = make_daemon({"admin": {"socket": "admin.sock"}}, users={"bob": {}})
    home = ["--home", str(daemon.home())]
    assert user(daemon, "add", "alice", "--set", HASH, *home) == 0
    assert "The daemon has loaded it." in capsys.readouterr().out
    assert log_in(daemon, "alice", "secret") == "230"
    daemon.wait_for_log("PASS .*: 230")  # the event reaches the supervisor of several processes a little later
    shown = AdminClient(daemon.directory / "admin.sock").get("users/alice")
    assert isinstance(shown, dict) and str(shown["last_login"]).startswith("20")
    assert user(daemon, "disable", "alice") == 0
    assert log_in(daemon, "alice", "secret") == "530"
    outside = daemon.directory.parent / "outside"
    assert user(daemon, "add", "carol", "--set", HASH, "--home", str(outside / "carol")) == 0
    told = capsys.readouterr().out
    if "Restart the daemon" in told or "systemctl restart" in told:  # Landlock is on
        assert "outside of the sandbox" in told
    assert user(daemon, "remove", "carol") == 0
    daemon.home("bob").rmdir()
    assert user(daemon, "enable", "alice") == 1
    told = capsys.readouterr().err
    assert "users.bob.home" in told and "it is stored, but the daemon cannot load it" in told
    daemon.home("bob").mkdir()
    assert user(daemon, "set", "alice", "--permissions", "read-only") == 0
    assert log_in(daemon, "alice", "secret") == "230"


def test_the_password_is_asked_for(daemon: Daemon) -> None:
    """On a terminal the password is asked for twice, and not shown; two different ones are refused."""
    for name, answers, status in (("alice", b"secret 1\nsecret 1\n", 0), ("carol", b"one\ntwo\n", 1)):
        pid, terminal = pty.fork()
        if pid == 0:
            words = command(daemon, "add", name)
            os.execv(words[0], words)
        shown, sent, end = b"", 0, time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                shown += os.read(terminal, 1024)
            except OSError:
                break
            if shown.lower().count(b"password: ") > sent:
                line = answers.split(b"\n")[sent]
                os.write(terminal, line + b"\n")
                sent += 1
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
        assert b"secret" not in shown and b"one" not in shown
    assert hashes.verify("secret 1", str(keys(daemon, "alice")["password"]))
    assert "carol.yaml" not in files(daemon)
