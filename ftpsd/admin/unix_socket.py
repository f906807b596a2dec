"""The socket of the admin API: who may connect to it, and who has connected: UnixSocket, Peer."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import cast

from attrs import frozen
from twisted.internet import tcp, unix
from twisted.internet.interfaces import IProtocolFactory, IReactorCore
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from ftpsd.config.faults import Fault, InvalidConfiguration
from ftpsd.config.sections.admin import AdminSettings
from ftpsd.system.reactor import Reactor

log = Logger(namespace="ftpsd")

#: The group that may use the socket if the configuration names none, and this one exists.
GROUP = "ftpsd-admin"

MODE = 0o660

#: Connections that the kernel keeps until they are accepted.
BACKLOG = 512

#: The option of a socket for all groups of the peer (linux/asm-generic/socket.h); Python has no name for it.
_SO_PEERGROUPS = 59

#: Groups of a process: Python reads no more of them. A user with more groups is not admitted as a member.
_MOST_GROUPS = 256


@frozen
class Peer:
    """The process at the other end of a connection, as the kernel knows it."""

    process: int
    user: int
    groups: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """Return who has connected. Raises OSError."""
    process, user, group = struct.unpack(
        "=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=iII"))
    )
    try:
        others = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MOST_GROUPS)
    except OSError:
        others = b""  # more groups than that
    return Peer(process, user, frozenset((group, *(number for (number,) in struct.iter_unpack("=I", others)))))


def socket_path(settings: AdminSettings) -> Path | None:
    """Return the path of the socket: the configured one, else the one in systemd's runtime directory, else None."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return settings.socket or (Path(given, "admin.sock") if given else None)


class UnixSocket:
    """The socket, from its bind to its removal. `configuration` is the path of the configuration file, for faults."""

    def __init__(self, path: Path, group: str | None, configuration: str) -> None:
        self.path = path
        self._configuration = configuration
        #: The group whose members may use the socket; None: nobody but root and the daemon's user.
        self.group = self._group(group)
        self._socket = self._bind()
        self._port: _Port | None = None
        status = os.stat(path)
        self._identity = status.st_dev, status.st_ino
        try:
            self._admit_group(named=group is not None)
            os.chmod(path, MODE)
            self._socket.listen(BACKLOG)
        except BaseException:
            self._socket.close()
            self.remove()
            raise

    def may_use(self, peer: Peer) -> bool:
        """Return whether a process may use the API: those of root, of the daemon's user, and of the group."""
        return peer.user in (0, os.geteuid()) or self.group in peer.groups

    def serve(self, reactor: Reactor, factory: ServerFactory) -> None:
        """Accept connections from now on."""
        self._port = _Port(self._socket, os.fsencode(self.path), factory, reactor)
        self._port.startListening()

    def close(self) -> object:
        """Accept no more connections, and remove the socket. Return a Deferred if that takes time."""
        self.remove()
        if self._port is None:
            self._socket.close()
            return None
        return self._port.stopListening()

    def remove(self) -> None:
        """Remove the socket, unless another daemon has put its own in place of it."""
        try:
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self.path)
        except OSError as error:
            log.warn("{path} was not removed: {error}", path=self.path, error=error.strerror)

    # --- steps of the bind -----------------------------------------------------------------------

    def _group(self, name: str | None) -> int | None:
        try:
            return grp.getgrnam(GROUP if name is None else name).gr_gid
        except KeyError:
            if name is None:
                return None
            raise self._fault("group", f"there is no group {name}", f"Create it: addgroup --system {name}") from None

    def _bind(self) -> socket.socket:
        """Return a socket that is bound to the path, in place of one that no daemon has any more."""
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        umask = os.umask(0o177)  # until the group is right
        try:
            try:
                bound.bind(os.fspath(self.path))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                self._remove_stale()
                bound.bind(os.fspath(self.path))
        except OSError as error:
            bound.close()
            remedy = "Choose a directory in which the daemon may create files."
            raise self._fault("socket", f"cannot create {self.path} ({error.strerror or error})", remedy) from None
        except BaseException:
            bound.close()
            raise
        finally:
            os.umask(umask)
        return bound

    def _remove_stale(self) -> None:
        """Remove the socket of a daemon that was killed. Raises InvalidConfiguration if it is something else."""
        if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
            raise self._fault("socket", f"{self.path} is there, and is not a socket", "Choose another path.")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            answer = probe.connect_ex(os.fspath(self.path))
        if answer != errno.ECONNREFUSED:
            text = f"another process listens on {self.path}"
            raise self._fault("socket", text, "Stop the other daemon, or choose another path.")
        os.unlink(self.path)

    def _admit_group(self, named: bool) -> None:
        if self.group is None:
            return
        try:
            os.chown(self.path, -1, self.group)
        except PermissionError:
            name = grp.getgrgid(self.group).gr_name
            text = f"the daemon's user is not in the group {name}, and cannot give it the socket"
            remedy = f"Add the group to the service: SupplementaryGroups={name}"
            if named:
                raise self._fault("group", text, remedy) from None
            log.warn("admin.group: {text}. {remedy}", text=text, remedy=remedy)
            self.group = None

    def _fault(self, key: str, problem: str, remedy: str) -> InvalidConfiguration:
        return InvalidConfiguration([Fault(self._configuration, 0, f"admin.{key}", problem, remedy)])


class _Port(unix.Port):
    """Accepts connections on a socket that is bound and listens. Twisted's own would set its mode, and remove it."""

    def __init__(self, listener: socket.socket, path: bytes, factory: ServerFactory, reactor: Reactor) -> None:
        super().__init__(path, cast(IProtocolFactory, factory), reactor=cast(IReactorCore, reactor))
        self._listener = listener

    def startListening(self) -> None:
        """Begin to accept connections."""
        cast(ServerFactory, self.factory).doStart()
        self.connected = True
        self.socket = self._listener
        self.fileno: Callable[[], int] = self.socket.fileno
        self.numberAccepts = 1
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        """Close the socket; its name has gone already."""
        tcp.Port.connectionLost(self, reason)
