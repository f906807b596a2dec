"""FtpsProtocol and FtpsFactory: the shim between Twisted's FTP frame and a session.

Of `twisted.protocols.ftp.FTP` the frame is kept: lines, timeouts, portal, factory. None of its
`ftp_*` methods is ever called: a verb from the wire is looked up in TABLE and never meets `getattr`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.protocols.ftp import FTP, FTPCmdError, FTPFactory
from twisted.python.failure import Failure

from ftpsd.commands import TABLE
from ftpsd.control.control_channel import Client
from ftpsd.control.scheduler import CONNECTION_COST, HANDSHAKE_COST, Party, Scheduler, Seat
from ftpsd.control.tls_layer import ControlConnection
from ftpsd.events.log import SessionLog, log
from ftpsd.events.log_budget import LogBudget
from ftpsd.limits.bans.policy import BANNED
from ftpsd.limits.session_registry import Sessions
from ftpsd.limits.token_bucket import CommandRate
from ftpsd.protocol import parsing
from ftpsd.protocol.command import Command
from ftpsd.protocol.command_queue import Turns
from ftpsd.protocol.parsing import Address, network
from ftpsd.protocol.replies import Refusal, Reply, SessionEnd, from_oserror
from ftpsd.protocol.session import Session, not_spoken
from ftpsd.snapshot import Generation
from ftpsd.system.reactor import Reactor

#: Seconds that a client has to read our last reply.
LAST_WORDS = 10

#: Errors in a row that end a session without a login.
MOST_ERRORS = 20

#: Why the control connection is not read for now.
UNREAD = "the client does not read its replies"
CROWDED = "many commands wait"
FAST = "commands come too fast"
OTHERS = "it is the turn of other sessions"


class Backpressure:
    """Told by the transport when the peer does not read its replies."""

    def __init__(self, protocol: FtpsProtocol) -> None:
        self._protocol = protocol

    def pauseProducing(self) -> None:
        """Too much is unsent."""
        self._protocol.hold(UNREAD)

    def resumeProducing(self) -> None:
        """Enough was read."""
        self._protocol.release(UNREAD)

    def stopProducing(self) -> None:
        """The connection is gone."""


class FtpsProtocol(FTP):
    """One control connection."""

    transport: Any
    factory: Any

    # Lines end in CRLF; a bare LF is let pass, as cameras and scripts send it.
    delimiter = b"\n"
    MAX_LENGTH = parsing.LONGEST_LINE

    def __init__(
        self,
        reactor: Reactor,
        scheduler: Scheduler,
        log_budget: LogBudget,
        number: int,
        client: Address,
        generation: Generation,
        implicit: bool,
    ) -> None:
        self.callLater = reactor.callLater  # type: ignore[method-assign]  # TimeoutMixin's
        self._reactor = reactor
        self._generation = generation
        self._implicit = implicit
        self._held: set[str] = set()
        self._idle: int | None = None
        self._greeted = False
        self._counted = self._begun = False
        self._input_ended = False
        self._dismissal: Reply | None = None
        self._running: Command | None = None  # the one that moves bytes now, or is about to
        self._turns: Turns[bytes] = Turns(self._begin, self._may_begin)
        self._address = client
        self._log = SessionLog(number, client, log_budget, generation.verbose, generation.shows)
        self._errors = 0  # in a row, without a login
        rate = generation.settings.limits.commands_per_second
        self._rate = CommandRate(rate, reactor.seconds) if rate is not None else None
        self._credit = self._rate.burst if self._rate is not None else -1  # counts down; below zero for ever
        self._scheduler = scheduler
        self._seat = Seat(reactor.seconds, self._strangers(), lambda: self.hold(OTHERS), self._go_on)
        self._started = 0.0  # when the last command began
        self.setRawMode()

    # --- the frame -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """The session begins; with implicit TLS, the greeting waits for the handshake."""
        self.factory.begun(self._address, self)
        self._counted = True
        settings = self._generation.settings
        self._client = Client(
            self.transport,
            self._address,
            self._implicit,
            self._generation,
            self._log,
            self._set_idle,
            self._forget_login,
            self._take_unread,
        )
        surroundings = self._generation.surroundings
        data = surroundings.channel(self._address, self._client.server, self._secure_data, lambda: self._log.label)
        self._session = Session(self._log.session, self._client, data, self._generation.policy, TABLE)
        self._begun = True
        self._log.note("connected", "connected")
        self.setTimeout(settings.timeouts.login)
        self.transport.registerProducer(Backpressure(self), True)
        self._seat.pay(CONNECTION_COST + (HANDSHAKE_COST if self._implicit else 0))
        if self._implicit:
            self._client.start_tls()
            self._session.protection = "P"
        else:
            self._seat.do(self.greet)

    def secured(self) -> None:
        """A handshake of the control connection is done."""
        if self._implicit and not self._greeted:
            self.greet()

    def broken(self, why: str) -> None:
        """TLS on the control connection has failed."""
        self._log.note("tls_failed", f"TLS failed: {why}")

    def greet(self) -> None:
        """220, which may have several lines."""
        self._greeted = True
        self._client.say(Reply(220, *self._generation.settings.banner.strip("\n").split("\n")))

    def rawDataReceived(self, data: bytes) -> None:
        """The very first bytes: a TLS ClientHello means that the client expects another port."""
        if data[:1] == b"\x16" and not self.transport.encrypted:
            self._log.note("wrong_protocol", "TLS on a port for explicit TLS: use one with tls: implicit")
            self.transport.abortConnection()
        else:
            self.setLineMode(data)

    def lineReceived(self, line: bytes) -> None:
        """One line, without its LF."""
        if self._client.gone:
            return
        self._credit -= 1
        if not self._credit and self._rate is not None:
            self._earn(self._rate)
        line = line.removesuffix(b"\r")
        if self._running is not None and self._act_at_once(line):
            self.yield_if_late()
            return
        self._turns.arrive(line)
        if self._turns.full:
            self.hold(CROWDED)

    def _earn(self, rate: CommandRate) -> None:
        """The right to more commands; none for a moment if they came too fast."""
        self._credit = rate.earn()
        if self._credit:
            self.release(FAST)
        elif not self._client.gone:
            if not rate.exceeded:  # told once in a session
                rate.exceeded = True
                self._log.note("slowed", f"more than {rate.rate} commands in a second: they wait")
            self.hold(FAST)
            self._reactor.callLater(rate.pause, self._earn, rate)

    def lineLengthExceeded(self, line: bytes) -> None:
        """No FTP client sends such a line."""
        self._end(Reply(500, "That line is too long. Goodbye."))

    def timeoutConnection(self) -> None:
        """Too long without a command, or without a login."""
        if self._client.gone:
            self.transport.abortConnection()  # it does not read our last words
        elif self._idle is not None and self._turns.busy:
            self.setTimeout(self._idle)  # a command that runs has limits of its own, and its reply restarts the timer
        else:
            self._end(Reply(421, "Nothing was heard for too long. Goodbye."))

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The client is gone: all that the session holds is freed now."""
        self._seat.leave()
        self.setTimeout(None)
        self._turns.end()
        try:
            if self._begun:
                self._free()
        finally:
            if self._counted:
                self.factory.ended(self._address, self)

    def _free(self) -> None:
        self._client.gone = True
        self._session.data.close(Reply(426, "The control connection was lost."))
        self._session.leave()
        self._log.note("disconnected", "disconnected")

    def input_ended(self) -> None:
        """The client has said all. Its commands are carried out and answered, then the session ends.

        RFC 959 section 4.1.1 has an unexpected close abort a transfer. Only an upload needs that, whose
        data connection cannot tell a client that was killed from one that has sent the whole file.
        """
        self._input_ended = True
        expected = any(line.strip().upper() == b"QUIT" for line in self._turns)
        self._session.data.input_ended(Reply(426, "The control connection was closed."), expected)
        self._end_if_answered()

    def _end_when_answered(self) -> None:
        if self._input_ended:
            self._reactor.callLater(0, self._end_if_answered)  # lines that were read already come first

    def _end_if_answered(self) -> None:
        if not (self._client.gone or self._held or self._turns.busy or self._turns.waiting):
            self._turns.end()
            self._client.close()
            self.setTimeout(LAST_WORDS)

    # --- commands --------------------------------------------------------------------------------

    def _act_at_once(self, line: bytes) -> bool:
        """What a row does on arrival while a transfer runs; whether that was all."""
        try:
            verb, argument = parsing.line(line)
        except Refusal:
            return False
        row = TABLE.get(verb)
        reply = row.at_once(self._session, argument) if row is not None and row.at_once else None
        if reply is not None:
            self._client.say(reply)
        return reply is not None

    def _may_begin(self) -> bool:
        self._started = self._reactor.seconds()
        return UNREAD not in self._held and self._seat.admits(self._started)

    def _begin(self, line: bytes) -> None:
        started = self._started
        try:
            if self._session.hears_imap(line):
                raise not_spoken("IMAP")
            verb, argument = parsing.line(line)
        except Refusal:
            # Not a word of it in the log: it may be a password with a typing error around it.
            self._seat.pay(1)
            self._answer("?", "", started, self._reply_to(Failure()))
            return
        self._seat.pay(TABLE[verb].cost if verb in TABLE else 1)
        try:
            result = self.processCommand(verb, argument)
        except Exception:
            result = Failure()
        if isinstance(result, Deferred):
            result.addBoth(self._finish_later, verb, argument, started)
        else:
            self._finish(result, verb, argument, started)

    def _finish_later(self, *arguments: Any) -> None:
        self._seat.do(self._finish, *arguments, must=True)

    def processCommand(self, cmd: str, *params: str) -> Any:
        """The final reply of a command, now or by a Deferred. Most are known at once, and need none."""
        row = self._session.find(cmd)
        value = self._session.admit(row, params[0] if params else "")
        self._running = row if row.uses_data or row.restartable or row.walks else None
        result = row.run(self._session, value)
        return result if isinstance(result, Reply) else Deferred.fromCoroutine(result)

    def _finish(self, result: Reply | Failure, verb: str, argument: str, started: float) -> None:
        row = TABLE.get(verb)
        self._running = None
        self._session.data.settle()
        if row is not None and row.restartable:
            self._session.restart_offset, self._session.byte_range = 0, None
        reply = result if isinstance(result, Reply) else self._reply_to(result)
        self._answer(verb, argument, started, reply)

    def _reply_to(self, failure: Failure) -> Reply:
        error = failure.value
        if isinstance(error, SessionEnd):
            self._client.then(self._client.close)
        if isinstance(error, Refusal):
            return error.reply
        if isinstance(error, OSError):
            return from_oserror(error)
        if isinstance(error, FTPCmdError):
            code, _, text = error.response().partition(" ")
            return Reply(int(code), text)
        log.failure("{label} a mistake of ours", failure, label=self._log.label)
        return Reply(451, "The server made a mistake; it is in its log.")

    def _answer(self, verb: str, argument: str, started: float, reply: Reply) -> None:
        row = TABLE.get(verb)
        moved = self._session.data.moved if row is not None and row.uses_data else None
        seconds = self._reactor.seconds() - started
        self._client.say(reply)
        if self._idle is not None:
            self.resetTimeout()  # here and not when a command comes: a command may take longer than an idle client may
        self._log.command(row, verb, argument, reply, seconds, moved)  # while the client works on it
        self._client.take_steps()
        if self._client.gone:
            self._turns.end()
            self.setTimeout(LAST_WORDS)
            return
        if self._dismissal is not None:
            self._end(self._dismissal)
            return
        self._errors = self._errors + 1 if self._session.account is None and reply.code >= 400 else 0
        if self._errors == MOST_ERRORS:
            self._end(Reply(421, "Too many errors. Goodbye."))
            return
        self._turns.done()
        if not self._turns.full:
            self.release(CROWDED)
        self._end_when_answered()

    def _take_unread(self) -> bool:
        """Drops what the client has sent behind the command that runs; whether there was anything."""
        unread = (self._turns.waiting, self.clearLineBuffer(), self.transport.take_unread())
        return any(unread)

    # --- what the session asks for -----------------------------------------------------------------

    def _secure_data(self) -> Any:
        if self._session.protection != "P":
            return None
        return self._client.secure_data(self._session.account)

    def _set_idle(self, seconds: int) -> None:
        if self._idle is None and self._session.user is not None:  # logged in
            self._seat.move(self._scheduler.user(self._session.user))
        self._idle = seconds
        self.setTimeout(seconds)

    def _forget_login(self) -> None:
        if self._client.gone:
            return
        self._log.user = "-"
        self._idle = None
        self._seat.move(self._strangers())
        self.setTimeout(self._generation.settings.timeouts.login)

    def _strangers(self) -> Party:
        rate = self._generation.settings.limits.commands_per_second_before_login
        return self._scheduler.strangers(network(self._address), math.inf if rate is None else rate)

    # --- when it works -----------------------------------------------------------------------------

    def input_came(self) -> None:
        """Bytes have come from the client. While the connection is not read they only wait."""
        if not self._held:
            self._seat.do(self.transport.work)

    def yield_if_late(self) -> None:
        """Between two pieces of work: lets others have their turn if it is that late."""
        self._seat.admits(self._reactor.seconds())

    def hold(self, why: str) -> None:
        """Reads no more for now."""
        if not self._held:
            self.pauseProducing()
        self._held.add(why)

    def release(self, why: str) -> None:
        """Reads on in some later turn, if no other reason holds."""
        if why in self._held:
            self._held.discard(why)
            if not self._held and not self._client.gone:
                self._seat.wait()

    def _go_on(self) -> None:
        self._held.discard(OTHERS)
        if not self._greeted and not self._implicit:
            self.greet()
        if UNREAD not in self._held:
            self._turns.go_on()
        if not self._held and not self._client.gone:
            self.resumeProducing()
        if not self._held and not self._client.gone:
            self.transport.work()
        self._end_when_answered()

    def dismiss(self, reply: Reply, at_once: bool) -> None:
        """Ends the session from our side: when its transfer is done, or at once."""
        if self._client.gone:
            return
        if self._running is not None and not at_once:
            self._dismissal = reply
        else:
            self._log.note("dismissed", f"{reply.code} {reply.text}")
            self._end(reply)

    def _end(self, reply: Reply) -> None:
        self._client.say(reply)
        self._turns.end()
        self._client.close()
        self.setTimeout(LAST_WORDS)


