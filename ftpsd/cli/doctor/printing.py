"""The report as text and as JSON."""

from __future__ import annotations

import json
import textwrap

import attrs

from ftpsd.cli.doctor.findings import Finding, Report


def as_json(report: Report) -> str:
    """Return the report as one JSON object. Later versions may add keys, but do not change the meaning of these."""
    return json.dumps(
        {
            "subject": report.subject,
            "status": report.status,
            "findings": [attrs.asdict(finding) for finding in report.findings],
            "passed": report.passed,
        },
        indent=2,
        ensure_ascii=False,
    )


def as_text(report: Report) -> str:
    """Return the report as text: passed checks, then each finding with its remedy and the lines to paste."""
    lines = [report.subject, *(f"  ok       {check}" for check in report.passed)]
    for finding in report.findings:
        lines += ["", *_finding(finding)]
    return "\n".join([*lines, "", _summary(report)])


def _finding(finding: Finding) -> list[str]:
    lines = _wrapped(f"{finding.level:8} {finding.problem} [{finding.code}]", "  ")
    lines += _wrapped(f"cure     {finding.cure}", "  ")
    return [*lines, *(f"               {line}" for line in finding.paste.splitlines())]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        110,
        initial_indent=indent,
        subsequent_indent=indent + " " * 9,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(report: Report) -> str:
    counts = [
        (level, sum(finding.level == level for finding in report.findings)) for level in ("fault", "warning", "note")
    ]
    found = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts if count]
    return f"{', '.join(found)}." if found else "Nothing wrong was found."
