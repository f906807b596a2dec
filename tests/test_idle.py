"""The time for which a session may be silent."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.conftest import PLAIN
from tests.daemon import Daemon, merge
from tests.hostile import BYTES, ends, open_transfer, plain_login

#: Seconds of a transfer, with an idle time of three. In the second case the timer expires once while it runs.
DURATIONS = pytest.mark.parametrize("duration", [2.4, 5.5])


@DURATIONS
def test_the_idle_time_begins_with_a_reply(make_daemon: Callable[..., Daemon], duration: float) -> None:
    """After each reply a session has its whole idle time, however long the command took; then it is ended."""
    with plain_login(make_daemon(merge(PLAIN, {"timeouts": {"idle": 3}}))) as client:
        with open_transfer(client, "STOR slow") as data:
            time.sleep(duration)
            data.sendall(BYTES[:1000])
        assert client.reply().startswith("226 ")
        time.sleep(1.2)
        client.expect(200, "NOOP")
        assert ends(client).startswith("421 ")
