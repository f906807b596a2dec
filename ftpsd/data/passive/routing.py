"""Decides to which session a connection to a shared port belongs: Router.

A connection can only belong to a session that waited for it when it arrived, since clients learn the port from the
announcement. So its candidates are the sessions that were announced before it, and it has fewer the longer it waits:

    one candidate at its arrival          it is given to this session
    several, and TLS                      the ClientHello tells which, by the ticket or session ID that it offers
    all others had their connection       it is given to the last one that has none
    otherwise                             it stays until it tells more; the sessions are told about the doubt, or
                                          (`ambiguous: oldest`) it is given to the one that waits longest

A candidate that leaves without a connection (ABOR, an error, a deadline) may have been the owner. Its connection must
not be given to the one that remains, so from then on only the ClientHello tells (`Arrival.orphan`). That holds for a
connection that arrives a little later, too (`Departed`).

OpenSSL begins all tickets of a context with the same name, and each session has a context of its own. So a name that
has been found once leads to the session directly. Until then, the ClientHello is tried on the contexts of the
candidates, in a worker thread, with turns for others after each. A name is never learned from an announcement of the
client: only a ticket that a context has accepted teaches it.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from functools import partial
from weakref import WeakKeyDictionary, WeakValueDictionary

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.data.handshakes import Security
from ftpsd.data.passive.arrivals import Arrival, Arrivals, Changes
from ftpsd.data.passive.peers import ClientPeers, Origin
from ftpsd.data.passive.places import Place, Places
from ftpsd.protocol.addresses import network
from ftpsd.protocol.replies import Refusal
from ftpsd.system.tls.client_hello import ClientHello, parse
from ftpsd.system.tls.trial import would_resume
from ftpsd.system.worker_threads import WorkerThreads

log = Logger(namespace="ftpsd")

#: Connections of one origin that are kept, beside two for each of its sessions that wait.
SPARE = 8


class KnownTickets:
    """The sessions whose tickets have been seen, by the names of their tickets (see `client_hello`)."""

    def __init__(self) -> None:
        self._sessions: WeakValueDictionary[bytes, ClientPeers] = WeakValueDictionary()
        #: The context of the tickets of each session that is known.
        self._contexts: WeakKeyDictionary[ClientPeers, object] = WeakKeyDictionary()

    def find(self, names: tuple[bytes, ...]) -> ClientPeers | None:
        """Return the session that has made one of the tickets, if it is known."""
        return next(filter(None, map(self._sessions.get, names)), None)

    def knows(self, session: ClientPeers, context: object) -> bool:
        """Return whether the name of this session's tickets is known."""
        return self._contexts.get(session) is context

    def learn(self, arrival: Arrival, session: ClientPeers, context: object) -> None:
        """The context of a session has accepted what an arrival offers."""
        if len(arrival.hello.names) == 1:  # with several, it is not known which one
            self._sessions[arrival.hello.names[0]] = session
            if arrival.hello.has_tickets:
                self._contexts[session] = context


