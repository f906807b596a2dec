"""One run of the benchmark: the store, and what is measured with it, in interleaved rounds."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from benchmarks import peers
from benchmarks.crew import WorkFailed
from benchmarks.results import CLIENT_BOUND
from benchmarks.rounds import Uploads, measure
from benchmarks.s3.servers import PARALLEL, PART_SIZE, LocalFtpsd, RcloneFtp, StoreFtpsd
from benchmarks.s3.stores import BUCKET, KEEP, Store, StoredUploads
from benchmarks.server import Failed, Server
from benchmarks.sizes import GIB, Sizes
from benchmarks.stage import Stage
from benchmarks.workloads import Figure, Outcome, Workload
from benchmarks.workloads import table as workload_table

#: The workloads over TLS, each with the factor by which CPU seconds for a unit are shown (see `workloads.cost`).
_SECURED = {"dl": GIB * 1e3, "ul": GIB * 1e3, "small": 1e3, "smallup": 1e3, "list": 1e6}

#: All workloads. Those with a p have plain data connections: rclone has no others.
NAMES = tuple(each for name in _SECURED for each in (name, f"p{name}"))

#: The upload beside which that of the transfer manager stands.
COMPARED = "pul"

#: What the upload of the transfer manager is called.
MANAGER = "boto3"

#: Where it takes the bytes from: a local file as `aws s3 cp`, or a plain connection as a server does.
SOURCES = ("file", "connection")

#: The servers.
SERVERS = (LocalFtpsd.name, StoreFtpsd.name, RcloneFtp.name)

#: Seconds for one upload of the transfer manager.
_PATIENCE = 600

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Uploaded:
    """An upload by the transfer manager: seconds, CPU seconds of its process, and of the store."""

    seconds: float
    cpu: float
    store_cpu: float


@dataclass
class Found:
    """All figures, by workload and server, in the order of the rounds."""

    outcomes: dict[str, dict[str, list[Outcome]]] = field(default_factory=dict)
    #: The uploads of the transfer manager, by the source of the bytes.
    manager: dict[str, list[Uploaded]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, None] = field(default_factory=dict)


class LocalUploads:
    """The uploads on the disk: all but the file that keeps the directory in a store (see `Uploads`)."""

    def __init__(self, stage: Stage) -> None:
        self._keep = stage.home / KEEP
        self._stage = stage

    def check_uploads(self, count: int, size: int, *, every_byte: bool) -> None:
        """See Uploads."""
        self._keep.unlink()
        try:
            self._stage.check_uploads(count, size, every_byte=every_byte)
        finally:
            self._keep.touch()

    def clear_uploads(self) -> None:
        """See Uploads."""
        self._stage.clear_uploads()
        self._keep.touch()


class Programme:
    """What one run measures. The store has been started."""

    def __init__(self, stage: Stage, sizes: Sizes, store: Store, tell: Tell) -> None:
        self._stage, self._sizes, self._store, self._tell = stage, sizes, store, tell
        stored = StoredUploads(store, stage.piece.read_bytes())
        self._uploads: dict[str, Uploads] = dict.fromkeys(SERVERS, stored)
        self._uploads[LocalFtpsd.name] = LocalUploads(stage)
        self.workloads = workloads(stage, sizes)
        self.found = Found()

    def run(self, only: Collection[str], wanted: Collection[str], rounds: int) -> Found:
        """Measure these workloads with these servers. Another server begins in each round."""
        servers = self._obtain(wanted)
        for number in range(rounds if servers else 0):
            first = number % len(servers)
            for name in only:
                for server in servers[first:] + servers[:first]:
                    self._tell(f"round {number + 1} of {rounds}: {name}, {server.name}")
                    self._measure(self.workloads[name], server, number == 0)
                if name == COMPARED and StoreFtpsd.name in self.found.versions:
                    for source in SOURCES:
                        self._tell(f"round {number + 1} of {rounds}: {name}, {MANAGER} with a {source}")
                        self._measure_manager(source)
        return self.found

    def _obtain(self, wanted: Collection[str]) -> list[Server]:
        setting, servers = self._store.setting, list[Server]()
        for server in (LocalFtpsd(setting), StoreFtpsd(setting, self._store), RcloneFtp(setting, self._store)):
            if server.name in wanted:
                try:
                    self.found.versions[server.name] = server.obtain()
                except peers.Missing as reason:
                    self._remark(f"{server.name}: skipped: {reason}")
                else:
                    servers.append(server)
        return servers

    def _measure(self, workload: Workload, server: Server, check: bool) -> None:
        protected = workload.jobs[0].protect
        if protected and isinstance(server, RcloneFtp):
            return
        uploads, store = self._uploads[server.name], self._store.meter
        try:
            outcome = measure(workload, server, uploads, decrypt=False, check=check, store=store)
        except (WorkFailed, Failed, ValueError) as error:
            self._remark(f"{server.name} ({workload.name}): failed: {error}")
            return
        if outcome.client_busy > CLIENT_BOUND:
            self._remark(f"{server.name} ({workload.name}): the client was busy nearly all of the time")
        if protected and outcome.resumed < outcome.data_connections:
            self._remark(f"{server.name} ({workload.name}): not all data connections resumed the TLS session")
        self.found.outcomes.setdefault(workload.name, {}).setdefault(server.name, []).append(outcome)

    def _measure_manager(self, source: str) -> None:
        uploads = self._uploads[StoreFtpsd.name]
        program = [str(self._store.setting.python), "-m", "benchmarks.s3.manager", self._store.endpoint, BUCKET]
        what = ["up/manager.bin", str(self._stage.home / "bulk.bin"), source, str(PART_SIZE), str(PARALLEL)]
        before = self._store.meter.cpu()
        done = subprocess.run([*program, *what], check=True, capture_output=True, text=True, timeout=_PATIENCE)
        store_cpu = self._store.meter.cpu() - before
        uploads.check_uploads(1, self._sizes.bulk, every_byte=False)
        uploads.clear_uploads()
        seconds, cpu = map(float, done.stdout.split())
        self.found.manager.setdefault(source, []).append(Uploaded(seconds, cpu, store_cpu))

    def _remark(self, text: str) -> None:
        self.found.remarks[text] = None
        self._tell(text)


def workloads(stage: Stage, sizes: Sizes) -> dict[str, Workload]:
    """Return all workloads. A listing is made once: rclone answers the next ones from its memory."""
    every, found = workload_table(stage, sizes), dict[str, Workload]()
    listing = every["list"].jobs[0]
    every["list"] = replace(every["list"], about=f"LIST of {sizes.names:,} files", jobs=(replace(listing, count=1),))
    for name, factor in _SECURED.items():
        secured = _with_store(every[name], factor)
        jobs = tuple(replace(job, protect=False) for job in secured.jobs)
        about = secured.about.replace(" over TLS", "")
        found[name] = replace(secured, about=f"{about} over TLS")
        found[f"p{name}"] = replace(secured, name=f"p{name}", about=f"{about}, plain", jobs=jobs)
    return found


def _with_store(workload: Workload, factor: float) -> Workload:
    """Return a workload with a figure more: the store's CPU time, in the unit of that of the server."""
    unit = next(each.unit for each in workload.figures if each.key == "cpu")
    store = Figure("store", f"{unit}, store", "less", lambda found: found.store_cpu / found.units * factor)
    return replace(workload, figures=(*workload.figures, store))
