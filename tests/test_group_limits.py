"""What the members of a group share: sessions, transfers, rates and a quota, as clients see them."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ftpsd.cli.admin_client import AdminClient
from ftpsd.cli.main import main
from ftpsd.config.settings import QuotaSettings
from ftpsd.limits.home_counts import Amount
from ftpsd.limits.local_home_counts import LocalHomeCounts
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.local.measure import DirectoryMeter
from ftpsd.storage.quota import Quotas
from tests.daemon import Daemon
from tests.ftpclient import FtpClient, secured
from tests.hostile import MIB, open_transfer, withstands
from tests.inprocess import DirectCalls
from tests.test_quota import available, counted, on_disk, try_upload

MakeDaemon = Callable[..., Daemon]

STAFF = {"groups": ["staff"]}


def with_group(make_daemon: MakeDaemon, **shared: Any) -> Daemon:
    """A daemon with Alice and Bob in a group that shares limits, and Carol in none."""
    return make_daemon(users={"alice": STAFF, "bob": STAFF, "carol": {}}, groups={"staff": {"shared": shared}})


# --- sessions, transfers, rates ------------------------------------------------------------------------


def test_sessions_of_a_group(make_daemon: MakeDaemon) -> None:
    """The session of a member beyond the limit gets 421, which names the group; others log in."""
    daemon = with_group(make_daemon, limits={"sessions": 2})
    with withstands(daemon):
        with secured(daemon, "alice"), secured(daemon, "bob"):
            with FtpClient(daemon) as client:
                client.start_tls()
                client.command("USER bob")
                assert re.match("421 Too many sessions of the group staff .limit: 2.", client.command("PASS secret"))
            with secured(daemon, "carol") as carol:
                carol.expect(200, "NOOP")
    assert "421" in daemon.log


def test_transfers_of_a_group(make_daemon: MakeDaemon) -> None:
    """The transfer of a member beyond the limit gets 450, and may begin when another one has ended."""
    daemon = with_group(make_daemon, limits={"transfers": 1})
    with withstands(daemon), secured(daemon, "alice") as alice, secured(daemon, "bob") as bob:
        connection = open_transfer(alice, "STOR f")
        bob.passive_port()
        assert "of the group staff (limit: 1)" in bob.expect(450, "STOR f")
        connection.unwrap()  # type: ignore[attr-defined]
        connection.close()
        assert alice.reply().startswith("226 ")
        assert bob.upload("STOR f", b"data").startswith("226 ")


def test_the_rate_of_a_group(make_daemon: MakeDaemon) -> None:
    """Uploads of two members together take as long as the rate demands; a third user is not slowed down."""
    daemon = with_group(make_daemon, limits={"upload_rate": MIB})
    with ThreadPoolExecutor(2) as pool, withstands(daemon):
        began = time.monotonic()
        with secured(daemon, "alice") as alice, secured(daemon, "bob") as bob, secured(daemon, "carol") as carol:
            sent = [pool.submit(client.upload, "STOR f", bytes(MIB)) for client in (alice, bob)]
            assert carol.upload("STOR f", bytes(8 * MIB)).startswith("226 ")
            assert not all(each.done() for each in sent)
            assert all(each.result().startswith("226 ") for each in sent)
        assert time.monotonic() - began > 1.5


def test_a_reload_that_changes_the_rate(make_daemon: MakeDaemon) -> None:
    """A running transfer and its session keep the rate; a new session has the new one."""
    daemon = with_group(make_daemon, limits={"upload_rate": MIB})
    with withstands(daemon), secured(daemon, "alice") as alice:
        connection = open_transfer(alice, "STOR f")
        connection.sendall(bytes(MIB // 2))
        daemon.groups["staff"]["shared"]["limits"]["upload_rate"] = "1G"
        daemon.write()
        daemon.reload()
        with secured(daemon, "bob") as bob:
            began = time.monotonic()
            assert bob.upload("STOR f", bytes(8 * MIB)).startswith("226 ")
            assert time.monotonic() - began < 6
        began = time.monotonic()
        connection.sendall(bytes(2 * MIB))
        connection.unwrap()  # type: ignore[attr-defined]
        connection.close()
        assert alice.reply().startswith("226 ")
        assert time.monotonic() - began > 1


# --- the quota -------------------------------------------------------------------------------------------


def test_the_quota_of_a_group(make_daemon: MakeDaemon) -> None:
    """What members hold counts together, from before the start, too; the reply, AVBL and SITE QUOTA name the group."""
    daemon = make_daemon(
        users={"alice": {**STAFF, "quota": {"bytes": 3 * MIB, "files": 100}}, "bob": STAFF, "carol": {}},
        groups={"staff": {"shared": {"quota": {"bytes": "2M", "files": 5}}}},
        start=False,
    )
    (daemon.home("bob") / "old").write_bytes(bytes(MIB))
    daemon.start()
    with withstands(daemon), secured(daemon, "alice") as alice, secured(daemon, "bob") as bob:
        assert available(alice) == available(bob) == MIB
        assert alice.upload("STOR f", bytes(MIB // 2)).startswith("226 ")
        reply = try_upload(bob, "STOR f", bytes(2 * MIB))
        assert re.fullmatch(r"552 Quota of the group staff exceeded: \S+ [KM]iB of 2\.0 MiB used\.", reply)
        assert counted(alice) == counted(bob) == (MIB + MIB // 2, 2)
        assert f"{MIB + MIB // 2} of {2 * MIB} of the group staff" in alice.expect(200, "SITE QUOTA")
        for name in "abc":
            alice.expect(257, f"MKD {name}")
        assert "Quota of the group staff exceeded: 5 of 5 files" in bob.expect(552, "MKD d")
        bob.expect(250, "DELE old")
        assert available(alice) == 3 * MIB // 2
        with secured(daemon, "carol") as carol:
            assert carol.upload("STOR f", bytes(4 * MIB)).startswith("226 ")
            assert "No quota" in carol.expect(200, "SITE QUOTA")


def test_the_nearest_limit(make_daemon: MakeDaemon) -> None:
    """Of the user's quota and that of the group, the one with less room counts and is shown."""
    daemon = make_daemon(
        users={"alice": {**STAFF, "quota": {"bytes": "1M"}}, "bob": STAFF},
        groups={"staff": {"shared": {"quota": {"bytes": "3M"}}}},
    )
    with withstands(daemon), secured(daemon, "alice") as alice, secured(daemon, "bob") as bob:
        assert available(alice) == MIB and available(bob) == 3 * MIB
        assert "group" not in alice.expect(200, "SITE QUOTA")
        assert try_upload(alice, "STOR f", bytes(2 * MIB)).startswith("552 Quota exceeded:")
        assert bob.upload("STOR f", bytes(5 * MIB // 2)).startswith("226 ")
        assert available(alice) == MIB // 2
        assert "of the group staff" in alice.expect(200, "SITE QUOTA")


def test_the_quota_is_exact_while_members_upload(make_daemon: MakeDaemon) -> None:
    """Many uploads of all members at the same time never exceed the quota, and the count is what the disks hold."""
    names = [f"user{number}" for number in range(8)]
    daemon = make_daemon(
        users={"alice": {}, **dict.fromkeys(names, STAFF)},
        groups={"staff": {"shared": {"quota": {"bytes": "4M", "files": 99}}}},
    )
    homes = [daemon.home(name) for name in names]
    stop, largest = threading.Event(), []

    def watch() -> None:
        while not stop.wait(0.005):
            try:
                largest.append(sum(on_disk(home)[0] for home in homes))
            except FileNotFoundError:
                continue  # a name has just changed

    def upload(name: str) -> list[str]:
        with secured(daemon, name) as client:
            return [try_upload(client, f"STOR f{turn}", bytes(MIB // 2 + 17)) for turn in range(3)]

    watcher = threading.Thread(target=watch)
    watcher.start()
    with withstands(daemon), ThreadPoolExecutor(8) as pool:
        replies = [reply for found in pool.map(upload, names) for reply in found]
        stop.set()
        watcher.join()
        complete = [reply for reply in replies if reply.startswith("226 ")]
        assert all(reply.startswith(("226 ", "552 Quota of the group staff")) for reply in replies), replies
        assert 1 <= len(complete) <= 7
        assert max(largest) <= 4 * MIB
        with secured(daemon, "user0") as client:
            held = [on_disk(home) for home in homes]
            assert counted(client) == (sum(size for size, _ in held), sum(number for _, number in held))


def test_a_member_and_a_stranger_in_one_home(make_daemon: MakeDaemon) -> None:
    """A home counts once, whoever writes there; who is not in the group is not refused."""
    daemon = make_daemon(
        users={"alice": STAFF, "bob": {**STAFF}, "carol": {}},
        groups={"staff": {"shared": {"quota": {"bytes": "1M", "files": 9}}}},
        start=False,
    )
    daemon.users["bob"] = {**STAFF, "home": str(daemon.home("alice"))}
    daemon.users["carol"] = {"home": str(daemon.home("alice"))}
    daemon.write()
    daemon.start()
    with withstands(daemon), secured(daemon, "alice") as alice, secured(daemon, "carol") as carol:
        assert alice.upload("STOR a", bytes(1000)).startswith("226 ")
        assert carol.upload("STOR c", bytes(2 * MIB)).startswith("226 ")
        assert counted(alice) == (2 * MIB + 1000, 2)
        assert try_upload(alice, "STOR b", b"x").startswith("552 Quota of the group staff exceeded")
        carol.expect(250, "DELE c")
        assert counted(alice) == (1000, 1)


def test_a_group_that_a_reload_removes(make_daemon: MakeDaemon) -> None:
    """Sessions that run keep the limits of a group that is gone; new sessions have none of them."""
    daemon = with_group(make_daemon, quota={"bytes": "1M"}, limits={"sessions": 2})
    with withstands(daemon), secured(daemon, "alice") as alice:
        assert alice.upload("STOR a", bytes(MIB // 2)).startswith("226 ")
        daemon.groups = {}
        daemon.users = {name: {} for name in daemon.users}
        daemon.write()
        daemon.reload()
        assert try_upload(alice, "STOR b", bytes(MIB)).startswith("552 Quota of the group staff exceeded")
        with secured(daemon, "bob") as bob, secured(daemon, "bob"), secured(daemon, "bob"):
            assert bob.upload("STOR b", bytes(2 * MIB)).startswith("226 ")
        daemon.groups = {"staff": {"shared": {"quota": {"bytes": "3M"}}}}
        daemon.users.update(alice=STAFF, bob=STAFF)
        daemon.write()
        daemon.reload()
        with secured(daemon, "bob") as bob:
            assert counted(bob)[0] == 2 * MIB + MIB // 2
            assert bob.upload("STOR c", bytes(MIB // 4)).startswith("226 ")


def test_a_member_who_leaves_the_group(make_daemon: MakeDaemon) -> None:
    """After a reload the home of a former member does not count, and that of a new one does."""
    daemon = with_group(make_daemon, quota={"bytes": "9M", "files": 9})
    for size, name in enumerate(("alice", "bob", "carol"), 1):
        (daemon.home(name) / "f").write_bytes(bytes(size * 1000))
    with withstands(daemon):
        with secured(daemon, "alice") as alice:
            assert counted(alice) == (3000, 2)
        daemon.users.update(bob={}, carol=STAFF)
        daemon.write()
        daemon.reload()
        with secured(daemon, "alice") as alice:
            assert counted(alice) == (4000, 2)


def test_500_homes_are_counted_at_the_first_login(make_daemon: MakeDaemon) -> None:
    """The first member who logs in waits until the homes of all members are counted; other users do not."""
    names = [f"user{number}" for number in range(500)]
    daemon = make_daemon(
        users={"alice": {}, **dict.fromkeys(names, STAFF)},
        groups={"staff": {"shared": {"quota": {"bytes": "1G", "files": 10_000}}}},
        start=False,
    )
    for name in names:
        for number in range(3):
            (daemon.home(name) / str(number)).write_bytes(b"x")
    daemon.start()
    with withstands(daemon), secured(daemon, "user7") as client:
        assert counted(client) == (1500, 1500)
        with secured(daemon, "user8") as other:
            assert counted(other) == (1500, 1500)


def test_the_admin_api_shows_groups(make_daemon: MakeDaemon) -> None:
    """`/v1/users/NAME` has the settings with those of the groups, and what their members use together."""
    daemon = make_daemon(
        {"admin": {"socket": "admin.sock"}},
        users={"alice": STAFF, "bob": STAFF},
        groups={"staff": {"umask": "027", "shared": {"quota": {"bytes": "1M"}, "limits": {"sessions": 9}}}},
    )
    api = AdminClient(daemon.directory / "admin.sock")
    with withstands(daemon):
        (before,) = shown_groups(api)
        assert (before["sessions"], before["usage"]) == (0, None)
        with secured(daemon, "alice") as alice, secured(daemon, "bob"):
            assert alice.upload("STOR f", bytes(1000)).startswith("226 ")
            (group,) = shown_groups(api)
            assert (group["name"], group["sessions"], group["limits"]["sessions"]) == ("staff", 2, 9)
            assert group["usage"] == {"bytes": 1000, "files": 1} and group["quota"]["bytes"] == MIB
    shown: Any = api.get("users/alice")
    assert shown["settings"]["umask"] == "027" and shown["settings"]["groups"] == ["staff"]


def test_the_commands_show_groups(make_daemon: MakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    """`status`, `user show` and `user list` show the limits of groups with what is used; without the daemon, the limits."""
    shared = {"quota": {"bytes": "1M", "files": 10}, "limits": {"sessions": 4, "upload_rate": "2M"}}
    daemon = make_daemon(
        {"admin": {"socket": "admin.sock"}},
        users={"alice": STAFF, "bob": STAFF, "carol": {}},
        groups={"staff": {"shared": shared}, "plain": {"umask": "027"}},
    )

    def lines(*words: str) -> list[str]:
        """Return the lines of a command about groups."""
        assert main([*words, "-c", str(daemon.config)]) == 0
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    with secured(daemon, "alice") as alice, secured(daemon, "bob"):
        assert alice.upload("STOR f", bytes(512 * 1024)).startswith("226 ")
        status, shown, listed = lines("status"), lines("user", "show", "alice"), lines("user", "list")
        found = json.loads("\n".join(lines("status", "--json")))["groups"]
    used = {
        "quota_bytes: 512.0 KiB of 1.0 MiB, 512.0 KiB left (50%)",
        "sessions: 2 of 4, 2 left (50%)",
        "quota_files: 1 of 10, 9 left (10%)",
        "upload_rate: 2.0 MiB/s",
    }
    at = next(number for number, line in enumerate(status) if line.startswith("groups "))
    assert {line.removeprefix("groups ") for line in status[at : at + 4]} == {f"staff {each}" for each in used}
    assert {f"group staff {each}" for each in used} <= set(shown)
    below = listed[listed.index("GROUP MEMBERS ALL MEMBERS TOGETHER") + 1 :]
    assert {line.removeprefix("staff 2 ") for line in below} == used
    (staff,) = found
    assert staff["name"] == "staff"
    assert {(each["name"], each["used"], each["limit"]) for each in staff["limits"]} == {
        ("quota_bytes", 512 * 1024, MIB),
        ("quota_files", 1, 10),
        ("sessions", 2, 4),
        ("upload_rate", None, 2 * MIB),
    }
    daemon.stop()
    shown = lines("user", "show", "alice")
    assert "group staff sessions: 4" in shown and "group staff quota_bytes: 1.0 MiB" in shown
    assert not any(line.startswith("group ") for line in lines("user", "show", "carol"))
    (bob,) = [each for each in json.loads("\n".join(lines("user", "list", "--json"))) if each["name"] == "bob"]
    assert {"name": "sessions", "used": None, "limit": 4} in bob["groups"][0]["limits"]


def shown_groups(api: AdminClient) -> list[Any]:
    """Return the groups of Alice."""
    shown: Any = api.get("users/alice")
    groups: list[Any] = shown["groups"]
    return groups


# --- counting, without a daemon --------------------------------------------------------------------------


class Broken(DirectoryMeter):
    """A meter that cannot read some homes."""

    def amounts(self, home: str, charged: Any) -> Iterator[Amount]:
        """Yield what a home holds."""
        if home.endswith("broken"):
            raise OSError(5, "Input/output error")
        if home.endswith("stuck"):
            raise Refusal(451, "Disk does not respond.")  # as worker threads do, when they give up waiting
        return super().amounts(home, charged)


@pytest.mark.quick
def test_a_home_that_cannot_be_read(tmp_path: Path) -> None:
    """A home that cannot be read keeps no member out and counts as empty; what is uploaded there later counts."""
    homes = {str(tmp_path / name) for name in ("broken", "good", "later", "stuck")}
    for home in homes:
        Path(home).mkdir()
        (Path(home) / "f").write_bytes(bytes(100))
    workers: Any = DirectCalls()
    quotas = Quotas(Clock(), workers, Broken(), LocalHomeCounts())
    quotas.keep(homes, homes, {"staff": homes})
    quota = finished(quotas.begin(str(tmp_path / "good"), QuotaSettings(), {"staff": QuotaSettings(bytes=1000)}))  # type: ignore[arg-type]
    assert quota.bytes().used == 200
    with pytest.raises(Refusal, match="does not respond"):
        finished(quotas.begin(str(tmp_path / "stuck"), QuotaSettings(), {"staff": QuotaSettings()}))
    with pytest.raises(OSError, match="Input/output"):
        finished(quotas.begin(str(tmp_path / "broken"), QuotaSettings(), {"staff": QuotaSettings()}))


def finished(coroutine: Any) -> Any:
    """Return what a coroutine returns that need not wait."""
    results: list[Any] = []
    failures: list[Any] = []
    Deferred.fromCoroutine(coroutine).addCallbacks(results.append, failures.append)
    if failures:
        failures[0].raiseException()
    return results[0]
