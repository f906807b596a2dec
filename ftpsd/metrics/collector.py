"""Turn one reading into the metrics of Prometheus: Collector, and `exposition`, which makes the text.

Names and units follow https://prometheus.io/docs/practices/naming/. Each value of a label that is known before is shown
from the start, with 0: otherwise `rate` would not see the first event. Runs in a thread of its own.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import cast, get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

import twisted
from ftpsd.accounts.chain.counts import RESULTS
from ftpsd.events.types import BanKind
from ftpsd.limits.session_counts import RejectReason
from ftpsd.metrics.counters import Histogram
from ftpsd.metrics.reading import Reading
from ftpsd.outbox import status as delivery_status
from ftpsd.protocol.replies import NoDataReason
from ftpsd.system.tls.private import library_versions

#: The values of labels that are shown from the start.
LOGIN_RESULTS = (
    "success",
    "failed",
    "banned",
    "disabled",
    "network",
    "expired",
    "hours",
    "source",
    "limit",
    "disk",
    "certificate",
    "error",
)
DATA_REASONS = ("foreign", *get_args(NoDataReason))
TRANSFER_RESULTS = ("complete", "aborted", "failed")
FAILURE_BANS = ("address", "user", "site")
RELOAD_RESULTS = ("success", "failed")
HANDSHAKES = (("control", "data"), ("TLSv1.2", "TLSv1.3"), (True, False))

Label = str | int | bool
#: Values, each with the values of its labels.
Values = Iterable[tuple[tuple[Label, ...], float]]


def exposition(reading: Reading, accept: str) -> tuple[bytes, str]:
    """Return the text in the format that a header `Accept` names, and its content type. Reads files of /proc."""
    encode, content_type = choose_encoder(accept)
    return encode(cast(CollectorRegistry, Collector(reading))), content_type


class Collector:
    """A collector of prometheus_client for one reading."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, those of the process included."""
        reading = self._reading
        parts: Iterable[Callable[[Reading], Iterator[Metric]]] = (
            _daemon,
            _sessions,
            _commands,
            _transfers,
            _connections,
            _limits,
            _groups,
            _threads,
            _sources,
            _stores,
            _workers,
            _delivery,
            _users,
            _process,
        )
        for part in parts:
            yield from part(reading)


# --- families --------------------------------------------------------------------------------------


def _text(value: Label) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _counter(name: str, text: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric([_text(each) for each in key], value)
    return family


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Values | float) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in [((), values)] if isinstance(values, float | int) else values:
        family.add_metric([_text(each) for each in key], value)
    return family


def _histogram(name: str, text: str, values: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=("direction",))
    for direction, histogram in values.items():
        buckets = [("+Inf" if bound == float("inf") else str(bound), count) for bound, count in histogram.buckets()]
        family.add_metric([direction], buckets, histogram.sum)
    return family


def _by(known: Iterable[str], counts: Mapping[str, float]) -> Values:
    """Return counts by one label, with 0 for each known value that has not occurred."""
    return [((value,), counts.get(value, 0)) for value in dict.fromkeys([*known, *counts])]


# --- the daemon ------------------------------------------------------------------------------------


def _daemon(reading: Reading) -> Iterator[Metric]:
    status = reading.status
    versions = {
        "version": status.version,
        "python": platform.python_version(),
        "twisted": twisted.__version__,
        **library_versions(),
    }
    yield InfoMetricFamily("ftpsd_build", "Versions of ftpsd and of the libraries that it uses.", value=versions)
    yield _gauge("ftpsd_ready", "Whether the daemon is ready for clients (/ready).", (), float(not reading.not_ready))
    text = "When a certificate for new sessions expires, in seconds since the epoch, by the file of the certificate."
    ends = [((str(each.file),), each.expires) for each in status.certificates if each.expires is not None]
    yield _gauge("ftpsd_certificate_expiry_timestamp_seconds", text, ("file",), dict(ends).items())
    text = "When the configuration in effect was loaded, in seconds since the epoch."
    yield _gauge("ftpsd_config_last_reload_success_timestamp_seconds", text, (), status.last_good_reload)
    text = "Whether the last load of the configuration succeeded."
    yield _gauge("ftpsd_config_last_reload_successful", text, (), float(status.reload.ok))
    text = "Reloads of the configuration, by result."
    yield _counter("ftpsd_config_reloads", text, ("result",), _by(RELOAD_RESULTS, reading.counts.reloads))


