"""`ftpsd demo`: create a configuration, a user and a certificate in one directory, and run the daemon with them.

Existing files are kept.
"""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import sys
from pathlib import Path

from ftpsd.accounts import hashes
from ftpsd.cli.page import print_when_ready
from ftpsd.cli.serve.foreground import serve
from ftpsd.cli.serve.self_signed import complete, make_certificate
from ftpsd.cli.user import passwords
from ftpsd.cli.user.change import create
from ftpsd.cli.user.users import open_users
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration

#: The port of a new demonstration, unless an option says otherwise.
_PORT = 2121

#: What is between the port of a demonstration and that of its page: 8121, usually.
_PAGE_OFFSET = 6000

#: The first of the passive ports: of these, the one whose range contains no listener.
_PASSIVE = (50000, 50100, 50200)

#: Bytes of the path of a Unix socket (unix(7)).
_LONGEST_SOCKET = 107

_CONFIGURATION = """\
# Created by `ftpsd demo`. To serve other machines, change the address to "::".
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

#: The page, for a directory whose path is short enough for a Unix socket.
_ADMINISTRATION = """\
admin:
  socket: admin.sock
  page: {{port: {port}}}
"""

_USERS = """\
# Your own users may stand here. `ftpsd user` writes users.d: see `ftpsd user list -c ftpsd.yaml`.
users:
"""

#: The user that a demonstration has.
_USER = "demo"


#: The files that `--reset` creates again. The files of the user stay.
_FILE = f"users.d/{_USER}.yaml"
_CREATED = ("ftpsd.yaml", "users.yaml", _FILE, "certificate.pem", "key.pem", "password")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd demo`."""
    parser.add_argument(
        "--port", type=_port, metavar="N", help=f"default: the port in the demo's ftpsd.yaml, or {_PORT}"
    )
    parser.add_argument("--directory", default="ftpsd-demo", help="where all its files are (default: %(default)s)")
    parser.add_argument("--reset", action="store_true", help="create configuration, user and certificate again")


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("write a number from 1 to 65535")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Create what is missing, print how to connect, and serve until interrupted. Return the exit status."""
    home, port = Path(options.directory).absolute(), options.port
    try:
        if options.reset:
            for name in _CREATED:
                (home / name).unlink(missing_ok=True)
        _create(home, port or _PORT)
        configuration = load.load(home / "ftpsd.yaml")
    except InvalidConfiguration as error:
        print(f"{error}\nTo create the files again: ftpsd demo --reset", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ftpsd demo: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    listener = configuration.settings.listen[0]
    if port is not None and port != listener.port:
        problem = f"{home / 'ftpsd.yaml'} listens on port {listener.port}"
        print(f"ftpsd demo: {problem}. Change it there, or create the files again with --reset.", file=sys.stderr)
        return 2
    _print_instructions(home, configuration)
    if configuration.settings.admin.page is not None:
        print_when_ready(str(home / "ftpsd.yaml"))
    return serve(home / "ftpsd.yaml")


def _create(home: Path, port: int) -> None:
    """Write the files that are missing. Existing files may have been edited, and stay as they are."""
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not (home / "files").exists():
        (home / "files").mkdir(mode=0o755)
        (home / "files" / "welcome.txt").write_text("It works.\n")
    complete(home / "certificate.pem", home / "key.pem")
    if not any((home / name).exists() for name in ("certificate.pem", "key.pem")):
        make_certificate(home / "certificate.pem", home / "key.pem")
    if not (home / "ftpsd.yaml").exists():
        # The passive ports must not contain the port of the listener.
        page = _page_port(port)
        low = next(each for each in _PASSIVE if each // 100 not in (port // 100, page // 100))
        text = _CONFIGURATION.format(port=port, low=low, high=low + 99)
        if len(os.fsencode(home / "admin.sock")) <= _LONGEST_SOCKET:
            text += _ADMINISTRATION.format(port=page)
        _write(home / "ftpsd.yaml", text)
    if not (home / "users.yaml").exists():
        if not (home / "password").exists():
            _write(home / "password", passwords.generate() + "\n")
        _write(home / "users.yaml", _USERS)
        if not (home / _FILE).exists():
            users = open_users(os.path.realpath(home / "ftpsd.yaml"))  # homes are made through no link
            create(users, _USER, {"home": "files"}, _password(home))


def _page_port(port: int) -> int:
    """Return a free port for the page of a demonstration that listens on `port`."""
    first = port + _PAGE_OFFSET if port < 50_000 else port - _PAGE_OFFSET
    for candidate in range(first, first + 10):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return candidate
    return first


def _password(home: Path) -> str:
    try:
        return (home / "password").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _print_instructions(home: Path, configuration: load.Configuration) -> None:
    """Print how to connect. The files may have been edited: addresses and users are those of the configuration."""
    settings, users = configuration.settings, configuration.users.users
    listener = settings.listen[0]
    host = "127.0.0.1" if listener.address in ("::", "0.0.0.0") else listener.address
    scheme = "ftps" if listener.tls == "implicit" else "ftp"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.port}/"
    print(f"address   {url} with {listener.tls} TLS; passive ports {settings.passive.ports}")
    user = users.get(_USER) or next(filter(None, map(users.get, users.names())), None)
    if user is not None:
        password = _password(home)
        valid = bool(password) and hashes.verify(password, user.settings.password or "")
        shown = password if valid else "(as you have set it)"
        print(f"files     {user.settings.home}\nuser      {user.name}\npassword  {shown}\n")
        login = shlex.quote(f"{user.name}:{password}" if valid else user.name)
        print(
            f"curl -v --ssl-reqd --cacert {shlex.quote(str(settings.tls.certificate))} -u {login} {url}\n", flush=True
        )


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        file.write(text)
