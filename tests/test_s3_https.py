"""A store that is reached by HTTPS, as nearly all are: what is sent there, and which certificates it may have."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.authority import make_chain
from tests.daemon import Daemon
from tests.ftpclient import FtpClient, secured
from tests.hostile import withstands
from tests.s3 import Bucket
from tests.s3_proxy import Answer, FaultyProxy, Request
from tests.store_daemon import LARGE, MIB, Make, store_daemon

#: Makes a proxy to which the daemon speaks TLS, and a daemon that trusts its certificate.
MakeSecure = Callable[..., tuple[FaultyProxy, Daemon]]


@pytest.fixture
def secure(
    make_daemon: Make, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> MakeSecure:
    """Return what makes the proxy and the daemon. `trusted` is the file with the authority that the daemon trusts."""
    make_chain(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")

    def make(trusted: Path = tmp_path / "ca.pem", **store: object) -> tuple[FaultyProxy, Daemon]:
        proxy = FaultyProxy(bucket.server.port, context)
        request.addfinalizer(proxy.stop)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(trusted))
        endpoint = f"https://127.0.0.1:{proxy.port}"
        return proxy, store_daemon(make_daemon, bucket, endpoint=endpoint, **store)

    return make


def puts(proxy: FaultyProxy) -> list[Request]:
    """Return the requests that stored something."""
    return [each for each in proxy.requests if each.method == "PUT" and each.headers.get("content-length") != "0"]


def upload_all(client: FtpClient) -> None:
    """Store a file of one part, and one of several."""
    assert client.upload("STOR small", b"small").startswith("226")
    assert client.upload("STOR large", LARGE).startswith("226")


#: A configuration for other programs, which asks for CRC32 in place of SHA-256.
PROFILE = """[default]
request_checksum_calculation = when_supported
s3 =
    payload_signing_enabled = false
"""


@pytest.mark.parametrize("wanted", ["nothing", "by the environment", "by a file"])
def test_files(
    secure: MakeSecure, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    """Files go up and down whole. The SHA-256 of each part is signed, and no other checksum is computed.

    The same if the environment or a file asks for others. Amazon refuses CRC32 of parts whose numbers have a gap.
    """
    if wanted == "by the environment":
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    elif wanted == "by a file":
        (tmp_path / "aws").write_text(PROFILE)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    proxy, daemon = secure()
    with withstands(daemon), secured(daemon) as client:
        upload_all(client)
        assert client.download("RETR large") == LARGE
    assert bucket.contents() == {"alice/small": b"small", "alice/large": LARGE}
    signed = {each.headers["x-amz-content-sha256"] for each in puts(proxy)}
    assert {hashlib.sha256(data).hexdigest() for data in (b"small", LARGE[: 8 * MIB])} <= signed
    others = {name for each in proxy.requests for name in each.headers if "checksum" in name or "md5" in name}
    assert others == set()


def test_md5_in_place_of_sha256(secure: MakeSecure, bucket: Bucket) -> None:
    """To a bucket that requires Content-MD5, no SHA-256 is computed as well: TLS protects the rest of the request."""
    proxy, daemon = secure(parallel=1)
    text = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
    proxy.spoil("PUT", "small", Answer(400, "InvalidRequest", message=text))
    with withstands(daemon), secured(daemon) as client:
        upload_all(client)
    first, *others = puts(proxy)
    assert first.headers["x-amz-content-sha256"] == hashlib.sha256(b"small").hexdigest()
    assert [each.headers["x-amz-content-sha256"] for each in others] == ["UNSIGNED-PAYLOAD"] * 5
    assert all("content-md5" in each.headers for each in others)
    assert bucket.contents() == {"alice/small": b"small", "alice/large": LARGE}


def test_a_certificate_that_is_not_trusted(secure: MakeSecure, tmp_path: Path) -> None:
    """The store is not used if another authority has signed its certificate: 451, and the log has the reason."""
    other = tmp_path / "other"
    other.mkdir()
    make_chain(other)
    proxy, daemon = secure(other / "ca.pem")
    with secured(daemon) as client:
        client.expect(451, "SIZE small")
        client.expect(451, "MKD d")
    assert proxy.requests == []
    daemon.wait_for_log("the store archive cannot be used: .*certificate verify failed")
