"""`ftpsd doctor --from` and a server with one passive port for all sessions."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from ftpsd.cli.doctor.client import Passive
from ftpsd.cli.doctor.passive import Try, ports
from tests.middlebox import Listener
from tests.shared_port import Make, sharing
from tests.test_doctor_client import authority_file, doctor, found


def test_a_shared_port_has_no_finding(make_daemon: Make) -> None:
    """All checks pass, each at the same port."""
    daemon = sharing(make_daemon)
    report = doctor(f"127.0.0.1:{daemon.port}", *authority_file(daemon), tries="4")
    assert not found(report)


def test_a_router_that_does_not_forward_the_shared_port() -> None:
    """The remedy names the one port, and no range."""
    tries = [Try(Passive(command, 50_000), "filtered") for command in ("EPSV", "PASV")]
    (finding,) = ports("192.0.2.1", tries)
    assert finding.code == "passive.filtered"
    assert "port 50000, which all sessions share" in finding.cure
    assert "range" not in finding.cure


def test_a_data_connection_from_another_address(make_daemon: Make) -> None:
    """A proxy that changes the address of the control connection alone is named as the reason of a 425."""
    daemon = sharing(make_daemon, {"timeouts": {"data_connect": 2}})

    def serve(client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", daemon.port), 60, ("127.0.0.9", 0)) as server:
            back = threading.Thread(target=_copy, args=(server, client))
            back.start()
            _copy(client, server)
            back.join()

    with Listener(serve) as proxy:
        report = doctor(f"127.0.0.1:{proxy.port}", *authority_file(daemon))
    assert "data.not_found" in found(report)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
