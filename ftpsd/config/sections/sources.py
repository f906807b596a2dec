"""The entries of `users.sources`: where users come from. `type` says which class an entry has.

A new type is a class here, its row in SOURCES, and its row in `ftpsd.config.sources.MODULES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from attrs import Factory, frozen

from ftpsd.config.sections.values import UserValues
from ftpsd.protocol.addresses import is_loopback


@frozen(kw_only=True)
class SourceSettings:
    """One entry of `users.sources`."""

    type: str

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that the source reads when it connects, such as certificates. The sandbox permits it to read them."""
        return ()

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """Files with one secret each, which are read when the configuration is loaded."""
        return ()

    @property
    def directories(self) -> tuple[Path, ...]:
        """Directories in which the source writes."""
        return ()


@frozen(kw_only=True)
class YamlSource(SourceSettings):
    """`users.file` and `users.directory`. Without this entry they are asked first."""

    type: Literal["yaml"]


@frozen(kw_only=True)
class RemoteSource(SourceSettings):
    """A source that is asked in threads of its own. `timeout` is in seconds, and holds for each question."""

    timeout: int = 5
    concurrency: int = 4


@frozen(kw_only=True)
class TlsSource(RemoteSource):
    """A source on a server with a certificate."""

    #: The authorities that the server's certificate may be of; None: those of the system.
    ca_file: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The authorities."""
        return () if self.ca_file is None else (self.ca_file,)


@frozen
class Membership:
    """How the groups of a user are found in a directory: by an attribute of the user, and by a search below `base`."""

    #: The attribute of a user's entry that lists groups. None: it is not looked at.
    attribute: str | None = "memberOf"
    #: Where groups are searched for. None: nowhere.
    base: str | None = None
    #: What matches the groups of a user. None: `member`, `uniqueMember` and `memberUid` are compared.
    filter: str | None = None
    #: Groups within groups. search: further searches; active-directory: a matching rule of that server.
    nested: Literal["off", "search", "active-directory"] = "off"


@frozen(kw_only=True)
class LdapSource(TlsSource):
    """A directory. Users are found by a search with `filter` below `base`, or have the distinguished name `bind`."""

    type: Literal["ldap"]
    servers: tuple[str, ...]
    #: auto: StartTLS for ldap:// unless the server is this machine. starttls: in any case. off: never.
    tls: Literal["auto", "starttls", "off"] = "auto"
    #: The account that searches; None: searches are anonymous.
    bind_dn: str | None = None
    password_file: Path | None = None
    base: str | None = None
    scope: Literal["subtree", "one"] = "subtree"
    filter: str = "(uid={name})"
    #: A distinguished name with {name}; or another name with which the server lets users log in, whom `filter` finds.
    bind: str | None = None
    #: The attribute with the canonical name; None: the one that `filter` or `bind` compares with {name}.
    name: str | None = None
    #: Keys of a user, as `quota.bytes`, and the attributes that hold their values.
    attributes: dict[str, str] = Factory(dict)
    #: Values of all users. An attribute takes precedence.
    values: UserValues = Factory(lambda: UserValues({}))
    #: Groups of the directory, by distinguished name or by name, and the groups of ours that they stand for.
    groups: dict[str, str] = Factory(dict)
    membership: Membership = Membership()
    #: Only members of one of these groups may log in. Empty: everybody may.
    required_groups: tuple[str, ...] = ()

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """The password of `bind_dn`."""
        return () if self.password_file is None else (self.password_file,)

    @property
    def unencrypted(self) -> tuple[str, ...]:
        """The servers to which passwords go in plain text through the network."""
        plain = [url for url in self.servers if self.tls == "off" and url.startswith("ldap:")]
        return tuple(url for url in plain if not is_loopback(urlsplit(url).hostname or ""))


@frozen(kw_only=True)
class HttpSource(TlsSource):
    """A web server that is asked with a POST. With `socket`, the connection is to that Unix socket."""

    type: Literal["http"]
    url: str
    socket: Path | None = None
    #: The key of the signature; None: requests are not signed.
    secret_file: Path | None = None

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """The key."""
        return () if self.secret_file is None else (self.secret_file,)


@frozen(kw_only=True)
class HelperSource(RemoteSource):
    """A program on a Unix socket, such as `ftpsd-pam-helper`. `user` is the user of its process.

    Without `user` it must belong to root or to the daemon's user.
    """

    type: Literal["helper"]
    socket: Path
    user: str | None = None


@frozen(kw_only=True)
class SqlSource(TlsSource):
    """Users in PostgreSQL or SQLite: in the tables that `ftpsd sql init` makes, or in those that `find` reads."""

    type: Literal["sql"] = "sql"
    url: str
    password_file: Path | None = None
    find: str | None = None
    names: str | None = None

    @property
    def file(self) -> Path | None:
        """The file of SQLite; None for another database."""
        scheme, _, rest = self.url.partition(":")
        return Path(unquote(rest.removeprefix("//"))) if scheme == "sqlite" else None

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """The file with the password of the role."""
        return () if self.password_file is None else (self.password_file,)

    @property
    def directories(self) -> tuple[Path, ...]:
        """The directory of SQLite's file: in WAL mode those who read write beside it."""
        return () if self.file is None else (self.file.parent,)


#: The classes of the entries, by their `type`.
SOURCES: Mapping[str, type[SourceSettings]] = {
    "ldap": LdapSource,
    "sql": SqlSource,
    "yaml": YamlSource,
    "http": HttpSource,
    "helper": HelperSource,
}


@frozen
class CacheSettings:
    """For how many seconds a login is remembered: to verify its password fast, and while its source is down."""

    seconds: int = 300
    stale_seconds: int = 3600