def _sessions(reading: Reading) -> Iterator[Metric]:
    counts, status = reading.counts, reading.status
    yield _gauge("ftpsd_sessions", "Sessions that are open.", (), status.sessions.used)
    text = "Sessions that were opened, by how their TLS starts."
    yield _counter("ftpsd_sessions_opened", text, ("tls",), _by(("explicit", "implicit"), counts.opened))
    text = "Connections that did not become sessions, by reason."
    rejected = _by(get_args(RejectReason), counts.tally.rejected)
    yield _counter("ftpsd_sessions_rejected", text, ("reason",), rejected)
    logins = {**counts.logins, "banned": counts.tally.banned_logins}
    yield _counter("ftpsd_logins", "Logins, by result.", ("result",), _by(LOGIN_RESULTS, logins))
    text = "Bans after failed logins, by what was banned."
    yield _counter("ftpsd_bans", text, ("kind",), _by(FAILURE_BANS, counts.bans))
    yield _gauge("ftpsd_bans_active", "Bans that are in effect.", ("kind",), _by(get_args(BanKind), reading.bans))


def _commands(reading: Reading) -> Iterator[Metric]:
    text = "Final replies to commands. Commands that the daemon does not know are other."
    yield _counter("ftpsd_commands", text, ("command", "code"), reading.counts.tally.commands.items())


def _transfers(reading: Reading) -> Iterator[Metric]:
    status, transfers = reading.status.transfers, reading.counts.transfers
    results = [
        ((direction, result), each.results[result])
        for direction, each in transfers.items()
        for result in TRANSFER_RESULTS
    ]
    text = "Transfers that have ended. aborted: one side has cut them off (426)."
    yield _counter("ftpsd_transfers", text, ("direction", "result"), results)
    durations = {direction: each.durations for direction, each in transfers.items()}
    text = "Seconds from the opening of the file to the final reply."
    yield _histogram("ftpsd_transfer_duration_seconds", text, durations)
    sizes = {direction: each.sizes for direction, each in transfers.items()}
    yield _histogram("ftpsd_transfer_size_bytes", "Bytes of each transfer that has ended.", sizes)
    running = {"upload": status.uploads, "download": status.downloads}
    text = "Transfers that run now. Listings are downloads here."
    yield _gauge("ftpsd_transfers_running", text, ("direction",), _by((), running))
    moved = {"upload": status.uploaded, "download": status.downloaded}
    text = "Bytes that transfers have moved, running ones included. Listings are downloads here."
    yield _counter("ftpsd_transferred_bytes", text, ("direction",), _by((), moved))


def _connections(reading: Reading) -> Iterator[Metric]:
    counts, ports = reading.counts, reading.status.passive_ports
    text = "TLS handshakes that were completed; resumed: they have resumed a session."
    handshakes = Counter(dict.fromkeys(product(*HANDSHAKES), 0))
    handshakes.update(counts.tally.handshakes)
    yield _counter("ftpsd_tls_handshakes", text, ("connection", "version", "resumed"), handshakes.items())
    text = "Control connections that were closed because TLS failed."
    yield _counter("ftpsd_tls_failures", text, (), [((), counts.tls_failures)])
    text = "Data connections that were refused or did not come, by reason."
    refused = _by(DATA_REASONS, counts.tally.data_refused)
    yield _counter("ftpsd_data_connections_refused", text, ("reason",), refused)
    yield _gauge("ftpsd_passive_ports", "Passive ports of the range.", (), ports.last - ports.first + 1)
    yield _gauge("ftpsd_passive_ports_used", "Passive ports that are in use.", (), ports.used)


