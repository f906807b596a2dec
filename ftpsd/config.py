"""YAML to frozen settings: types by cattrs, then what only the whole can tell. Every fault at once."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn

from ftpsd import hashes
from ftpsd.paths import VirtualPath
from ftpsd.ports import host_names
from ftpsd.rights import PERMISSIONS, PROFILES
from ftpsd.settings import (
    ListenSettings,
    Network,
    PortRange,
    Settings,
    UserSettings,
    UsersFile,
)
from ftpsd.tls import CIPHERS, ContextMaker, Identity
from ftpsd.wire import timestamp
from ftpsd.yamlfile import Document, Fault, Faulty, Key, did_you_mean, read

T = TypeVar("T")

#: Where the daemon and `ftpsd check` look when nothing is said.
DEFAULT = "/etc/ftpsd/ftpsd.yaml"

#: Days before its end at which a certificate is worth a warning.
EXPIRES_SOON = 14


class Wrong(ValueError):
    """A value that cannot be used: the problem, and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


# --- one value -------------------------------------------------------------------------------------


def _told(value: Any) -> str:
    return "nothing" if value is None else f"“{value}”" if isinstance(value, str) else repr(value)


def _text(value: Any, _: Any = None) -> str:
    if not isinstance(value, str):
        raise Wrong(f"{_told(value)} is not a text", "Put it in quotes.")
    return value


def _flag(value: Any, _: Any = None) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"{_told(value)} is neither true nor false", "Write true or false.")
    return value


