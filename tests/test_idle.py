"""The time for which a session may be silent."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import PLAIN
from tests.daemon import Daemon, merge
from tests.ftpclient import FtpClient
from tests.hostile import BYTES, ends, open_transfer, plain_login

#: The idle time in seconds.
IDLE = 3

#: Seconds of a transfer, with this idle time. In the second case the timer expires once while it runs.
DURATIONS = pytest.mark.parametrize("duration", [2.4, 5.5])


@DURATIONS
def test_the_idle_time_begins_with_a_reply(make_daemon: Callable[..., Daemon], duration: float) -> None:
    """After each reply a session has its whole idle time, however long the command took; then it is ended."""
    with plain_login(make_daemon(merge(PLAIN, {"timeouts": {"idle": IDLE}}))) as client:
        with open_transfer(client, "STOR slow") as data:
            time.sleep(duration)
            data.sendall(BYTES[:1000])
        assert client.reply().startswith("226 ")
        time.sleep(1.2)
        client.expect(200, "NOOP")
        assert ends(client).startswith("421 ")


def _refused(client: FtpClient) -> object:
    connection = client.connect_data()
    client.expect(550, "RETR nothing")
    return connection


def _aborted(client: FtpClient) -> object:
    connection = open_transfer(client, "STOR cut")
    time.sleep(IDLE + 0.5)
    client.send("ABOR")
    assert (client.reply()[:3], client.reply()[:3]) == ("426", "226")
    return connection


def _asked(client: FtpClient) -> object:
    with open_transfer(client, "STOR asked"):
        time.sleep(IDLE - 0.5)
        client.expect(213, "STAT")
        time.sleep(IDLE - 0.5)
    assert client.reply().startswith("226 ")
    return None


def _late(client: FtpClient) -> object:
    client.passive_port()
    client.expect(150, "LIST")
    return client.reply().startswith("425 ")


def _renaming(client: FtpClient) -> object:
    client.expect(257, "MKD old")
    return client.expect(350, "RNFR old")


def _logged_out(client: FtpClient) -> object:
    client.expect(220, "REIN")
    time.sleep(1)
    return client.login()


def _half_a_command(client: FtpClient) -> object:
    time.sleep(1)
    return client.send_raw(b"NOO")


#: What a client does last, and the seconds from then on for which the session lasts.
STATES: dict[str, tuple[Callable[[FtpClient], object], float]] = {
    "passive port": (FtpClient.passive_port, IDLE),
    "data connection": (FtpClient.connect_data, IDLE),
    "active mode": (lambda client: client.expect(200, "PORT 127,0,0,1,200,0"), IDLE),
    "refused transfer": (_refused, IDLE),
    "aborted transfer": (_aborted, IDLE),
    "nothing to abort": (lambda client: client.expect(226, "ABOR"), IDLE),
    "question during a transfer": (_asked, IDLE),
    "no data connection": (_late, IDLE),
    "restart offset": (lambda client: client.expect(350, "REST 5"), IDLE),
    "rename": (_renaming, IDLE),
    "error": (lambda client: client.expect(500, "XYZZY"), IDLE),
    "another login": (_logged_out, IDLE),
    "half a command": (_half_a_command, IDLE - 1),
}


def test_the_idle_time_in_every_state(make_daemon: Callable[..., Daemon]) -> None:
    """Whatever a client did last, it has its whole idle time after the reply; then it gets 421."""
    daemon = make_daemon(merge(PLAIN, {"timeouts": {"idle": IDLE, "data_connect": IDLE + 1}}))

    def seconds_left(state: str) -> float:
        with plain_login(daemon) as client:
            kept = STATES[state][0](client)
            began = time.monotonic()
            assert ends(client).startswith("421 Timeout: no command received."), state
            del kept
            return time.monotonic() - began

    with ThreadPoolExecutor(len(STATES)) as threads:
        lasted = dict(zip(STATES, threads.map(seconds_left, STATES), strict=True))
    # The daemon's clock starts a moment before the client has the reply.
    assert {state: left for state, left in lasted.items() if left < STATES[state][1] - 0.5} == {}
