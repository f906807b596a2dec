"""Run the commands of one session, one after another, and send their replies in order: CommandRunner."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.protocols.ftp import FTPCmdError
from twisted.python.failure import Failure

from ftpsd.commands import TABLE
from ftpsd.control.control_channel import ControlChannel
from ftpsd.control.input_flow import QUEUE_FULL, REPLIES_UNREAD, InputFlow
from ftpsd.control.timeouts import SessionTimeouts
from ftpsd.events.session_events import SessionEvents
from ftpsd.events.types import SessionDismissed
from ftpsd.protocol import parsing
from ftpsd.protocol.command_queue import CommandQueue
from ftpsd.protocol.replies import NoDataConnection, Refusal, Reply, SessionEnd, from_oserror
from ftpsd.protocol.session import Row, Session, wrong_protocol
from ftpsd.system.reactor import Clock

log = Logger(namespace="ftpsd")

#: The number of error replies in a row that ends a session without a login.
MAX_ERRORS = 20


class CommandRunner:
    """Takes lines from the queue, runs their commands and answers them; ends the session when it must end.

    The steps of one command: `_begin` parses the line, `_run` calls the command, `_finish` makes the reply of its
    result, `_answer` sends it and lets the next line begin.
    """

    def __init__(
        self,
        clock: Clock,
        session: Session,
        channel: ControlChannel,
        flow: InputFlow,
        timeouts: SessionTimeouts,
        events: SessionEvents,
    ) -> None:
        self._clock = clock
        self.now = clock.seconds
        self._session = session
        self._channel = channel
        self._flow = flow
        self._task = flow.task
        self._timeouts = timeouts
        self._events = events
        self.queue: CommandQueue[bytes] = CommandQueue(self._begin, self._may_begin)
        #: The command that uses a data connection or walks a tree now, or is about to.
        self.transferring: Row | None = None
        #: The last command that has begun, and its argument.
        self.command: Row | None = None
        self.argument: object = None
        #: When that command began, and when the last reply was sent.
        self.began = self.answered = self.now()
        self._dismissal: Reply | None = None
        self._errors = 0  # in a row, without a login
        self._input_ended = False

    # --- from line to reply ----------------------------------------------------------------------

    def act_immediately(self, line: bytes) -> bool:
        """Let a command act on arrival while a transfer runs. Return whether nothing is left to do for it."""
        try:
            verb, argument = parsing.line(line, self._session.names)
        except Refusal:
            return False
        row = TABLE.get(verb)
        reply = row.act_immediately(self._session, argument) if row is not None and row.act_immediately else None
        if row is not None and reply is not None:
            self._channel.send_reply(reply)
            self._events.answered_immediately(row, reply)
        return reply is not None

    def _may_begin(self) -> bool:
        now = self.began = self.now()
        if REPLIES_UNREAD in self._flow.paused:
            return False
        return now < self._task.deadline or self._task.may_continue(now)

    def _begin(self, line: bytes) -> None:
        started = self.began
        stranger = self._session.account is None
        try:
            if stranger and self._session.is_imap(line):
                raise wrong_protocol("IMAP")
            verb, argument = parsing.line(line, self._session.names)
        except Refusal:
            # No part of the line is logged: it may be a password with a typing error around it.
            self._task.take_tokens(1)
            self._answer(None, "?", "", started, self._reply_to(Failure()))
            return
        row = TABLE.get(verb)
        if stranger:
            self._task.take_tokens(1 if row is None else row.cost)
        try:
            result = self._run(row or self._session.find(verb), argument)
        except Exception:
            result = self._reply_to(Failure())
        if isinstance(result, Reply):
            self._finish(result, row, verb, argument, started)
        else:
            later = partial(self._task.run, self._finish)
            result.addBoth(later, row, verb, argument, started, must=True)

    def _run(self, row: Row, argument: str) -> Reply | Deferred[Reply]:
        """Return the final reply of a command, now or by a Deferred. Most are known now, and need no Deferred."""
        value = self._session.admit(row, argument)
        self.command, self.argument = row, value
        self.transferring = row if row.uses_data or row.restartable or row.walks else None
        result = row.run(self._session, value)
        return result if isinstance(result, Reply) else Deferred.fromCoroutine(result)

    def _finish(self, result: Reply | Failure, row: Row | None, verb: str, argument: str, started: float) -> None:
        if self.transferring is not None:
            self.transferring = None
            self._session.data.settle()
        if row is not None and row.restartable:
            self._session.restart_offset, self._session.byte_range, self._session.allocated = 0, None, None
        reply = result if isinstance(result, Reply) else self._reply_to(result)
        self._answer(row, verb, argument, started, reply)

    def _reply_to(self, failure: Failure) -> Reply:
        """Return the reply for an exception."""
        error = failure.value
        if isinstance(error, Refusal | OSError):  # the frames of its traceback have it
            error.__traceback__ = None
        if isinstance(error, SessionEnd):
            self._channel.call_after_reply(self._channel.close)
        if isinstance(error, NoDataConnection):
            self._events.no_data_connection(error.reason)
        if isinstance(error, Refusal):
            return error.reply
        if isinstance(error, OSError):
            return from_oserror(error)
        if isinstance(error, FTPCmdError):
            code, _, text = error.response().partition(" ")
            return Reply(int(code), text)
        log.failure("{label} internal error", failure, label=self._events.session.label)
        return Reply(451, "Internal error: see the server's log.")

    def _answer(self, row: Row | None, verb: str, argument: str, started: float, reply: Reply) -> None:
        """Send the final reply, then let the next command begin or end the session."""
        moved = self._session.data.moved if row is not None and row.uses_data else None
        self.answered = self.now()
        self._channel.send_reply(reply)
        self._timeouts.last_reply = self.answered
        # The client works on the reply meanwhile.
        self._events.command_answered(row, verb, argument, reply, self.answered - started, moved)
        self._channel.reply_sent()
        if self._channel.ended:
            self._close()
            return
        if self._dismissal is not None:
            self.end(self._dismissal)
            return
        if self._session.account is None:
            self._errors = self._errors + 1 if reply.code >= 400 else 0
            if self._errors == MAX_ERRORS:
                self.end(Reply(421, "Too many errors. Goodbye."))
                return
        self.queue.finish()
        if self._flow.paused and not self.queue.full:
            self._flow.resume_reading(QUEUE_FULL)
        if self._input_ended:
            self.end_when_answered()

    # --- the end of the session ------------------------------------------------------------------

    def end(self, reply: Reply) -> None:
        """Send a last reply and close the connection."""
        self._channel.send_reply(reply)
        self._channel.close()
        self._close()

    def _close(self) -> None:
        self.queue.close()
        self._flow.closed = True
        self._timeouts.wait_for_close()

    def dismiss(self, reply: Reply, immediately: bool) -> None:
        """End the session with a reply, after its transfer or immediately."""
        if self._channel.ended:
            return
        if self.transferring is not None and not immediately:
            self._dismissal = reply
        else:
            self._events.publish(SessionDismissed(self._events.session, reply.code, reply.text))
            if self.transferring is not None:
                # Before the client reads the reply: it then closes its data connection, which would end the file.
                self._session.data.abort(Reply(426, "Transfer aborted."))
            self.end(reply)

    def input_ended(self) -> None:
        """The client has closed its side. Run the commands that it has sent and answer them, then end the session.

        RFC 959 section 4.1.1 has an unexpected close abort a transfer. Only an upload needs that: its data connection
        cannot tell a client that was killed from one that has sent the whole file.
        """
        self._input_ended = True
        expected = any(line.strip().upper() == b"QUIT" for line in self.queue)
        self._session.data.input_ended(Reply(426, "Control connection closed."), expected)
        self._end_if_answered()

    def end_when_answered(self) -> None:
        """End the session if the client has closed its side and waits for no reply."""
        if self._input_ended:
            self._clock.callLater(0, self._end_if_answered)  # lines that were read already come first

    def _end_if_answered(self) -> None:
        if not (self._channel.ended or self._flow.paused or self.queue.busy or self.queue.waiting):
            self._channel.close()
            self._close()

    def connection_lost(self) -> None:
        """The connection is lost: free what the session holds."""
        self._channel.ended = True
        self._session.data.close(Reply(426, "Control connection lost."))
        self._session.log_out()
        self._channel.connection_lost()
