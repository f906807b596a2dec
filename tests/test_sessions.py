"""Login, limits and timeouts, by sessions without sockets (see `inprocess.py`)."""

from __future__ import annotations

import attrs
import pytest
from twisted.internet.defer import Deferred

from ftpsd.config.settings import BanSettings, Limits, Timeouts, UserLimits, UserNetworks, UserSettings
from tests.inprocess import Server

pytestmark = pytest.mark.quick


def test_a_login_that_takes_too_long() -> None:
    """A client that has not logged in within `timeouts.login` gets 421, however often it sends something."""
    server = Server(settings={"timeouts": Timeouts(login=60)})
    client = server.connect()
    client.heard()
    for _ in range(5):
        server.clock.advance(11)
        client.say("NOOP")
    assert not client.transport.disconnecting
    server.clock.advance(6)
    assert client.heard().startswith("421 ")
    assert client.transport.disconnecting


def test_a_login_that_is_still_checked() -> None:
    """If it is the daemon that needs longer than `timeouts.login`, the reply does not blame the client."""
    server = Server(settings={"timeouts": Timeouts(login=60)})
    server.users.delay = Deferred()
    client = server.connect()
    client.say("USER alice")
    assert not client.say("PASS secret")
    server.clock.advance(61)
    assert client.heard() == "421 Timeout: the login has taken too long. Goodbye.\r\n"


def test_an_idle_session_ends() -> None:
    """A session that sends nothing for `timeouts.idle` gets 421; each command restarts the timer."""
    server = Server(settings={"timeouts": Timeouts(idle=300)})
    client = server.connect().log_in()
    server.clock.advance(299)
    assert client.say("NOOP").startswith("200 ")
    server.clock.advance(299)
    assert not client.heard()
    server.clock.advance(2)
    assert client.heard().startswith("421 ")


def test_site_idle() -> None:
    """SITE IDLE shortens the time, and cannot make it longer than the configuration says."""
    server = Server(settings={"timeouts": Timeouts(idle=300)})
    client = server.connect().log_in()
    assert client.say("SITE IDLE 60").startswith("200 ")
    server.clock.advance(61)
    assert client.heard().startswith("421 ")
    other = server.connect().log_in()
    other.say("SITE IDLE 3000")
    server.clock.advance(301)
    assert other.heard().startswith("421 ")
    short = Server(settings={"timeouts": Timeouts(idle=20)})
    client = short.connect().log_in()
    assert client.say("SITE IDLE 5").rstrip() == "200 Idle timeout set to 20 seconds."
    short.clock.advance(21)
    assert client.heard().startswith("421 ")


def test_a_client_that_does_not_read_its_last_reply() -> None:
    """Ten seconds after the last reply the connection is closed, whether the client has read it or not."""
    server = Server()
    client = server.connect().log_in()
    assert client.say("QUIT").startswith("221 ")
    aborted: list[bool] = []
    client.transport.abortConnection = lambda: aborted.append(True)
    server.clock.advance(11)
    assert aborted


def test_wrong_passwords_end_the_session() -> None:
    """After `limits.login_failures` wrong passwords the session ends; an unknown user is answered like a known one."""
    server = Server(settings={"limits": Limits(login_failures=3)})
    client = server.connect()
    client.heard()
    answers = []
    for user in ("alice", "nobody"):
        assert client.say(f"USER {user}").startswith("331 ")
        answers.append(client.say("PASS wrong"))
    assert answers[0] == answers[1]
    assert answers[0].startswith("530 ")
    client.say("USER alice")
    client.say("PASS wrong")
    assert client.transport.disconnecting


def test_a_banned_address() -> None:
    """An address with `bans.attempts` failures gets 421 instead of a greeting; others are served; the ban ends."""
    server = Server(settings={"bans": BanSettings(attempts=3, duration=600, allow=())})
    guesser = server.connect("203.0.113.1")
    for _ in range(3):
        guesser.say("USER alice")
        guesser.say("PASS wrong")
    assert server.connect("203.0.113.1").heard().startswith("421 ")
    assert server.connect("203.0.113.2").heard().startswith("220 ")
    server.clock.advance(601)
    assert server.connect("203.0.113.1").log_in()