class Router:
    """Gives the connections of one shared port to the sessions that wait there. For the reactor thread."""

    def __init__(self, workers: WorkerThreads, places: Places, known: KnownTickets) -> None:
        self._workers = workers
        self._places = places
        self._known = known
        self.arrivals = Arrivals()
        self._changes = Changes(self.arrivals, workers.call_in_reactor, self._judge_origin)

    def add(self, arrival: Arrival, candidates: list[Place]) -> None:
        """Keep a new connection until its session is known. `candidates` are the sessions that may own it.

        They are looked up again: a worker thread may have closed one of these places before the connection was added,
        and such an end is noted only from then on.
        """
        self.arrivals.add(arrival, 2 * len(candidates) + SPARE)
        arrival.watch()
        self.judge(arrival)

    def judge(self, arrival: Arrival) -> None:
        """Decide about a connection, after something new is known of it or of the sessions that may own it."""
        candidates = self._places.of(arrival.origin, arrival.number)
        if not candidates:
            self._drop(arrival)
        elif len(candidates) == 1 and _is_sure(self._places, arrival, candidates[0]):
            session = self._known.find(arrival.hello.names)
            if session is not None and session is not candidates[0].session:
                self._give_to_owner(arrival, session, candidates)  # it has a connection already: was that its own?
            elif arrival.kind != "silent" or security_of(candidates[0]) is None:
                self._deliver(arrival, candidates[0])
        elif arrival.kind == "TLS" and not arrival.tried:
            self._find_by_hello(arrival, candidates)
        else:
            self._choose(arrival, candidates)

    def left(self, place: Place) -> None:
        """A session does not wait any more."""
        self._changes.note(place, math.inf if place.served else place.number)

    def _judge_origin(self, origin: Origin, first: float, first_lost: float) -> None:
        """Decide again about connections of a host, after some of its sessions have left or got a connection.

        `first` is the number of the first of these places, and `first_lost` that of the first one that left without a
        connection. Connections that came before have other owners.
        """
        unserved = [each for each in self._places.of(origin) if not each.served]
        several = math.inf if len(unserved) < 2 or unserved[0].guess else unserved[1].number
        for arrival in self.arrivals.of(origin):
            arrival.orphan |= arrival.number > first_lost
            is_being_tried = arrival.kind == "TLS" and not arrival.tried
            undecided = is_being_tried or (arrival.kind == "silent" and arrival.number > several)
            if arrival.number > first and not undecided and arrival in self.arrivals:
                self.judge(arrival)

    def sweep(self, before: float) -> None:
        """Close the connections that have waited since before a time, and tell sessions about the others."""
        for origin in self.arrivals.origins():
            newest = 0
            for arrival in self.arrivals.of(origin):
                if arrival.since < before:
                    self._drop(arrival)
                elif arrival.kind == "silent":
                    newest = arrival.number
            for each in self._places.of(origin, newest):
                if security_of(each) is None:
                    each.suspect()

    def close(self) -> None:
        """Close all connections that were not given to a session."""
        for arrival in self.arrivals:
            self.arrivals.drop(arrival)

    def _drop(self, arrival: Arrival) -> None:
        self.arrivals.drop(arrival)
        if not self.arrivals.of(arrival.origin):
            self._places.settle(arrival.origin)

    def _deliver(self, arrival: Arrival, place: Place) -> None:
        self.arrivals.remove(arrival)
        was_served = place.served
        if not was_served:
            place.session.arrival = arrival.number
        place.deliver(arrival.release())
        if not was_served:
            self._changes.note(place)
        if not self.arrivals.of(arrival.origin):
            self._places.settle(arrival.origin)

    # --- by the ClientHello ------------------------------------------------------------------------

    def _find_by_hello(self, arrival: Arrival, candidates: list[Place]) -> None:
        session = self._known.find(arrival.hello.names)
        if session is not None:
            self._give_to_owner(arrival, session, candidates)
            return
        secured = [(each, security) for each in candidates if (security := security_of(each)) is not None]
        if arrival.hello.has_tickets:
            secured = [each for each in secured if not self._known.knows(each[0].session, each[1].context)]
        if not (arrival.hello.names and secured):
            self._not_found(arrival)
            return
        queue = self._workers.queue(network(arrival.origin[0]))
        queue.run(_first_to_resume(arrival.data, secured)).addCallbacks(
            partial(self._tried, arrival), partial(self._failed, arrival)
        )

    def _give_to_owner(self, arrival: Arrival, session: ClientPeers, candidates: list[Place]) -> None:
        """Give a connection to the session that it resumes, or close it if that needs none.

        Then another session may be meant: some clients mix up the TLS sessions of their control connections.
        """
        owner = next((each for each in candidates if each.session is session), None)
        if owner is not None and not (owner.served or session.mixes):
            self._deliver(arrival, owner)
            return
        needs_none = owner is None or owner.served
        waiting = [each for each in candidates if not each.served and security_of(each) is not None]
        related = [each for each in waiting if each.session is not session and each.session.owner() == session.owner()]
        if owner is None or (not needs_none and session.mixes and any(each.session.mixes for each in related)):
            self._drop(arrival)
        else:
            self._deliver(arrival, owner)
        if needs_none:
            _mixed_up(session, related)
            others = [each for each in candidates if security_of(each) is not None and each not in related]
            if [each for each in others if each.suspect()] or related:
                log.info(
                    "a data connection of {peer} resumes the TLS session of a control connection that waits for none: "
                    "its client may mix them up",
                    peer=str(arrival.origin[0]),
                )
        elif owner is not None and not owner.served:
            for each in [owner, *related]:
                each.suspect(mixed=True)

    def _tried(self, arrival: Arrival, found: tuple[Place, Security] | None) -> None:
        if found is not None:
            self._known.learn(arrival, found[0].session, found[1].context)
        if arrival not in self.arrivals:
            return  # it was closed meanwhile
        if found is not None and not found[0].closed:
            candidates = self._places.of(arrival.origin, arrival.number)
            self._give_to_owner(arrival, found[0].session, candidates)
        else:
            self._not_found(arrival)

    def _not_found(self, arrival: Arrival) -> None:
        arrival.tried = True
        self.judge(arrival)

    def _failed(self, arrival: Arrival, failure: Failure) -> None:
        if not failure.check(Refusal):
            log.failure("internal error: a data connection cannot be given to its session", failure)
        self._drop(arrival)

    # --- without it --------------------------------------------------------------------------------

    def _choose(self, arrival: Arrival, candidates: list[Place]) -> None:
        """Decide about a connection that does not tell its session."""
        wants_tls = arrival.kind == "TLS"
        if arrival.kind == "silent" and any(security_of(each) is not None for each in candidates):
            # Clients begin TLS only after the reply to their transfer command. A session in plain text has to wait
            # for that, too: this may be the connection of the other one.
            return
        suspects = [each for each in candidates if (security_of(each) is not None) == wants_tls]
        possible = [each for each in suspects if not each.served]
        if len(possible) == 1 and _is_sure(self._places, arrival, possible[0]):
            self._deliver(arrival, possible[0])
            return
        guessed = next(filter(_may_guess, possible), None)
        if guessed is not None:
            self._deliver(arrival, guessed)
            return
        for each in suspects:
            each.suspect()
        if arrival.kind == "ended" or (arrival.kind != "silent" and not possible):
            self._drop(arrival)


