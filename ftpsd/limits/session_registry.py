"""Which sessions there are, and how many may be, in all and per address."""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from ftpsd.config.settings import Limits
from ftpsd.protocol.parsing import Address, network
from ftpsd.protocol.replies import Reply

#: Descriptors that the daemon asks for, if the system's hard limit lets it have so many.
DESCRIPTORS = 65536


def raise_descriptor_limit() -> None:
    """The usual soft limit of 1024 is for programs that call select(), and does not do for 2000 sessions."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _few_descriptors() -> bool:
    """Whether the last eighth of them is being used: that is kept for the sessions that there are."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        lowest = os.open("/", os.O_PATH | os.O_CLOEXEC)  # the kernel gives the lowest number that is free
    except OSError:
        return True
    os.close(lowest)
    return soft != resource.RLIM_INFINITY and lowest >= soft - soft // 8


class Dismissable(Protocol):
    """A session, as this file sees it."""

    def dismiss(self, reply: Reply, at_once: bool) -> None: ...


class Sessions:
    """All sessions. The limits are given with each question: they change on reload."""

    def __init__(self) -> None:
        self._all: set[Dismissable] = set()
        #: IPv6 by /64, as bans: a single host has that many addresses.
        self._by_network: Counter[str] = Counter()
        self._when_empty: Callable[[], object] | None = None
        #: Why no more sessions are let in; empty while they are.
        self.closed = ""

    def __len__(self) -> int:
        return len(self._all)

    def refusal(self, limits: Limits, client: Address) -> str | None:
        """Why one more session of this client is too many; None if it is not."""
        if self.closed:
            return self.closed
        if len(self._all) >= limits.sessions:
            return "Too many sessions. Try again later."
        if self._by_network.get(network(client), 0) >= limits.sessions_per_address:
            return "Too many sessions from your address. Try again later."
        if _few_descriptors():
            return "Too many open files. Try again later."
        return None

    def enter(self, client: Address, session: Dismissable) -> None:
        """A session begins."""
        self._all.add(session)
        self._by_network[network(client)] += 1

    def leave(self, client: Address, session: Dismissable) -> None:
        """A session ends."""
        self._all.discard(session)
        counted = network(client)
        self._by_network[counted] -= 1
        if not self._by_network[counted]:
            del self._by_network[counted]
        if not self._all and self._when_empty is not None:
            self._when_empty()

    def dismiss(self, reply: Reply, at_once: bool = False) -> None:
        """Ends all sessions with a reply: when their transfers are done, or at once."""
        for session in list(self._all):
            session.dismiss(reply, at_once)

    def when_empty(self, call: Callable[[], object]) -> None:
        """Calls back when the last session has ended, at once if there is none."""
        self._when_empty = call
        if not self._all:
            call()
