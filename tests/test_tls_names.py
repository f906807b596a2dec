"""The private names of pyOpenSSL: used in one module, and replaced or reported where a release has none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from OpenSSL import SSL, crypto

import ftpsd
from ftpsd.cli.serve.self_signed import make_certificate
from ftpsd.system.tls import private
from ftpsd.system.tls.certificates import Certificates, Identity
from ftpsd.system.tls.contexts import ContextMaker
from ftpsd.system.tls.errors import is_close_notify

PRIVATE = re.compile(r"SSL\._(lib|ffi)|\._ssl\b|\._raise_ssl_error|\._(into|from)_ssl|context\._context")


def handshake(directory: Path) -> tuple[SSL.Connection, SSL.Connection]:
    """Return the server's and the client's side of a TLS connection in memory."""
    make_certificate(directory / "certificate.pem", directory / "key.pem")
    certificate = crypto.load_certificate(crypto.FILETYPE_PEM, (directory / "certificate.pem").read_bytes())
    key = crypto.load_privatekey(crypto.FILETYPE_PEM, (directory / "key.pem").read_bytes())
    identity = Identity((certificate,), key)
    server = SSL.Connection(ContextMaker(Certificates([identity]))(), None)
    server.set_accept_state()
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    client.set_connect_state()
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            try:
                one.do_handshake()
            except SSL.WantReadError:
                pass
            try:
                other.bio_write(one.bio_read(65536))
            except SSL.WantReadError:
                pass
    return server, client


def test_private_names_are_used_in_one_module() -> None:
    """Whatever a release of pyOpenSSL removes, one module is to be changed."""
    users = [path.name for path in Path(ftpsd.__file__).parent.rglob("*.py") if PRIVATE.search(path.read_text())]
    assert users == ["private.py"]


@pytest.mark.parametrize("decrypt", [private.decrypt_in_place, private.decrypt_by_record])
def test_both_ways_to_decrypt(tmp_path: Path, decrypt: object) -> None:
    """Without the private names, the same bytes arrive, and the same error ends them."""
    assert callable(decrypt)
    server, client = handshake(tmp_path)
    data = bytes(range(256)) * 200
    client.sendall(data)
    client.shutdown()
    server.bio_write(client.bio_read(2**20))
    buffer = memoryview(bytearray(2**16))
    count, error = decrypt(server, buffer)
    assert bytes(buffer[:count]) == data
    assert error is not None
    assert is_close_notify(server, error)
    assert not private.resumed(server)


def test_this_release_has_all_names() -> None:
    """The fast way to decrypt is used, and nothing is missing."""
    assert private.decrypt is private.decrypt_in_place
    private.require_names(SSL._lib)  # type: ignore[attr-defined]


def test_a_release_without_a_name_is_reported() -> None:
    """The message names the release, what it does not have, and the remedy."""
    with pytest.raises(ImportError, match=r"pyOpenSSL, \d+\..*SSL_session_reused, SSL_set_fd.*pip install"):
        private.require_names(object())


def test_whole_writes_without_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the private names, `send` returns after each record, which is slower and works."""
    monkeypatch.setattr(private, "_lib", object())
    private.whole_writes(SSL.Context(SSL.TLS_SERVER_METHOD))