def test_sessions_of_an_address() -> None:
    """`limits.sessions_per_address` and `limits.sessions` count sessions that exist, not those that have ended."""
    server = Server(settings={"limits": Limits(sessions=3, sessions_per_address=2)})
    first, second = server.connect("203.0.113.1"), server.connect("203.0.113.1")
    assert server.connect("203.0.113.1").heard().startswith("421 ")
    assert server.connect("203.0.113.2").heard().startswith("220 ")
    assert server.connect("203.0.113.3").heard().startswith("421 ")
    first.leave()
    assert server.connect("203.0.113.1").heard().startswith("220 ")
    assert second.say("NOOP")


def test_sessions_of_a_user() -> None:
    """One session more than a user may have is refused with 421 after the right password."""
    users = {"alice": UserSettings(limits=UserLimits(sessions=1)), "bob": UserSettings()}
    server = Server(users=users)
    first = server.connect().log_in()
    second = server.connect()
    second.say("USER alice")
    assert second.say("PASS secret").startswith("421 ")
    server.connect().log_in("bob")
    first.leave()
    server.connect().log_in()


@pytest.mark.parametrize(
    "change", [{"enabled": False}, {"networks": UserNetworks(deny=())}, {"networks": UserNetworks(allow=())}]
)
def test_users_who_may_not_log_in(change: dict[str, object]) -> None:
    """The right password of a disabled user gets 530; empty lists of networks exclude nobody."""
    server = Server(users={"alice": attrs.evolve(UserSettings(), **change)})
    client = server.connect()
    client.say("USER alice")
    expected = "530 " if "enabled" in change else "230 "
    assert client.say("PASS secret").startswith(expected)


def test_replies_come_in_the_order_of_the_commands() -> None:
    """Each pipelined command gets one final reply, in order."""
    client = Server().connect().log_in()
    client.send(b"PWD\r\nNOOP\r\nXYZZY\r\nTYPE I\r\nCWD nowhere\r\nSYST\r\n")
    assert [line[:3] for line in client.heard().splitlines()] == ["257", "200", "500", "200", "550", "215"]


def test_uploads_and_downloads() -> None:
    """A stored file can be downloaded, listed and measured; without a data connection each of these gets 425."""
    client = Server().connect().log_in()
    assert client.say("STOR a").startswith("425 ")
    client.data.incoming.append(b"one\r\ntwo\r\n")
    client.say("PASV")
    client.say("TYPE A")
    assert client.say("STOR a").splitlines()[-1].startswith("226 ")
    client.say("TYPE I")
    assert client.say("SIZE a").startswith("213 8")
    client.say("PASV")
    assert client.say("RETR a").splitlines()[-1].startswith("226 ")
    assert client.data.outgoing == [b"one\ntwo\n"]


def test_a_logout_frees_the_session() -> None:
    """REIN ends the login: the user's session is free again, and every command needs a login."""
    users = {"alice": UserSettings(limits=UserLimits(sessions=1))}
    server = Server(users=users)
    client = server.connect().log_in()
    assert client.say("REIN").startswith("220 ")
    assert client.say("PWD").startswith("530 ")
    server.connect().log_in()


def test_a_flood_of_commands_waits() -> None:
    """A session that sends more than its rate is not read for a while, and nothing is lost."""
    server = Server(settings={"limits": Limits(commands_per_second=10)})
    client = server.connect().log_in()
    sent = 0
    while client.transport.producerState == "producing" and sent < 100:
        assert client.say("NOOP").startswith("200 ")
        sent += 1
    assert sent < 100
    server.clock.advance(5)
    assert client.transport.producerState == "producing"