def resumes(
    workers: WorkerThreads, places: list[Place], known: KnownTickets, origin: Origin, hello: bytes
) -> Deferred[bool]:
    """Return whether a ClientHello resumes the session of one of these places."""
    parsed = parse(hello)
    session = known.find(parsed.names) if isinstance(parsed, ClientHello) else None
    if session is not None:
        return succeed(any(each.session is session for each in places))
    secured = [(each, security) for each in places if (security := security_of(each)) is not None]
    queue = workers.queue(network(origin[0]))
    return queue.run(_first_to_resume(hello, secured)).addCallback(lambda found: found is not None)


def _mixed_up(session: ClientPeers, related: list[Place]) -> None:
    """Note that a client may have mixed up the TLS sessions of its control connections.

    A connection resumes the TLS session of `session`, which has one already. So one of the two may belong to a session
    of `related`, of the same user. If one of these waited when the first connection came, that transfer is ended.
    """
    for each in related:
        each.session.mixes = session.mixes = True
        each.suspect(mixed=True)
    if any(each.number < session.arrival for each in related):
        session.cut()


def _is_sure(places: Places, arrival: Arrival, place: Place) -> bool:
    """Return whether a connection certainly belongs to the only place that may own it."""
    return not (arrival.orphan or places.others_left(arrival.origin, place, arrival.number))


def security_of(place: Place) -> Security | None:
    """Return how the session's next data connection is protected; None: plain text."""
    try:
        return place.session.protection()
    except Refusal:  # the client has said PROT P, and there is no TLS on its control connection
        return None


def _may_guess(place: Place) -> bool:
    security = security_of(place)
    return place.guess and not (security is not None and security.must_resume)


def _first_to_resume(
    hello: bytes, candidates: list[tuple[Place, Security]]
) -> Generator[None, None, tuple[Place, Security] | None]:
    for place, security in candidates:
        if not place.closed and would_resume(security.context, hello):
            return place, security
        yield None
    return None
