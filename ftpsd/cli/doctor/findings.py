"""What the doctor reports: findings, each with its cure, and the checks that passed."""

from __future__ import annotations

import re
from typing import Literal

from attrs import Factory, define, frozen

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
