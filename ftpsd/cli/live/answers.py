"""What the admin API answers, as far as the commands read it. Times are ISO 8601; null where something is not known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NotRequired, TypedDict, cast

from ftpsd.cli.admin_client import AdminClient, Parameter

#: Sessions that are asked for in one request.
_PAGE = 10_000


class Session(TypedDict):
    """One session."""

    number: int
    user: str | None
    address: str
    since: str
    #: Seconds since the last reply; null while a command runs.
    idle: float | None
    tls: str | None
    #: The subject of the client's certificate.
    certificate: str | None
    client: str | None
    command: str | None
    path: str | None
    direction: str | None
    bytes: int | None
    size: int | None
    #: Bytes per second.
    rate: float | None
    state: str


class Usage(TypedDict):
    """How much of a limit is used; the limit is null if there is none."""

    name: str
    used: float
    limit: float | None


class GroupUsage(TypedDict):
    """How much of a limit the members of a group use together; null if that is not known."""

    name: str
    used: float | None
    limit: float


class Group(TypedDict):
    """A group that has limits for all members together."""

    name: str
    limits: list[GroupUsage]


class Listener(TypedDict):
    """A control listener."""

    address: str
    port: int
    tls: str


class Transfers(TypedDict):
    """The running transfers, and their bytes per second."""

    uploads: int
    downloads: int
    upload_rate: float
    download_rate: float


class Certificate(TypedDict):
    """A certificate of new sessions."""

    file: str
    expires: str | None


class Reload(TypedDict):
    """The last load of the configuration."""

    time: str
    ok: bool
    faults: list[str]


class Threads(TypedDict):
    """The worker threads."""

    size: int
    busy: int
    stuck: int


class PassivePorts(TypedDict):
    """The passive ports."""

    first: int
    last: int
    used: int
    shared: bool


class Source(TypedDict):
    """A source of users."""

    name: str
    state: str
    error: str | None
    questions: dict[str, int]
    waiting: int
    hanging: int
    remembered: int


class Worker(TypedDict):
    """A worker process. What it has not answered yet is null."""

    index: int
    process: int
    state: str
    since: str
    sessions: int | None
    #: Seconds.
    cpu: float | None
    #: Bytes.
    memory: int | None


class Store(TypedDict):
    """A store of homes and folders."""

    name: str
    bucket: str
    state: str
    error: str | None


class Health(TypedDict):
    """Whether the daemon can serve clients, and if not, why."""

    ready: bool
    reasons: list[str]


class Status(TypedDict):
    """The state of the daemon."""

    version: str
    started: str
    uptime: float
    listeners: list[Listener]
    sessions: Usage
    transfers: Transfers
    limits: list[Usage]
    groups: list[Group]
    bans: int
    #: The one that expires first.
    certificate: Certificate
    certificates: list[Certificate]
    reload: Reload
    threads: Threads
    passive_ports: PassivePorts
    sources: list[Source]
    stores: list[Store]
    #: None if the daemon is one process.
    workers: list[Worker]
    worker_restarts: int
    #: Directories in which the daemon may write until it is restarted; null if there is no such bound.
    sandbox: list[str] | None


class Dismissed(TypedDict):
    """How many sessions were ended."""

    dismissed: int
    #: The worker processes that do not answer.
    missing_workers: NotRequired[list[int]]


class _Page(TypedDict):
    sessions: list[Session]
    total: int
    #: The worker processes that do not answer.
    missing_workers: NotRequired[list[int]]


class _Transfers(TypedDict):
    transfers: list[Session]
    total: int


def status(client: AdminClient) -> Status:
    """Return the state of the daemon."""
    return cast(Status, client.get("status"))


def health(client: AdminClient) -> Health:
    """Return whether the daemon can serve clients."""
    return cast(Health, client.get("health"))


def page(client: AdminClient, **query: Parameter) -> tuple[list[Session], int]:
    """Return one page of sessions, and how many there are that match."""
    found = _page(client, **query)
    return found["sessions"], found["total"]


def transfers(client: AdminClient, **query: Parameter) -> tuple[list[Session], int]:
    """Return one page of the sessions with a running transfer, and how many there are."""
    found = cast(_Transfers, client.get("transfers", **query))
    return found["transfers"], found["total"]


def sessions(client: AdminClient, **query: Parameter) -> tuple[list[Session], list[int]]:
    """Return all sessions that match, and the workers that do not answer, whose sessions are missing.

    Sessions begin and end between two pages; none appears twice.
    """
    found: dict[int, Session] = {}
    missing: set[int] = set()
    offset, total = 0, 1
    while offset < total:
        some = _page(client, **query, offset=offset, limit=_PAGE)
        found.update((each["number"], each) for each in some["sessions"])
        missing.update(some.get("missing_workers", ()))
        if not some["sessions"]:
            break
        offset, total = offset + len(some["sessions"]), some["total"]
    return list(found.values()), sorted(missing)


def _page(client: AdminClient, **query: Parameter) -> _Page:
    return cast(_Page, client.get("sessions", **query))


def posix_time(text: str) -> float:
    """Return the POSIX time of a time in ISO 8601."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def local_time(text: str) -> str:
    """Return a time in ISO 8601 as the clock on the wall shows it: `2026-11-26 02:17:51`."""
    return datetime.fromtimestamp(posix_time(text)).isoformat(" ", "seconds")
