"""`ftpsd demo`: a daemon that works, below one directory, made in a second."""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes as digests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ftpsd import hashes

_CONFIGURATION = """\
# Made by `ftpsd demo`. For clients on other machines, change the address to "::".
listen:
  - {{address: "127.0.0.1", port: {port}, tls: explicit}}
banner: ftpsd demo ready.
tls:
  certificate: certificate.pem
  private_key: key.pem
passive:
  ports: {low}-{high}
users: {{file: users.yaml}}
"""

_USERS = """\
users:
  demo:
    password: "{hashed}"
    home: files
"""


def run(directory: str, port: int) -> int:
    """Makes what is missing, says how to connect, and serves until it is interrupted."""
    home = Path(directory).absolute()
    (home / "files").mkdir(parents=True, exist_ok=True)
    if not (home / "certificate.pem").exists():
        make_certificate(home / "certificate.pem", home / "key.pem")
    (home / "files" / "welcome.txt").write_text("It works.\n")
    password = secrets.token_urlsafe(12)
    _write(home / "users.yaml", _USERS.format(hashed=hashes.make(password)))
    # The range keeps clear of the listener, wherever that is.
    low = 50000 if not 50000 <= port <= 50099 else 51000
    _write(home / "ftpsd.yaml", _CONFIGURATION.format(port=port, low=low, high=low + 99))
    print(f"address   ftp://127.0.0.1:{port}/ with explicit TLS; passive ports {low}-{low + 99}")
    print(f"files     {home / 'files'}")
    print(f"user      demo\npassword  {password}\n")
    curl = f"curl -v --ssl-reqd --cacert {home / 'certificate.pem'} -u demo:{password}"
    print(f"{curl} ftp://127.0.0.1:{port}/\n", flush=True)
    return serve(home / "ftpsd.yaml")


def serve(configuration: Path) -> int:
    """Runs the daemon in the foreground, in this process."""
    from twisted.scripts.twistd import run as twistd

    sys.argv = ["twistd", "-n", "--pidfile=", "ftpsd", "-c", str(configuration)]
    twistd()
    return 0


def make_certificate(certificate_file: Path, key_file: Path) -> None:
    """A self-signed certificate for this machine's loopback names, good for a year."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ftpsd demo")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, digests.SHA256())
    )
    _write(key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))


def _write(path: Path, text: str) -> None:
    """Writes a file that holds a secret: for its owner only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
