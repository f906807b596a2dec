"""What the doctor reports: findings, each with its cure, and the checks that passed; as text and as JSON."""

from __future__ import annotations

import json
import re
import textwrap
from typing import Literal

from attrs import Factory, asdict, define, frozen

#: A fault stops clients. A warning stops some clients, or will stop them soon. A note is worth knowing, and no more.
Level = Literal["fault", "warning", "note"]


@frozen
class Finding:
    """One cause, in one sentence, and its cure in another. `paste` has the lines to copy, or is empty.

    `code` names the cause for programs, and does not change between releases: "passive.filtered".
    """

    code: str
    level: Level
    problem: str
    cure: str
    paste: str = ""


class Ended(Exception):
    """The diagnosis cannot continue beyond this finding. `unreachable`: no server was reached at all."""

    def __init__(self, finding: Finding, unreachable: bool = False) -> None:
        super().__init__(finding.problem)
        self.finding = finding
        self.unreachable = unreachable


@define
class Report:
    """What one run has found so far."""

    subject: str
    findings: list[Finding] = Factory(list)
    passed: list[str] = Factory(list)
    unreachable: bool = False

    def add(self, *findings: Finding) -> None:
        """Add findings. A cause that is already in the report is not reported twice."""
        for finding in findings:
            if finding not in self.findings:
                self.findings.append(finding)

    def ok(self, check: str) -> None:
        """Record a check that found nothing wrong."""
        self.passed.append(check)

    @property
    def status(self) -> int:
        """The exit status: 3 unreachable, 1 findings, 0 none. A note alone is no finding."""
        if self.unreachable:
            return 3
        return int(any(finding.level != "note" for finding in self.findings))


def printable(text: str, length: int = 200) -> str:
    """Return a stranger's text on one line, without characters that control a terminal."""
    cleaned = re.sub(r"\s+", " ", text).strip()
    cleaned = "".join(character if character.isprintable() else "?" for character in cleaned)
    return cleaned if len(cleaned) <= length else cleaned[: length - 1] + "…"


# --- the report as text and as JSON ----------------------------------------------------------------


def as_json(report: Report) -> str:
    """Return the report as one JSON object. Later versions may add keys, but do not change the meaning of these."""
    return json.dumps(
        {
            "subject": report.subject,
            "status": report.status,
            "findings": [asdict(finding) for finding in report.findings],
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
