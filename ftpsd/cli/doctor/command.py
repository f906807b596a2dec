"""The subcommand `ftpsd doctor`: its options, credentials and exit status."""

from __future__ import annotations

import argparse
import getpass
import ipaddress
import re
import sys
from functools import partial
from typing import TYPE_CHECKING

from ftpsd.cli.options import add_config

if TYPE_CHECKING:
    from ftpsd.checks.findings import Report

IMPLICIT_PORT = 990

EXAMPLE = """\
examples:
  ftpsd doctor --from ftp.example.com --user alice      on any machine, as a client
  ftpsd doctor -c /etc/ftpsd/ftpsd.yaml --user alice    on the server, as root; without --user no login is tried

exit status: 0 nothing found, 1 findings, 2 usage error, 3 the server cannot be reached
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ftpsd doctor`."""
    parser.epilog = EXAMPLE
    add_config(parser)
    parser.add_argument("--from", dest="target", metavar="HOST[:PORT]", help="check as a client of this server")
    parser.add_argument("--user", help="log in as this user (default: ask)")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument("--implicit", action="store_true", help="the port has implicit TLS (990 always has)")
    parser.add_argument(
        "--cafile", metavar="FILE", help="trust the authorities in this PEM file instead of the system's"
    )
    parser.add_argument("--cert", metavar="FILE", help="show the server this certificate (PEM)")
    parser.add_argument("--key", metavar="FILE", help="its private key, if that is not in the same file")
    parser.add_argument("--fingerprint", metavar="SHA256", help="trust the certificate with this fingerprint")
    parser.add_argument(
        "--insecure", action="store_true", help="send the password even if the certificate is not trusted"
    )
    parser.add_argument("--timeout", type=_seconds, default=5.0, metavar="S", help="seconds for each wait (default: 5)")
    parser.add_argument("--tries", type=_tries, default=6, metavar="N", help="passive ports to try (default: 6)")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(options: argparse.Namespace) -> int:
    """Run the checks, print the report, return the exit status."""
    from ftpsd.checks import findings

    try:
        report = _check_server(options) if options.target is None else _check_from(options)
    except Usage as fault:
        return _usage(str(fault))
    print(findings.as_json(report) if options.json else findings.as_text(report))
    return report.status


def _check_server(options: argparse.Namespace) -> Report:
    from ftpsd.checks.findings import Report
    from ftpsd.cli.doctor import listeners, server

    report = Report(options.config)
    settings = server.check(options.config, report)
    if settings is not None and options.user is not None:
        certificate = _certificate(options)
        ask = partial(credentials, options.user, options.password_stdin, certificate is not None)
        listeners.log_in(settings, ask, options.timeout, options.tries, report, certificate)
    return report


def _check_from(options: argparse.Namespace) -> Report:
    from ftpsd.checks.findings import Report
    from ftpsd.cli.doctor import remote
    from ftpsd.cli.doctor.control import Target

    host, port = parse_target(options.target, IMPLICIT_PORT if options.implicit else 21)
    implicit = options.implicit or port == IMPLICIT_PORT
    if options.cafile is not None:
        _check_authorities(options.cafile)
    certificate = _certificate(options)
    ask = partial(credentials, options.user, options.password_stdin, certificate is not None)
    trust = (options.cafile, (options.fingerprint,) if options.fingerprint else (), options.insecure)
    report = Report(f"{host}, port {port}, {'implicit' if implicit else 'explicit'} TLS")
    remote.check(
        Target(host, port, implicit, ask, options.timeout, *trust, certificate=certificate), options.tries, report
    )
    return report


class Usage(Exception):
    """A fault in the command line; the text says which."""


def _check_authorities(file: str) -> None:
    import ssl

    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        raise Usage(f"{file} holds no certificates that can be read: {error.strerror or error}") from None


def _certificate(options: argparse.Namespace) -> tuple[str, str] | None:
    """Return the files of the client's certificate and its key; None if it has none. Raises Usage."""
    import ssl

    if options.cert is None:
        if options.key is not None:
            raise Usage("--key is the key of a certificate: name that with --cert")
        return None
    files = options.cert, options.key or options.cert
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(*files, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise Usage(f"{' and '.join(dict.fromkeys(files))}: no certificate with its key can be read: {text}") from None
    return files


def _no_password() -> str:
    """Refuse a key with a password: OpenSSL would ask for it at the terminal."""
    raise ValueError("the key has a password: write it without one for this check")


def parse_target(text: str, port: int) -> tuple[str, int]:
    """Return host and port of HOST, HOST:PORT, ADDRESS, [IPv6] or [IPv6]:PORT. Raises Usage."""
    if _is_ipv6(text):
        return text, port
    found = re.fullmatch(r"\[([^]\s]+)\](?::(\d+))?|([^:\s/\[\]]+)(?::(\d+))?", text)
    if found is None or (found[1] and not _is_ipv6(found[1])):
        raise Usage(f"{text!r} is neither HOST nor HOST:PORT")
    number = found[2] or found[4]
    if number is not None and not 0 < int(number) < 65536:
        raise Usage(f"{number} is not a port")
    return found[1] or found[3], int(number) if number else port


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def credentials(user: str | None, from_stdin: bool, has_certificate: bool = False) -> tuple[str, str]:
    """Return name and password, from the options, standard input or the terminal. Raises Usage.

    With a certificate of the client the password may be missing.
    """
    interactive = sys.stdin.isatty()
    if user is None:
        if from_stdin or not interactive:
            raise Usage("name the user: --user NAME")
        print("User: ", end="", file=sys.stderr, flush=True)
        user = sys.stdin.readline().rstrip("\n")
    password = ""
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif interactive:
        password = getpass.getpass(f"Password of {user}{' (empty: none)' if has_certificate else ''}: ")
    elif not has_certificate:
        raise Usage("there is no terminal to ask for the password: use --password-stdin")
    if not user or any(character in user + password for character in "\r\n\0"):
        raise Usage("the user's name is empty, or name or password hold a line break")
    return user, password


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 600:
        raise argparse.ArgumentTypeError("write seconds, from 0.1 to 600")
    return seconds


def _tries(text: str) -> int:
    tries = int(text)
    if not 1 <= tries <= 100:
        raise argparse.ArgumentTypeError("write a number from 1 to 100")
    return tries


def _usage(fault: str) -> int:
    print(f"ftpsd doctor: {fault}\nSee: ftpsd doctor --help", file=sys.stderr)
    return 2
