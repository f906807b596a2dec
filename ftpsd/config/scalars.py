"""Convert one value of a YAML file to the type of a setting, without any coercion.

Each function takes a plain value, and raises InvalidValue if it does not fit.
"""

from __future__ import annotations

import base64
import importlib
import ipaddress
import re
from datetime import datetime, timedelta
from typing import get_args

from ftpsd.config.faults import quoted, suggestion
from ftpsd.config.sections.events import PathPattern
from ftpsd.config.sections.storage import StorePath
from ftpsd.config.sections.values import Quantity, UserValues
from ftpsd.config.settings import MOST_WORKERS, Encoding, Fingerprint, Pattern, PortRange, TotpSecret, Umask
from ftpsd.protocol.encoding.names import UTF8
from ftpsd.protocol.encoding.names import find as find_encoding
from ftpsd.protocol.encoding.supported import ENCODINGS
from ftpsd.protocol.login_rules import DAYS, Hours, Network
from ftpsd.protocol.paths import VirtualPath
from ftpsd.protocol.permissions import PERMISSIONS, PROFILES
from ftpsd.protocol.replies import Refusal

#: The names of all encodings, for suggestions.
_ENCODINGS = (UTF8.name, *ENCODINGS)

#: The least bytes of a secret (RFC 4226 section 4, R6).
_LEAST_SECRET = 16
_MAKE_SECRET = "Let `ftpsd user totp` make one."


#: The most bytes of a path in a store: a key has 1,024, and the names of users' files need some.
_LONGEST_STORE_PATH = 400


class InvalidValue(ValueError):
    """A value that cannot be used: the problem, and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


# --- basic types -----------------------------------------------------------------------------------


def string(value: object) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise InvalidValue(f"{quoted(value)} is not a string", "Put it in quotes.")
    return value


def boolean(value: object) -> bool:
    """Return a boolean."""
    if not isinstance(value, bool):
        raise InvalidValue(f"{quoted(value)} is not a boolean", "Write true or false.")
    return value


def integer(value: object) -> int:
    """Return a whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValue(f"{quoted(value)} is not a whole number", "Write a whole number, without quotes.")
    if value < 0:
        raise InvalidValue(f"{value} is negative", "Write 0 or a larger number.")
    return value


def quantity(value: object) -> Quantity:
    """Return a number that may be written with K, M, G or T (binary)."""
    match = re.fullmatch(r"([0-9]{1,18})([KMGT]?)", str(value))
    if match is None:
        raise InvalidValue(f"{quoted(value)} is not a size", "Write a whole number, or one with K, M, G or T: 10G.")
    return Quantity(int(match[1]) << 10 * "_KMGT".index(match[2] or "_"))


def worker_count(value: object) -> int | str:
    """Return a number of worker processes, or "auto"."""
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_WORKERS:
        raise InvalidValue(
            f"{quoted(value)} is not a number of worker processes", f"Write a number from 1 to {MOST_WORKERS}, or auto."
        )
    return value


def choice(value: object, kind: object) -> object:
    """Return one of the values of a Literal."""
    choices = get_args(kind)
    # YAML 1.1 reads off as false.
    value = "off" if value is False and "off" in choices else value
    value = str(value) if isinstance(value, float) else value
    if value not in choices:
        raise InvalidValue(f"{quoted(value)} is not a valid value", suggestion(str(value), choices))
    return value


def texts(value: object) -> dict[str, str]:
    """Return a mapping of names to strings."""
    if not isinstance(value, dict):
        raise InvalidValue("must be a mapping", "Write it as {name: value}.")
    return {string(name): string(each) for name, each in value.items()}


def user_values(value: object) -> UserValues:
    """Return keys of a user, which are checked with the rest of the record."""
    if not isinstance(value, dict):
        raise InvalidValue("must be a mapping", "Write it as {key: value}.")
    return UserValues(value)


# --- the network -----------------------------------------------------------------------------------


def ports(value: object) -> PortRange:
    """Return a range of unprivileged ports; a single port is a range, too."""
    match = re.fullmatch(r"([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?", str(value))
    if match is None:
        raise InvalidValue(f"{quoted(value)} is not a port range", "Write it as 50000-50999.")
    low, high = int(match[1]), int(match[2] or match[1])
    if low > high:
        raise InvalidValue(f"the port range {value} is reversed", f"Write {high}-{low}.")
    if not 1024 <= low <= high <= 65535:
        raise InvalidValue(f"the port range {value} is not within 1024-65535", "Write it as 50000-50999.")
    return PortRange(low, high)


