"""The command `ftpsd-pam-helper`: read its options, open its socket, and answer."""

from __future__ import annotations

import argparse
import errno
import os
import pwd
import signal
import socket
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress

import ftpsd
from ftpsd.helper import messages
from ftpsd.helper.messages import Request
from ftpsd.helper.server import Server, log
from ftpsd.helper.system_users import SystemUsers

#: The first descriptor that systemd passes (sd_listen_fds(3)).
_FIRST = 3

#: Connections that the kernel keeps until they are accepted.
_BACKLOG = 512


#: Seconds for which a helper that cannot check passwords says so. The next one finds what was installed meanwhile.
REPORTING = 60.0


class _Unusable(Exception):
    """The helper cannot check passwords. The text says why, and what helps."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer until SIGTERM; return the exit status: 0, or 1 if the helper cannot start."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        users, answer = _users(options.user), _answerer(options)
        listener = _inherited() if options.socket is None else _bind(options.socket, users)
    except _Unusable as error:
        return _report(str(error), options)
    log(f"answers, with the PAM service {options.service}, to {options.user}")
    try:
        Server(listener, users, answer, options.timeout, options.processes).run()
    except KeyboardInterrupt:
        pass
    finally:
        if options.socket is not None:
            with suppress(FileNotFoundError):
                os.unlink(options.socket)
    return 0


def _report(error: str, options: argparse.Namespace) -> int:
    """Answer with an error for a while if systemd has passed a socket; return the exit status.

    As long as a connection waits in the socket, systemd starts the helper again and again, until it gives up both.
    """
    try:
        listener = _inherited()
    except _Unusable:
        print(f"ftpsd-pam-helper: {error}", file=sys.stderr)
        return 1
    log(f"answers each request with an error: {error}")
    try:
        users = _users(options.user)
    except _Unusable:
        users = frozenset((0,))
    Server(listener, users, lambda request: messages.failed(error), options.timeout, options.processes).run(REPORTING)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    found = argparse.ArgumentParser(
        prog="ftpsd-pam-helper", description="Check the passwords of system users with PAM, for ftpsd."
    )
    found.add_argument("--version", action="version", version=f"ftpsd-pam-helper {ftpsd.__version__}")
    found.add_argument("--socket", metavar="PATH", help="the socket to create (default: the one of systemd)")
    found.add_argument("--user", default="ftpsd", help="who may connect, beside root (default: ftpsd)")
    found.add_argument("--service", default="ftpsd", help="the file in /etc/pam.d (default: ftpsd)")
    found.add_argument(
        "--minimum-uid", type=_number, default=1000, metavar="N", help="users with lower numbers are unknown (1000)"
    )
    found.add_argument("--subdirectory", default="", metavar="NAME", help="the home for FTP, below each user's home")
    found.add_argument("--timeout", type=_number, default=15, metavar="SECONDS", help="for each request (15)")
    found.add_argument("--processes", type=_number, default=32, metavar="N", help="requests at the same time (32)")
    return found


def _number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("write 1 or a larger number")
    return value


class _Answerer:
    """Answers a request, with PAM and the name service."""

    def __init__(self, service: str, users: SystemUsers) -> None:
        from ftpsd.helper import pam  # it needs pamela, which may be missing

        self._pam = pam
        self._service = pam.Pam(service)
        self._users = users
        if not self._service.is_configured:
            raise _Unusable(f"PAM has no service {service}. Create /etc/pam.d/{service}: see ftpsd-pam-helper(8).")

    def __call__(self, request: Request) -> bytes:
        """Return the answer."""
        user = self._users.find(request.name)
        if user is None:
            return messages.unknown()
        service = self._service if request.password is not None else self._service.for_lookups
        if not service.is_configured:
            return messages.accepted(user.name, user.home, user.uid, user.gid)
        try:
            user = self._users.find(service.check(user.name, request.password, request.peer))
        except self._pam.WrongPassword:
            return messages.wrong_password()
        except self._pam.Denied as reason:
            return messages.denied(str(reason))
        except self._pam.UnknownUser:
            return messages.unknown()
        except self._pam.Failed as error:
            log(str(error))
            return messages.failed(str(error))
        if user is None:  # a module has put another user in its place, who may not log in
            return messages.unknown()
        return messages.accepted(user.name, user.home, user.uid, user.gid)


def _answerer(options: argparse.Namespace) -> _Answerer:
    if "/" in options.subdirectory or options.subdirectory in (".", ".."):
        raise _Unusable(f"--subdirectory {options.subdirectory} is not a name. Write one without /, as ftp.")
    if "/" in options.service:
        raise _Unusable(f"--service {options.service} is not the name of a file in /etc/pam.d.")
    try:
        return _Answerer(options.service, SystemUsers(options.minimum_uid, options.subdirectory))
    except ImportError as error:
        remedy = "Install it: pip install 'ftpsd[pam]', or apt install python3-pamela."
        raise _Unusable(f"needs the Python module pamela, which cannot be imported ({error}). {remedy}") from None


def _users(name: str) -> frozenset[int]:
    try:
        return frozenset((0, pwd.getpwnam(name).pw_uid))
    except KeyError:
        raise _Unusable(f"there is no user {name}. Name the user of the daemon: --user.") from None


# --- the socket ------------------------------------------------------------------------------------


def _inherited() -> socket.socket:
    """Return the socket that systemd has passed."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise _Unusable("systemd has passed no socket. Start ftpsd-pam-helper.socket, or write --socket PATH.")
    return socket.socket(fileno=_FIRST)


def _bind(path: str, users: frozenset[int]) -> socket.socket:
    """Create a socket that belongs to the daemon's user, in place of one that no process has any more."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        _remove_stale(path)
        listener.bind(path)
        os.chown(path, max(users), -1)
    except OSError as error:
        raise _Unusable(f"cannot create {path} ({error.strerror or error}). Choose another path: --socket.") from None
    finally:
        os.umask(umask)
    listener.listen(_BACKLOG)
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket of a helper that was killed. Raises OSError if another process listens on it."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "it is there, and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, "another process listens on it")
    os.unlink(path)