def _number(value: Any, _: Any = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Wrong(f"{_told(value)} is not a whole number", "Write a whole number, without quotes.")
    if value < 0:
        raise Wrong(f"{value} is less than zero", "Write a number from 0.")
    return value


def _choice(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    # YAML 1.1 reads off as false.
    value = "off" if value is False and "off" in choices else value
    value = str(value) if isinstance(value, float) else value
    if value not in choices:
        raise Wrong(f"{_told(value)} is not known here", did_you_mean(str(value), choices))
    return value


def _ports(value: Any, _: Any = None) -> PortRange:
    match = re.fullmatch(r"([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?", str(value))
    if match is None:
        raise Wrong(f"{_told(value)} is not a range of ports", "Write it as 50000-50999.")
    low, high = int(match[1]), int(match[2] or match[1])
    if low > high:
        raise Wrong(f"the range {value} runs backwards", f"Write {high}-{low}.")
    if not 1024 <= low <= high <= 65535:
        raise Wrong(f"the range {value} is outside of 1024-65535", "Write it as 50000-50999.")
    return PortRange(low, high)


def _network(value: Any, _: Any = None) -> Network:
    try:
        return ipaddress.ip_network(_text(value))
    except ValueError as error:
        raise Wrong(f"{_told(value)} is not a network ({error})", "Write it as 10.0.0.0/8.") from None


def _permissions(value: Any, _: Any = None) -> frozenset[str]:
    if isinstance(value, str):
        if value not in PROFILES:
            raise Wrong(f"{_told(value)} is not known here", did_you_mean(value, PROFILES))
        return PROFILES[value]
    if not isinstance(value, list):
        raise Wrong(f"{_told(value)} is no list of permissions", "Write read-only, read-write, upload-only or a list.")
    for each in value:
        if each not in PERMISSIONS:
            raise Wrong(f"{_told(each)} is no permission", did_you_mean(str(each), PERMISSIONS))
    return frozenset(value)


def _paths(value: Any, _: Any = None) -> dict[tuple[str, ...], frozenset[str]]:
    if not isinstance(value, dict):
        raise Wrong("this is not a mapping of paths to permissions", "Write it as {/archive: read-only}.")
    result = {}
    for path, permissions in value.items():
        if not path.startswith("/"):
            raise Wrong(f"the path {path} does not start with /", f"Write /{path}.")
        result[VirtualPath().join(path).parts] = _permissions(permissions)
    return result


# --- a whole file ----------------------------------------------------------------------------------


def _converter(base: Path) -> cattrs.Converter:
    """A converter without any coercion; relative paths are meant from `base`."""
    converter = cattrs.Converter(detailed_validation=True)

    def path(value: Any, _: Any = None) -> Path:
        return base / _text(value)

    hooks: dict[Any, Callable[[Any, Any], Any]] = {
        str: _text,
        bool: _flag,
        int: _number,
        Path: path,
        PortRange: _ports,
        Network: _network,
    }
    for kind, hook in hooks.items():
        converter.register_structure_hook(kind, hook)
    converter.register_structure_hook_func(lambda kind: str(get_origin(kind)) == str(Literal), _choice)
    converter.register_structure_hook_func(lambda kind: kind == frozenset[str], _permissions)
    converter.register_structure_hook_func(lambda kind: kind == dict[tuple[str, ...], frozenset[str]], _paths)
    converter.register_structure_hook_func(_is_sequence, lambda value, kind: _sequence(converter, value, kind))
    converter.register_structure_hook_factory(
        attrs.has, lambda cls: _section(cls, make_dict_structure_fn(cls, converter))
    )
    return converter


def _is_sequence(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (Ellipsis,)


class At(ValueError):
    """Faults of the entries of a list, each with its index."""

    def __init__(self, errors: list[tuple[int, Exception]]) -> None:
        super().__init__("entries")
        self.errors = errors


def _sequence(converter: cattrs.Converter, value: Any, kind: Any) -> Any:
    if not isinstance(value, list):
        raise Wrong("a list is expected here", "Start each entry with a dash, or use [ ].")
    result: list[Any] = []
    errors: list[tuple[int, Exception]] = []
    for index, each in enumerate(value):
        try:
            result.append(converter.structure(each, get_args(kind)[0]))
        except Exception as error:
            errors.append((index, error))
    if errors:
        raise At(errors)
    return tuple(result)


def _section(cls: type[T], structure: Callable[[Any, Any], T]) -> Callable[[Any, Any], T]:
    def checked(value: Any, kind: Any) -> T:
        if not isinstance(value, dict):
            raise Wrong("keys are expected below this one", "Write them indented, one in a line.")
        return structure(value, kind)

    return checked


def _faults(document: Document, error: BaseException, key: Key) -> None:
    """cattrs' tree of errors as faults of the document."""
    if isinstance(error, Wrong):
        document.fault(key, error.problem, error.remedy)
    elif isinstance(error, At):
        for index, each in error.errors:
            _faults(document, each, (*key, index))
    elif isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            _faults(document, inner, (*key, *_attribute(inner)))
    elif isinstance(error, KeyError):
        name = str(error.args[0])
        document.fault((*key, name), "is missing", f"Add {name}.")
    else:
        document.fault(key, f"cannot be used ({error})", "See ftpsd.yaml(5).")


def _attribute(error: BaseException) -> Iterator[str]:
    for note in getattr(error, "__notes__", ()):
        match = re.search(r"@ attribute (\w+)", str(note))
        if match and not isinstance(error, KeyError):  # a missing key names itself already
            yield match[1]


def _unknown(document: Document, value: Any, cls: Any, key: Key) -> None:
    """Unknown keys, at any depth; cattrs would name them without a line."""
    if not isinstance(value, dict) or not attrs.has(cls):
        return
    fields = {field.name: field.type for field in attrs.fields(attrs.resolve_types(cls))}
    for name, below in value.items():
        if name not in fields:
            document.fault((*key, name), "is not a key that is known here", did_you_mean(name, fields))
        elif attrs.has(fields[name]):  # type: ignore[arg-type]
            _unknown(document, below, fields[name], (*key, name))
        elif _is_sequence(fields[name]) and isinstance(below, list):
            for index, each in enumerate(below):
                _unknown(document, each, get_args(fields[name])[0], (*key, name, index))


def _structure(document: Document, value: Any, cls: type[T], key: Key = ()) -> T | None:
    _unknown(document, value, cls, key)
    try:
        return _converter(document.path.parent).structure({} if value is None else value, cls)
    except (Wrong, At, KeyError, BaseExceptionGroup) as error:
        _faults(document, error, key)
    return None


# --- ftpsd.yaml ------------------------------------------------------------------------------------


@attrs.frozen
class Configuration:
    """A complete set: nothing in it has to be looked up or parsed again."""

    settings: Settings
    users: UsersFile
    contexts: ContextMaker
    #: What the host names of `passive` were when they were looked up for this set.
    addresses: dict[str, str]


def load(path: str | os.PathLike[str]) -> Configuration:
    """Everything that both files and the certificate say, or `Faulty` with all that is wrong."""
    main = read(Path(os.path.abspath(path)))
    if not main.faults and main.value is None:
        main.fault((), "the file is empty", "Start from the example in etc/ftpsd.yaml.")
    settings = None if main.value is None else _structure(main, main.value, Settings)
    contexts, users, faults = None, None, main.faults
    addresses: dict[str, str] = {}
    if settings is not None:
        file = main.path.parent / settings.users.file  # the default is relative, too
        settings = attrs.evolve(settings, users=attrs.evolve(settings.users, file=file))
        _check_listeners(main, settings)
        _check_address(main, settings)
        addresses = _look_up_names(main, settings)
        contexts = _load_tls(main, settings)
        users, users_faults = load_users(settings.users.file)
        faults = [*faults, *users_faults]
    if faults or settings is None or contexts is None or users is None:
        raise Faulty(faults)
    return Configuration(settings, users, contexts, addresses)


def warnings(configuration: Configuration, now: float) -> list[str]:
    """What works and will not for long: a certificate that ends soon, or has ended. `now` is POSIX time."""
    ends = configuration.contexts.identity.chain[0].get_notAfter()
    if ends is None:
        return []
    days = int((timestamp(ends.decode().rstrip("Z")) - now) // 86_400)
    path = configuration.settings.tls.certificate
    if days < 0:
        return [f"the certificate {path} has expired: clients that verify it refuse to connect"]
    return [f"the certificate {path} ends in {days} days: renew it"] if days < EXPIRES_SOON else []


def absolute(path: str) -> str:
    """The path as it must be remembered: twistd changes the directory when it goes to the background."""
    return os.path.abspath(path)


def look_up(name: str) -> str:
    """The IPv4 address of a host name. Blocks; OSError when there is none."""
    found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    return str(found[0][4][0])


def _look_up_names(document: Document, settings: Settings) -> dict[str, str]:
    addresses = {}
    for name in host_names(settings.passive):
        try:
            addresses[name] = look_up(name)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            remedy = "Correct the name, or write the IPv4 address."
            document.fault(("passive", "address"), f"{name} has no IPv4 address ({reason})", remedy)
    return addresses


def _check_listeners(document: Document, settings: Settings) -> None:
    if not settings.listen:
        document.fault(("listen",), "is empty", 'Add an entry, as {address: "::", port: 21}.')
    seen: dict[tuple[str, int], int] = {}
    for index, listener in enumerate(settings.listen):
        key: Key = ("listen", index)
        _check_listener(document, settings, listener, key)
        first = seen.setdefault((listener.address, listener.port), index)
        if first != index and listener.port:
            document.fault(key, f"listens where listen[{first}] does", "Choose another port.")


def _check_listener(document: Document, settings: Settings, listener: ListenSettings, key: Key) -> None:
    try:
        ipaddress.ip_address(listener.address)
    except ValueError:
        problem = f"{_told(listener.address)} is not an address"
        document.fault((*key, "address"), problem, 'Write "::" for all, or an address of this machine.')
    if listener.port > 65535:
        document.fault((*key, "port"), f"{listener.port} is not a port", "Write a number up to 65535.")
    if listener.port in settings.passive.ports:
        document.fault(
            ("passive", "ports"),
            f"the range {settings.passive.ports} holds the listener's port {listener.port}",
            "Choose a range without it.",
        )


def _check_address(document: Document, settings: Settings) -> None:
    passive = settings.passive
    told: list[tuple[Key, str | None]] = [(("passive", "address"), passive.address)]
    told += [(("passive", "networks", n, "address"), each.address) for n, each in enumerate(passive.networks)]
    for key, address in told:
        if address is None:
            continue
        try:
            if ipaddress.ip_address(address).version != 4:
                document.fault(key, f"{address} is no IPv4 address", "PASV can tell IPv4 only; EPSV needs no address.")
        except ValueError:
            if not re.fullmatch(r"(?=.{1,253}\Z)(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?", address) or (
                re.fullmatch(r"[0-9.]+", address)
            ):
                document.fault(
                    key,
                    f"{_told(address)} is neither an IPv4 address nor a host name",
                    "Write one of the two, or null.",
                )
    port = settings.active.source_port
    if port is not None and not 1 <= port <= 65535:
        document.fault(("active", "source_port"), f"{port} is not a port", "Write a number up to 65535, or null.")
    for name in ("login", "idle", "data_connect", "stalled", "drain"):
        if getattr(settings.timeouts, name) < 1:
            document.fault(
                ("timeouts", name),
                "must be at least one second",
                "Every wait has an end: write a number from 1.",
            )
    if passive.refresh < 1:
        document.fault(("passive", "refresh"), "must be at least one second", "Write a number from 1.")


# --- certificate and key ---------------------------------------------------------------------------


def _load_tls(document: Document, settings: Settings) -> ContextMaker | None:
    from OpenSSL import SSL, crypto

    tls = settings.tls
    key_path, key_key = (tls.private_key, "private_key") if tls.private_key else (tls.certificate, "certificate")
    chain_pem = _read_pem(document, tls.certificate, ("tls", "certificate"))
    key_pem = _read_pem(document, key_path, ("tls", key_key)) if key_path != tls.certificate else chain_pem
    if chain_pem is None or key_pem is None:
        return None
    blocks = re.findall(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", chain_pem, re.DOTALL)
    if not blocks:
        document.fault(
            ("tls", "certificate"),
            f"{tls.certificate} holds no certificate",
            "Name a PEM file, the server's certificate first.",
        )
        return None
    try:
        chain = tuple(crypto.load_certificate(crypto.FILETYPE_PEM, block) for block in blocks)
    except (crypto.Error, ValueError):
        document.fault(("tls", "certificate"), f"{tls.certificate} is damaged", "Write the file anew.")
        return None
    try:
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, key_pem, b"")
    except (crypto.Error, ValueError, TypeError):
        document.fault(
            ("tls", key_key),
            f"{key_path} holds no private key that can be used",
            "Name a PEM file with an unencrypted key.",
        )
        return None
    maker = ContextMaker(Identity(chain, key), tls.minimum_version, tls.ciphers, tls.data_session != "off")
    if not _matches(chain[0], key):
        document.fault(
            ("tls", key_key),
            f"the key in {key_path} does not belong to the certificate",
            "Name the key that the certificate was made with.",
        )
        return None
    try:
        maker()
    except (SSL.Error, ValueError):
        known = f"Write null for {CIPHERS}."
        document.fault(("tls", "ciphers"), f"{_told(tls.ciphers)} is no cipher string that OpenSSL takes", known)
        return None
    return maker


def _matches(certificate: Any, key: Any) -> bool:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    own = certificate.to_cryptography().public_key().public_bytes(*form)
    return bool(own == key.to_cryptography_key().public_key().public_bytes(*form))


def _read_pem(document: Document, path: Path, key: Key) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        document.fault(
            key, f"{path} cannot be read: {reason}", "Make it readable for the daemon, or name another file."
        )
        return None


# --- users.yaml ------------------------------------------------------------------------------------


def load_users(path: Path) -> tuple[UsersFile | None, list[Fault]]:
    """The users with the defaults worked in, and what is wrong with them."""
    document = read(path)
    if document.faults:
        return None, document.faults
    top = document.value if isinstance(document.value, dict) else {}
    if document.value is not None and not isinstance(document.value, dict):
        document.fault((), "keys are expected", "Start with users:")
    for name in top:
        if name not in ("defaults", "users"):
            document.fault((name,), "is not a key that is known here", did_you_mean(name, ("defaults", "users")))
    defaults = top.get("defaults") or {}
    _structure(document, defaults, UserSettings, ("defaults",))
    given = top.get("users") or {}
    if not isinstance(given, dict) or not isinstance(defaults, dict):
        document.fault(
            ("users",),
            "names are expected below this key",
            "Write each user's name with a colon, and its keys indented.",
        )
        return None, document.faults
    users = {}
    for name, values in given.items():
        user = _load_user(document, name, defaults, values)
        if user is not None:
            users[name] = user
    return UsersFile(users), document.faults


def _load_user(document: Document, name: str, defaults: dict[str, Any], values: Any) -> UserSettings | None:
    key: Key = ("users", name)
    if values is not None and not isinstance(values, dict):
        document.fault(key, "keys are expected below a user's name", "Write password: and home: indented.")
        return None
    before = len(document.faults)
    user = _structure(document, {**defaults, **(values or {})}, UserSettings, key)
    if user is None or len(document.faults) > before:
        return None
    if user.password is None:
        document.fault((*key, "password"), "is missing", "Add the hash that `ftpsd passwd` prints.")
    elif not hashes.known(user.password):
        document.fault(
            (*key, "password"),
            "is no hash that is known here",
            "Write what `ftpsd passwd` prints, in quotes.",
        )
    if user.home is None:
        document.fault((*key, "home"), "is missing", "Add the directory that is the user's root.")
        return None
    home = document.path.parent / user.home.replace("{user}", name)
    if "/" in name or name in ("", ".", ".."):
        document.fault(key, "is no name for a user", "Write a name without /.")
    elif not home.is_dir():
        document.fault((*key, "home"), f"{home} is not a directory", f"Create it: install -d {home}")
    return attrs.evolve(user, home=str(home))