def network(value: object) -> Network:
    """Return a network. IPv4-mapped ones become IPv4, as the addresses of their clients do."""
    try:
        found = ipaddress.ip_network(string(value))
    except ValueError as error:
        raise InvalidValue(f"{quoted(value)} is not a network ({error})", "Write it as 10.0.0.0/8.") from None
    mapped = getattr(found.network_address, "ipv4_mapped", None)
    if mapped is not None and found.prefixlen >= 96:
        return ipaddress.IPv4Network((mapped, found.prefixlen - 96))
    return found


# --- dates and hours -------------------------------------------------------------------------------


def moment(value: object) -> datetime:
    """Return a date with a time, or the end of a day. The time zone is that of the server unless the value has one."""
    try:
        text = string(value).strip()
        found = datetime.fromisoformat(text)
        if len(text) <= 10:
            found += timedelta(days=1)
        return found.astimezone()
    except OverflowError:
        remedy = "Remove the key: then the account does not expire."
        raise InvalidValue(f"{quoted(value)} is after the last supported day", remedy) from None
    except ValueError:
        remedy = "Write it as 2027-01-31, or 2027-01-31 18:00."
        raise InvalidValue(f"{quoted(value)} is not a date, nor a date and time", remedy) from None


def hours(value: object) -> Hours:
    """Return hours of the week: `Mon-Fri 08:00-18:00`."""
    text = string(value).strip()
    match = re.fullmatch(r"(?:([A-Za-z,\s-]+)\s)?\s*(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)", text)
    if match is None:
        raise InvalidValue(f"{quoted(value)} is not a time of the week", "Write it as Mon-Fri 08:00-18:00.")
    start, end = _minutes(match[2], match[3]), _minutes(match[4], match[5])
    if start == end or start == 24 * 60:
        raise InvalidValue(f"{quoted(value)} is an empty time span", "Write 00:00-24:00 for the whole day.")
    return Hours(_days(match[1]), start, end, text)


def _minutes(hour: str, minute: str) -> int:
    minutes = int(hour) * 60 + int(minute)
    if int(minute) > 59 or minutes > 24 * 60:
        raise InvalidValue(f"{hour}:{minute} is not a time of day", "Write a time from 00:00 to 24:00.")
    return minutes


def _days(text: str | None) -> frozenset[int]:
    """Return the days of `Mon-Fri,Sun`; a range may include the end of the week. None stands for every day."""
    days: set[int] = set()
    for span in text.split(",") if text else ("Mon-Sun",):
        first, last = (_day(each.strip()) for each in (span.split("-", 1) * 2)[:2])
        days.update(day % 7 for day in range(first, last + 1 if last >= first else last + 8))
    return frozenset(days)


def _day(name: str) -> int:
    if name.capitalize() not in DAYS:
        raise InvalidValue(f"{quoted(name)} is not a day", suggestion(name.capitalize(), DAYS))
    return DAYS.index(name.capitalize())


# --- files -----------------------------------------------------------------------------------------


def pattern(value: object) -> Pattern:
    """Return a shell pattern for the name of a file or directory."""
    text = string(value)
    if not text or "/" in text:
        raise InvalidValue(f"{quoted(value)} is not a pattern for a name", "Write a pattern without /, as *.exe.")
    return Pattern(text)


def encoding(value: object) -> Encoding:
    """Return the encoding of a user's names."""
    found = find_encoding(string(value))
    if found is None:
        raise InvalidValue(f"{quoted(value)} is not a supported encoding", suggestion(str(value), _ENCODINGS))
    return Encoding(found.name)


def path_pattern(value: object) -> PathPattern:
    """Return a pattern for virtual paths."""
    text = string(value)
    if not text.startswith("/"):
        remedy = "Write /in/*.csv, or /in/** for all below /in."
        raise InvalidValue(f"{quoted(value)} does not start with /", remedy)
    return PathPattern(text)


