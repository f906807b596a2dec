"""TLS that breaks on the control connection."""

from __future__ import annotations

import re
import ssl

from tests.daemon import Daemon
from tests.ftpclient import FtpClient, read_all


def handshake(client: FtpClient) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """Make the TLS handshake with records that the test sends itself."""
    client.expect(234, "AUTH TLS")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client.context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            client.send_raw(outgoing.read())
            incoming.write(client.socket.recv(65536))
    client.send_raw(outgoing.read())
    return tls, incoming, outgoing


def test_a_damaged_record_behind_a_good_one(shared: Daemon) -> None:
    """A good and a damaged record in one segment end the session, and the log says so once."""
    client = FtpClient(shared)
    tls, _, outgoing = handshake(client)
    tls.write(b"NOOP\r\n")
    before = len(re.findall("TLS failed", shared.log))
    client.send_raw(outgoing.read() + b"\x17\x03\x03\x00\x40" + bytes(64))
    read_all(client.socket)
    client.socket.close()
    with FtpClient(shared) as other:  # what the log had to say of the first one is there by now
        other.expect(530, "PWD")
    shared.wait_for_log(r"TLS failed: .*\n(.*\n)*.* PWD: 530")
    assert len(re.findall("TLS failed", shared.log)) == before + 1