def _limits(reading: Reading) -> Iterator[Metric]:
    limits = reading.status.limits
    used = {each.name: each.used for each in limits}
    text = "What a limit counts: of the server, or of the user or address that uses most. Rates are bytes per second."
    yield _gauge("ftpsd_limit_used", text, ("limit",), _by((), used))
    text = "The limits that are set, by the name of the setting; open_files is that of the process."
    most = {each.name: each.limit for each in limits if each.limit is not None}
    yield _gauge("ftpsd_limit_max", text, ("limit",), _by((), most))


def _groups(reading: Reading) -> Iterator[Metric]:
    groups = reading.status.groups
    if not groups:
        return
    text = "What the members of a group use of a limit that they share. Rates are not measured."
    limits = [((group.name, each.name), each) for group in groups for each in group.limits]
    used = [(key, each.used) for key, each in limits if each.used is not None]
    yield _gauge("ftpsd_group_limit_used", text, ("group", "limit"), used)
    text = "The limits that the members of a group share."
    yield _gauge("ftpsd_group_limit_max", text, ("group", "limit"), [(key, each.limit) for key, each in limits])


def _threads(reading: Reading) -> Iterator[Metric]:
    threads = reading.status.threads
    yield _gauge("ftpsd_worker_threads", "Worker threads, without stuck ones that were replaced.", (), threads.size)
    yield _gauge("ftpsd_worker_threads_busy", "Worker threads that run a job.", (), threads.busy)
    yield _gauge("ftpsd_worker_threads_stuck", "Worker threads whose disk does not respond.", (), threads.stuck)
    waiting = {name: each.length for name, each in reading.queues.items()}
    yield _gauge("ftpsd_event_queue_length", "Events that wait for a listener.", ("queue",), _by((), waiting))
    room = {name: each.capacity for name, each in reading.queues.items()}
    yield _gauge("ftpsd_event_queue_capacity", "Events that can wait for a listener.", ("queue",), _by((), room))
    text = "Events that were dropped because a listener was too slow."
    dropped = {name: each.dropped for name, each in reading.queues.items()}
    yield _counter("ftpsd_event_queue_dropped", text, ("queue",), _by((), dropped))


def _sources(reading: Reading) -> Iterator[Metric]:
    sources = reading.status.sources
    if not sources:
        return
    text = "Whether a source of users answers, as far as is known."
    yield _gauge(
        "ftpsd_source_up", text, ("source",), [((each.name,), float(each.state != "down")) for each in sources]
    )
    text = "Questions to a source of users, by result."
    questions = [((each.name, result), each.results.get(result, 0)) for each in sources for result in RESULTS]
    yield _counter("ftpsd_source_questions", text, ("source", "result"), questions)
    text = "How long questions to a source of users took, without the time in the waiting line."
    summary = SummaryMetricFamily("ftpsd_source_question_seconds", text, labels=("source",))
    for each in sources:
        summary.add_metric([each.name], sum(each.results.values()) - each.results.get("busy", 0), each.seconds)
    yield summary
    text = "Logins that wait for a source of users."
    yield _gauge("ftpsd_source_waiting", text, ("source",), [((each.name,), each.waiting) for each in sources])
    text = "Threads of a source of users that do not return from a question."
    yield _gauge("ftpsd_source_threads_hanging", text, ("source",), [((each.name,), each.hanging) for each in sources])