def totp_secret(value: object) -> TotpSecret:
    """Return the secret of one-time passwords. It is in no fault."""
    try:
        secret = string(value).replace(" ", "").rstrip("=").upper()
        size = len(base64.b32decode(secret + "=" * (-len(secret) % 8)))
    except ValueError:  # InvalidValue is one, and has the secret in its text
        raise InvalidValue("is not a secret in base32", _MAKE_SECRET) from None
    if size < _LEAST_SECRET:
        raise InvalidValue("is too short", _MAKE_SECRET)
    try:
        importlib.import_module("pyotp")
    except ImportError as error:
        remedy = "Install it (pip install 'ftpsd[totp]', or apt install python3-pyotp), or remove the key."
        raise InvalidValue(f"needs the Python module pyotp, which cannot be imported ({error})", remedy) from None
    return TotpSecret(secret)


def fingerprint(value: object) -> Fingerprint:
    """Return a SHA-256 fingerprint, as OpenSSL prints it or in plain hexadecimal digits."""
    text = re.sub("^sha-?256( fingerprint)?[:=]", "", str(value).strip(), flags=re.IGNORECASE).lower()
    if not re.fullmatch("[0-9a-f]{64}|([0-9a-f]{2}:){31}[0-9a-f]{2}", text):
        remedy = "Write what `openssl x509 -noout -fingerprint -sha256 -in FILE` prints."
        raise InvalidValue(f"{quoted(value)} is not a SHA-256 fingerprint", remedy)
    return Fingerprint(text.replace(":", ""))


def umask(value: object) -> Umask:
    """Return a umask, which must be quoted: YAML 1.1 reads 022 as the number 18."""
    if not isinstance(value, str):
        raise InvalidValue(f"{quoted(value)} is a number, not a umask", 'Write octal digits in quotes, as "022".')
    if not re.fullmatch("0?[0-7]{3}", value):
        raise InvalidValue(f"{quoted(value)} is not a umask", 'Write three octal digits in quotes, as "022".')
    return Umask(value, 8)


def permissions(value: object) -> frozenset[str]:
    """Return the permissions of a list, or of a profile that is named."""
    if isinstance(value, str):
        if value not in PROFILES:
            raise InvalidValue(f"{quoted(value)} is not a permission profile", suggestion(value, PROFILES))
        return PROFILES[value]
    if not isinstance(value, list):
        remedy = "Write read-only, read-write, upload-only or a list of permissions."
        raise InvalidValue(f"{quoted(value)} is not a list of permissions", remedy)
    for each in value:
        if each not in PERMISSIONS:
            raise InvalidValue(f"{quoted(each)} is not a permission", suggestion(str(each), PERMISSIONS))
    return frozenset(value)


def store_path(value: object) -> StorePath:
    """Return a path in a store, without slashes at its end."""
    text = string(value)
    names = text.rstrip("/").split("/") if text else []
    if text.startswith("/"):
        raise InvalidValue(
            f"{quoted(value)} starts with /", f"Write {quoted(text.lstrip('/'))}: the path is that in the store."
        )
    if any(name in ("", ".", "..") for name in names):
        raise InvalidValue(
            f"{quoted(value)} is not a path in a store", "Write names with / between them, as in/{user}/."
        )
    if any(ord(each) < 32 or ord(each) == 127 for each in text) or len(text.encode()) > _LONGEST_STORE_PATH:
        remedy = f"Write at most {_LONGEST_STORE_PATH} bytes, without control characters."
        raise InvalidValue(f"{quoted(value)} is not a path in a store", remedy)
    return StorePath("/".join(names))


def folder_path(value: object) -> tuple[str, ...]:
    """Return the names in the path at which users see a folder."""
    text = string(value)
    if not text.startswith("/"):
        raise InvalidValue(f"the path {text} does not start with /", f"Write /{text}.")
    try:
        parts = VirtualPath().join(text).parts
    except Refusal as refusal:
        raise InvalidValue(refusal.reply.text.rstrip("."), "Choose a shorter path.") from None
    if not parts:
        raise InvalidValue("/ is the home", "Write a path below /, as /shared.")
    return parts


def paths(value: object) -> dict[tuple[str, ...], frozenset[str]]:
    """Return permissions by virtual path."""
    if not isinstance(value, dict):
        raise InvalidValue("must be a mapping of paths to permissions", "Write it as {/archive: read-only}.")
    result = {}
    for path, allowed in value.items():
        if not path.startswith("/"):
            raise InvalidValue(f"the path {path} does not start with /", f"Write /{path}.")
        result[VirtualPath().join(path).parts] = permissions(allowed)
    return result