class Overflow(Protocol):
    """One session too many, or of a banned client: 421, before anything is spent on it."""

    transport: Any

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def connectionMade(self) -> None:
        """Says so and goes."""
        self.transport.write(self._reply.encode())
        self.transport.loseConnection()


class FtpsFactory(FTPFactory):
    """Makes the sessions of one listener. A reload sets `generation` and `implicit` for new sessions."""

    noisy = False

    def __init__(
        self,
        reactor: Reactor,
        generation: Generation,
        implicit: bool,
        sessions: Sessions,
        numbers: Iterator[int],
        scheduler: Scheduler,
        log_budget: LogBudget,
    ) -> None:
        super().__init__(generation.portal)
        self.generation = generation
        self._reactor = reactor
        self.implicit = implicit
        self._sessions = sessions
        self._numbers = numbers
        self._scheduler = scheduler
        self._log_budget = log_budget

    def buildProtocol(self, addr: Any) -> Protocol:
        """A session, or what says why there is none."""
        client = parsing.plain_address(addr.host, getattr(addr, "scopeID", 0))
        number = next(self._numbers)
        ban = self.generation.bans.of_address(client)
        if ban is not None:
            if not ban.told:
                ban.told = True
                SessionLog(number, client, self._log_budget).note(
                    "refused", f"{BANNED} This is told once for each ban."
                )
            return Overflow(Reply(421, BANNED))
        refusal = self._sessions.refusal(self.generation.settings.limits, client)
        if refusal is not None:
            SessionLog(number, client, self._log_budget).note("refused", refusal)
            return Overflow(Reply(421, refusal))
        protocol = FtpsProtocol(
            self._reactor, self._scheduler, self._log_budget, number, client, self.generation, self.implicit
        )
        protocol.factory = self
        return ControlConnection(self._reactor, protocol, protocol.secured, protocol.broken)

    def begun(self, client: Address, protocol: FtpsProtocol) -> None:
        """A session has begun."""
        self._sessions.enter(client, protocol)

    def ended(self, client: Address, protocol: FtpsProtocol) -> None:
        """A session is over."""
        self._sessions.leave(client, protocol)