def _workers(reading: Reading) -> Iterator[Metric]:
    workers = reading.status.workers
    if not workers and not reading.status.worker_restarts:
        return
    known = [((each.index,), each.figures) for each in workers if each.figures is not None]
    up = [((each.index,), float(each.answers and each.state != "starting")) for each in workers]
    yield _gauge("ftpsd_worker_up", "Whether a worker process is ready and answers.", ("worker",), up)
    text = "Sessions of a worker process."
    yield _gauge("ftpsd_worker_sessions", text, ("worker",), [(key, each.sessions) for key, each in known])
    text = "Processor time of a worker process."
    yield _counter("ftpsd_worker_cpu_seconds", text, ("worker",), [(key, each.process.cpu) for key, each in known])
    text = "Memory of a worker process; what processes share counts in parts."
    yield _gauge("ftpsd_worker_memory_bytes", text, ("worker",), [(key, each.process.memory) for key, each in known])
    text = "Worker processes that were started in place of one that had failed."
    yield _counter("ftpsd_worker_restarts", text, (), [((), reading.status.worker_restarts)])


def _stores(reading: Reading) -> Iterator[Metric]:
    stores = reading.status.stores
    if stores:
        text = "Whether a store of homes and folders can be used, as far as is known."
        values = [((each.name,), float(each.state != "down")) for each in stores]
        yield _gauge("ftpsd_store_up", text, ("store",), values)


def _delivery(reading: Reading) -> Iterator[Metric]:
    found = None if reading.journal is None else delivery_status.read(reading.journal)
    if found is None:
        return
    text = "Deliveries of events to webhooks and programs that wait."
    yield _gauge("ftpsd_deliveries_waiting", text, (), found.waiting)
    text = "Deliveries that were given up, until somebody delivers them again or discards them."
    yield _gauge("ftpsd_deliveries_failed", text, (), found.failed)
    text = "Since when the oldest delivery waits, in seconds since the epoch; the time of the report if none waits."
    oldest = found.time if found.oldest is None else found.oldest
    yield _gauge("ftpsd_delivery_oldest_timestamp_seconds", text, (), oldest)
    text = "When ftpsd deliver last reported, in seconds since the epoch."
    yield _gauge("ftpsd_delivery_report_timestamp_seconds", text, (), found.time)


def _users(reading: Reading) -> Iterator[Metric]:
    if reading.users is None:
        return
    sessions, running = reading.users
    counts = {name: reading.counts.users[name] for name in sessions if name in reading.counts.users}
    yield _gauge("ftpsd_user_sessions", "Sessions of a user.", ("user",), _by((), sessions))
    text = "Transfers of files of a user that run now."
    yield _gauge("ftpsd_user_transfers_running", text, ("user",), _by(sessions, running))
    transfers = [((name, *key), count) for name, user in counts.items() for key, count in user.transfers.items()]
    text = "Transfers of a user that have ended."
    yield _counter("ftpsd_user_transfers", text, ("user", "direction", "result"), transfers)
    moved = [((name, way), count) for name, user in counts.items() for way, count in user.bytes.items()]
    text = "Bytes of the transfers of a user that have ended."
    yield _counter("ftpsd_user_transferred_bytes", text, ("user", "direction"), moved)


def _process(reading: Reading) -> Iterator[Metric]:
    """Yield what prometheus_client's ProcessCollector would: it needs /proc/stat, which the sandbox hides."""
    text = "Total user and system CPU time spent in seconds."
    yield _counter("process_cpu_seconds", text, (), [((), time.process_time())])
    text = "Start time of the process since unix epoch in seconds."
    yield _gauge("process_start_time_seconds", text, (), reading.status.started)
    yield _gauge(
        "process_max_fds", "Maximum number of open file descriptors.", (), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    )
    with suppress(OSError):
        yield _gauge("process_open_fds", "Number of open file descriptors.", (), len(os.listdir("/proc/self/fd")))
        virtual, resident, *_ = map(int, Path("/proc/self/statm").read_text().split())
        page = resource.getpagesize()
        yield _gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", (), virtual * page)
        yield _gauge("process_resident_memory_bytes", "Resident memory size in bytes.", (), resident * page)
