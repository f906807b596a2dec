"""The table for readers: a line for each figure, a column for each server, and how ours compares to the best peer."""

from __future__ import annotations

from benchmarks.results import Results, Row
from benchmarks.servers import OURS


def number(value: float | None) -> str:
    """Three significant digits are more than two runs agree on."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1g}"


def compared(row: Row) -> str:
    """Our figure as a multiple of the best peer's."""
    ratio = row.ratio()
    return f"{ratio:.2f} × {row.best_peer()}" if ratio is not None else ""


def lines_up(rows: list[list[str]]) -> list[str]:
    """Columns side by side: the first two to the left, the numbers to the right, the last to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 or column == last else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def table(results: Results) -> str:
    """The whole report as text."""
    names = list(results.servers)
    head = ["", "", *names, f"{OURS} / best peer" if OURS in names else ""]
    body, last = [head], ""
    for row in results.rows:
        first = row.workload if row.workload != last else ""
        last = row.workload
        arrow = "↑" if row.better == "more" else "↓"
        body.append([first, f"{row.unit} {arrow}", *(number(row.median(name)) for name in names), compared(row)])
    about = dict.fromkeys(f"{row.workload}: {row.about}" for row in results.rows)
    parts = [
        lines_up(body),
        ["↑ more is better, ↓ less is better; medians of the rounds, which are all in the JSON."],
        about,
        [f"{name}: {version}" for name, version in results.servers.items()],
        [f"{name}: skipped: {reason}" for name, reason in results.skipped.items()],
        results.remarks,
        [f"{key}: {value}" for key, value in {**results.machine, **results.settings}.items()],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)
