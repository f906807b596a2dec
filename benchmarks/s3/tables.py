"""The two tables: all servers beside each other, and one upload beside that of boto3's transfer manager."""

from __future__ import annotations

from statistics import median

from benchmarks.report import lines_up, number
from benchmarks.results import machine
from benchmarks.s3.programme import COMPARED, MANAGER, Found, Programme
from benchmarks.s3.servers import PARALLEL, PART_SIZE, RcloneFtp, StoreFtpsd
from benchmarks.sizes import Sizes

_NOTES = f"""\
↑ more is better, ↓ less is better; medians of the rounds. A p before a name: data connections without TLS.
rclone has no others: it encrypts control connections only. It makes fewer requests: it remembers a directory for
five minutes. All use parts of {PART_SIZE >> 20} MiB, {PARALLEL} at a time, and a store without TLS. The transfer
manager reads a file, or a plain connection as a server does; neither its start nor that of a server is counted."""


def report(programme: Programme, store: str, sizes: Sizes, rounds: int) -> str:
    """Return both tables, and what a reader must know."""
    found = programme.found
    parts = [
        _servers(programme) if found.outcomes else [],
        _uploads(found, sizes.bulk) if found.manager else [],
        [_NOTES],
        [f"{name}: {programme.workloads[name].about}" for name in found.outcomes],
        [f"{name}: {version}" for name, version in found.versions.items()],
        list(found.remarks),
        [f"store: {store}", f"rounds: {rounds}", *(f"{key}: {value}" for key, value in machine().items())],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _servers(programme: Programme) -> list[str]:
    names = list(programme.found.versions)
    body = [["", "", *names, f"{StoreFtpsd.name} / {RcloneFtp.name}"]]
    for name, by_server in programme.found.outcomes.items():
        for row, figure in enumerate(programme.workloads[name].figures):
            medians = {server: median(map(figure.of, found)) for server, found in by_server.items()}
            ours, theirs = medians.get(StoreFtpsd.name), medians.get(RcloneFtp.name)
            ratio = f"{ours / theirs:.2f}" if ours and theirs else ""
            arrow = "↑" if figure.better == "more" else "↓"
            cells = [number(medians.get(each)) for each in names]
            body.append([name if not row else "", f"{figure.unit} {arrow}", *cells, ratio])
    return lines_up(body)


def _uploads(found: Found, size: int) -> list[str]:
    """Return the lines of the table of uploads. Ratios are those to the transfer manager."""
    rows = {
        f"{MANAGER}'s transfer manager, {source}": [(each.seconds, each.cpu, each.store_cpu) for each in uploads]
        for source, uploads in found.manager.items()
    }
    for label, name in (("plain", COMPARED), ("over TLS", COMPARED.removeprefix("p"))):
        outcomes = found.outcomes.get(name, {}).get(StoreFtpsd.name, [])
        if outcomes:
            rows[f"{StoreFtpsd.name}, {label}"] = [(each.seconds, each.cpu, each.store_cpu) for each in outcomes]
    body, first = [["one upload", "", "seconds", "×", "MB/s", "CPU-s", "×", "CPU-s of the store", ""]], (0.0, 0.0)
    for label, rounds in rows.items():
        seconds, cpu, store = (median(each[column] for each in rounds) for column in range(3))
        first = first if any(first) else (seconds, cpu)
        ratios = f"{seconds / first[0]:.2f}", f"{cpu / first[1]:.2f}" if first[1] else ""
        rate = number(size / seconds / 1e6)
        body.append([label, "", number(seconds), ratios[0], rate, number(cpu), ratios[1], number(store), ""])
    return lines_up(body)
