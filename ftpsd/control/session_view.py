"""Describe a running session for the registry: session_view."""

from __future__ import annotations

from ftpsd.control.command_runner import CommandRunner
from ftpsd.control.control_channel import ControlChannel
from ftpsd.limits.session_registry import SessionState, SessionView
from ftpsd.protocol.interfaces import Progress
from ftpsd.protocol.parsing import ListRequest
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.session import Session


def session_view(started: float, session: Session, channel: ControlChannel, runner: CommandRunner) -> SessionView:
    """Return what a session does now. `started` is its start as POSIX time in seconds."""
    busy = runner.queue.busy
    command = runner.command
    moves_data = busy and command is not None and command.uses_data
    now = runner.now()
    progress = session.data.progress() if moves_data else None
    return SessionView(
        number=session.number,
        state=_state(session, channel, runner),
        user=None if session.account is None else session.account.name,
        address=channel.client,
        started=started,
        idle_since=None if busy else channel.now() - (now - runner.answered),
        tls=channel.tls_version,
        certificate=None if channel.certificate is None else channel.certificate.subject,
        client_name=session.client_name,
        command="" if command is None else command.verb,
        path=_path(session, runner.argument) if busy else None,
        direction=None if progress is None else progress.direction,
        bytes=0 if progress is None else progress.bytes,
        expected_size=None if progress is None else _size(progress, session),
        rate=_rate(progress, now - runner.began),
    )


def _state(session: Session, channel: ControlChannel, runner: CommandRunner) -> SessionState:
    if channel.ended:
        return "closing"
    if channel.in_handshake:
        return "handshake"
    if runner.transferring is not None:
        return "transfer"
    if runner.queue.busy:
        return "command"
    return "login" if session.account is None else "idle"


def _size(progress: Progress, session: Session) -> int | None:
    """Return the total of a transfer. That of an upload is known only if the client has sent ALLO, and all of it."""
    if progress.direction == "upload" and not session.restart_offset:
        return session.allocated
    return progress.expected_size


def _rate(progress: Progress | None, seconds: float) -> float:
    if progress is None:
        return 0.0
    return progress.bytes / max(seconds, 0.001) if progress.rate is None else progress.rate


def _path(session: Session, argument: object) -> str | None:
    """Return the path of a command's argument, or the first one of several."""
    if isinstance(argument, VirtualPath):
        return str(argument)
    if isinstance(argument, ListRequest):
        return str(session.directory.join(argument.path))
    if isinstance(argument, tuple):
        return next((str(each) for each in argument if isinstance(each, VirtualPath)), None)
    return None
