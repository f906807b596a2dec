"""`ftpsd container`: the first program of a container. See docs/container.md.

It makes what a volume lacks (a certificate, homes, the directory of the state), writes the users of the environment
into `users.d`, and runs the daemon.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from ftpsd.cli.failure import CommandFailed
from ftpsd.cli.options import add_config
from ftpsd.cli.serve import given_users
from ftpsd.cli.serve.foreground import serve
from ftpsd.cli.serve.given_users import GivenUser
from ftpsd.cli.serve.self_signed import LOOPBACK, complete, make_certificate
from ftpsd.cli.serve.written_users import HEADER, WrittenUsers
from ftpsd.cli.user import home
from ftpsd.cli.user.users import Users, open_users
from ftpsd.cli.user.values import Values, parse, text
from ftpsd.config import load
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.config.settings import Settings
from ftpsd.protocol.addresses import is_ipv4
from ftpsd.system.state import directory

#: Days for which a certificate is made. Nobody renews it but who removes it.
_DAYS = 3650

#: The longest common name of a certificate (RFC 5280 appendix A.1).
_LONGEST_NAME = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd container`."""
    add_config(parser)
    parser.add_argument("--prepare", action="store_true", help="write the users and the certificate, and exit")


def run(options: argparse.Namespace) -> int:
    """Prepare, and serve until SIGTERM. Return the exit status."""
    path = os.path.abspath(options.config)
    try:
        settings = load.load_settings(path)
    except InvalidConfiguration as error:
        print(error, file=sys.stderr)
        return 1
    given = given_users.read(os.environ)
    if given.faults:
        raise CommandFailed("\n".join(given.faults))
    _make_directory(directory(settings.state), 0o700)
    _make_directory(settings.users.directory, 0o750)
    _make_certificate(settings)
    _write_users(path, settings, given.users)
    for variable in [each for each in os.environ if each.startswith(given_users.PREFIX)]:
        del os.environ[variable]
    return 0 if options.prepare else serve(Path(path))


def _make_directory(path: Path | None, mode: int) -> None:
    """Make a directory that the configuration names if it is missing."""
    if path is not None and not path.is_dir():
        _require_writable(path)
        path.mkdir(mode, parents=True)


def _require_writable(path: Path) -> None:
    """Raise CommandFailed if a missing file or directory cannot be created."""
    above = next(each for each in path.parents if each.exists())
    if not above.is_dir():
        raise CommandFailed(f"cannot make {path}: {above} is not a directory")
    if not os.access(above, os.W_OK | os.X_OK):
        user, group = os.geteuid(), os.getegid()
        raise CommandFailed(
            f"cannot make {path}: user {user} (group {group}) may not write to {above}. Mount a volume there that this"
            f" user may write to: with Docker, chown it to {user}; in Kubernetes, set fsGroup"
        )


# --- certificate ----------------------------------------------------------------------------------


def _make_certificate(settings: Settings) -> None:
    """Make a certificate if neither it nor its key is there."""
    certificate, key = settings.tls.certificate, settings.tls.private_key
    if key is not None:
        complete(certificate, key)
    if key is None or os.path.lexists(certificate) or os.path.lexists(key):
        return
    for each in (certificate, key):
        _require_writable(each)
        each.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys([*_announced(settings), socket.gethostname(), *LOOPBACK]))
    make_certificate(certificate, key, names, names[0][:_LONGEST_NAME], _DAYS)
    _log(f"made a self-signed certificate for {', '.join(names)}: {certificate}. No client trusts it: mount your own")


def _announced(settings: Settings) -> list[str]:
    passive = settings.passive
    return [*passive.host_names, *([passive.address] if passive.address and is_ipv4(passive.address) else [])]


# --- users ----------------------------------------------------------------------------------------


def _write_users(configuration: str, settings: Settings, given: list[GivenUser]) -> None:
    """Write a file and make a home for each user, and remove the files of earlier starts. Raises CommandFailed."""
    users = open_users(configuration)
    written = WrittenUsers(users.directory)
    if not given and not written.names:
        return
    _require_writable(users.directory.path / "NAME.yaml")
    faults, files = [], {}
    for user in given:
        try:
            files[user.name] = HEADER + text(_checked(users, user, written, settings))
        except (ValueError, CommandFailed) as failure:
            faults.append(str(failure))
    if faults:
        raise CommandFailed("\n".join(faults))
    for name in written.replace(files):
        _log(f"removed the user {name}: the environment does not name this user any more")
    for user in given:
        if user.is_exposed:
            variable, better = user.variable("PASSWORD"), user.variable("PASSWORD_FILE")
            _log(f"warning: whoever may inspect the container sees the password in {variable}. Use {better}")


def _checked(users: Users, user: GivenUser, written: WrittenUsers, settings: Settings) -> Values:
    """Return the keys of a user whose name is free, and make the home."""
    old = written.files.get(user.name)
    if old is None:
        users.require_new(user.name)
    values = user.values(settings.passwords)
    if old is not None and parse(users.directory.file(user.name), old).get("enabled") is False:
        values["enabled"] = False
        _log(f"the user {user.name} is disabled until you run: ftpsd user enable {user.name}")
    path = users.home(user.name, values)
    if path is None:
        raise CommandFailed(f"{user.name} has no home: set {user.variable('HOME')}, or defaults.home in users.yaml")
    if not os.path.isdir(path):
        _require_writable(Path(path))
        home.make(os.path.normpath(path))
    return values


def _log(line: str) -> None:
    print(f"ftpsd container: {line}", flush=True)
