"""`ftpsd user totp`: give a user a secret for one-time passwords, and show it as a QR code."""

from __future__ import annotations

import argparse
import importlib
import io
import socket
import sys

from ftpsd.cli.failure import CommandFailed
from ftpsd.cli.user.change import edit, finish
from ftpsd.cli.user.users import open_users
from ftpsd.cli.user.values import change


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--issuer", metavar="TEXT", help="what the app shows beside the name (default: the host name)")


def totp(options: argparse.Namespace) -> int:
    """Make a secret, write it to the user's file, and show it. An older secret is replaced."""
    try:
        pyotp = importlib.import_module("pyotp")
    except ImportError as error:
        remedy = "pip install 'ftpsd[totp]', or apt install python3-pyotp"
        raise CommandFailed(f"needs the Python module pyotp ({error}): {remedy}") from None
    users = open_users(options.config)
    users.find_table(options.name)
    secret = pyotp.random_base32()
    uri = pyotp.TOTP(secret).provisioning_uri(name=options.name, issuer_name=options.issuer or socket.gethostname())
    edit(users, options.name, lambda values: change(values, [("totp", secret)]))
    users.notes.insert(
        0, f"{options.name} now logs in with the password and, right behind it, the six digits of an app."
    )
    print(_picture(uri), end="")
    print(f"{uri}\n")
    return finish(users)


def _picture(uri: str) -> str:
    """Return the QR code for a terminal; nothing if the library is missing or the terminal cannot show it."""
    try:
        qrcode = importlib.import_module("qrcode")
    except ImportError:
        print("Without the Python module qrcode, enter this address in the app:", file=sys.stderr)
        return ""
    code, picture = qrcode.QRCode(border=2), io.StringIO()
    code.add_data(uri)
    code.print_ascii(out=picture, invert=True)
    try:
        picture.getvalue().encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return ""
    return picture.getvalue()
