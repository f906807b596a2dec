"""The plot for the README: one small panel of bars for each figure, as an SVG file that needs nothing else."""

from __future__ import annotations

from xml.sax.saxutils import escape

from benchmarks.report import number
from benchmarks.results import Results, Row
from benchmarks.servers import OURS

NAME, BAR, VALUE = 70, 150, 60
PANEL = NAME + BAR + VALUE + 20
COLUMNS = 3
LINE = 18
HEAD = 26
OUR_COLOUR, PEER_COLOUR = "#0b6e4f", "#9aa5b1"
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2933}"
    ".title{font-weight:600}.unit{fill:#616e7c}.small{font-size:11px;fill:#616e7c}"
)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{name} text-anchor="{anchor}">{escape(text)}</text>'


def _panel(row: Row, names: list[str], left: float, top: float) -> list[str]:
    """One figure: a title and a bar for each server, ours in colour."""
    values = {name: row.median(name) for name in names}
    longest = max((value for value in values.values() if value), default=1.0)
    better = "higher is better" if row.better == "more" else "lower is better"
    title = f'{escape(row.workload)} <tspan class="unit" font-weight="400">{escape(row.unit)}, {better}</tspan>'
    parts = [f'<text x="{left:.0f}" y="{top + 12:.0f}" class="title">{title}</text>']
    for index, (name, value) in enumerate(values.items()):
        y = top + HEAD + index * LINE
        parts.append(_text(left + NAME - 8, y + 11, name, "title" if name == OURS else "", "end"))
        width = BAR * max(0.0, value or 0.0) / longest
        colour = OUR_COLOUR if name == OURS else PEER_COLOUR
        parts.append(
            f'<rect x="{left + NAME:.0f}" y="{y + 1:.0f}" width="{width:.1f}" height="{LINE - 5}" fill="{colour}"/>'
        )
        parts.append(_text(left + NAME + width + 5, y + 11, number(value)))
    return parts


def svg(results: Results, figures: tuple[str, ...] = ("rate", "cpu", "memory", "p50", "p99")) -> str:
    """The plot of all rows whose figure is among `figures`."""
    names = list(results.servers)
    rows = [row for row in results.rows if row.figure in figures]
    panel_height = HEAD + LINE * len(names) + 18
    lines: list[list[Row]] = []
    for row in rows:
        if lines and lines[-1][0].workload == row.workload and len(lines[-1]) < COLUMNS:
            lines[-1].append(row)
        else:
            lines.append([row])
    width, height = COLUMNS * PANEL + 20, panel_height * len(lines) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<style>{STYLE}</style><rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for line, members in enumerate(lines):
        for column, row in enumerate(members):
            parts += _panel(row, names, 20 + column * PANEL, 12 + line * panel_height)
    where = f"{results.machine['processor']}, {results.machine['cores']} cores, kernel {results.machine['kernel']}"
    parts.append(_text(20, height - 12, f"Medians of {results.settings['rounds']} rounds on {where}", "small"))
    return "\n".join([*parts, "</svg>", ""])
