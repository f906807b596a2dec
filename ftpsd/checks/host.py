"""The machine: homes that the service user cannot use, disks, descriptors, the clock, what logins cost.

Pure checks of plain values, except for what measures.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from ftpsd.accounts import hashes
from ftpsd.checks.findings import Finding, Report
from ftpsd.config.sections.passwords import PasswordSettings
from ftpsd.protocol.replies import readable_size

#: File systems on which a rename cannot refuse to replace a file in one step, or that may lose it in a cut.
_WEAK = ("nfs", "cifs", "smb", "vfat", "msdos", "exfat", "fuse", "9p", "ntfs")

#: What remains free before a disk is a finding: a share of it, for bytes and for inodes.
_LITTLE = 0.05


#: Seconds of a processor that a login may cost before it is a finding: strangers cause them, too.
_SLOW_LOGIN = 0.5


#: The most kinds of hashes that are measured.
_MOST_KINDS = 5


@frozen
class Place:
    """A directory on the way to a home, the home last: owner, group and mode, or None if it does not exist."""

    path: str
    found: tuple[int, int, int] | None


@frozen
class Unit:
    """What systemd lets the service see and write; the defaults are those of a daemon without systemd."""

    protect_home: str = "no"
    protect_system: str = "no"
    writable: tuple[str, ...] = ()
    #: Where BindPaths shows directories, whatever is hidden there.
    bound: tuple[str, ...] = ()


def home(
    user: str,
    places: Sequence[Place],
    uid: int,
    groups: Collection[int],
    service: str,
    what: str = "home",
    is_written: bool = True,
) -> list[Finding]:
    """Judge whether the service user can enter each directory on the way to a home or folder, and read and write it."""
    if uid == 0:
        return []
    for place in places:
        last = place is places[-1]
        if place.found is None:
            return [
                Finding(
                    "home.missing",
                    "fault",
                    f"The {what} of {user} cannot be used: {place.path} does not exist.",
                    "Create it for the service user.",
                    f"install -d -o {service} -g {service} {places[-1].path}",
                )
            ]
        needed = (7 if is_written else 5) if last else 1
        if _bits(place.found, uid, groups) & needed != needed:
            may_not = f"may not read{' and write' if is_written else ''}" if last else "may not enter"
            paste = f"chown {service}: {place.path}" if last else f"setfacl -m u:{service}:x {place.path}"
            return [
                Finding(
                    "home.permission",
                    "fault",
                    f"The {what} of {user} cannot be used: the service user {service} {may_not} {place.path}.",
                    "Give it the permission.",
                    paste,
                )
            ]
    return []


def _bits(found: tuple[int, int, int], uid: int, groups: Collection[int]) -> int:
    owner, group, mode = found
    return (mode >> 6 if owner == uid else mode >> 3 if group in groups else mode) & 7


def sandboxed(user: str, path: str, unit: Unit, what: str = "home") -> list[Finding]:
    """Judge whether the unit's sandbox lets the daemon see and write a home or folder."""
    if _below(path, unit.bound):
        return []
    hidden = unit.protect_home in ("yes", "tmpfs", "read-only") and _below(path, ("/home", "/root", "/run/user"))
    # systemd: paths of ReadWritePaths are writable again below a strict file system, not below a hidden home.
    strict = unit.protect_system == "strict" and not _below(path, unit.writable)
    if not hidden and not strict:
        return []
    name = f"ProtectHome={unit.protect_home}" if hidden else "ProtectSystem=strict"
    lines = ["systemctl edit ftpsd    # and write:", "[Service]"]
    lines += ["ProtectHome=no"] if hidden else []
    return [
        Finding(
            "home.sandbox",
            "fault",
            f"The {what} of {user} cannot be used: {name} of the unit keeps the daemon away from {path}.",
            "Add a drop-in and restart the daemon (docs/systemd.md).",
            "\n".join([*lines, f"ReadWritePaths={path}"]),
        )
    ]


def outside(user: str, path: str, written: Collection[str] | None, what: str = "home") -> list[Finding]:
    """Judge whether the running daemon's sandbox opens a home or folder. `written`: below what it may write."""
    if written is None or _below(path, written):
        return []
    return [
        Finding(
            "home.sandbox",
            "fault",
            f"The {what} of {user} cannot be used: {path} is in none of the directories to which the running daemon has"
            " limited itself with Landlock at its start.",
            "Restart the daemon. If the homes of a source's users come and go, name a directory above them in"
            " `sandbox.homes` before.",
            "systemctl restart ftpsd",
        )
    ]


def unusable(source: str, user: str, problem: str) -> Finding:
    """Return the finding for a user of a source whose settings cannot be used, such as a home outside the sandbox."""
    text = f"The user {user} of {source} cannot log in: {problem.rstrip('.')}."
    return Finding("source.user", "fault", text, "Correct the user in the source, or the configuration.")


def _below(path: str, directories: Collection[str]) -> bool:
    return any(path == each or path.startswith(each.rstrip("/") + "/") for each in directories)


def disk(path: str, space: tuple[int, int], inodes: tuple[int, int]) -> list[Finding]:
    """Judge free and total bytes and inodes of the file system at a path. No total: the file system does not count."""
    found = []
    for what, command, (free, total) in (("space", "df -h", space), ("inodes", "df -i", inodes)):
        if total and free < _LITTLE * total:
            level, left = ("fault", "none") if free == 0 else ("warning", f"{100 * free / total:.1f} %")
            problem = f"The file system of {path} is short of {what}: {left} left."
            cure = "Remove files, or enlarge the file system."
            found.append(
                Finding(f"disk.{what}", "fault" if level == "fault" else "warning", problem, cure, f"{command} {path}")
            )
    return found


def file_system(path: str, kind: str) -> list[Finding]:
    """Judge the type of the file system at a path, "" if it is not known."""
    if not kind.startswith(_WEAK):
        return []
    return [
        Finding(
            "disk.rename",
            "warning",
            f"{path} is on {kind}, where not every rename is one step: after a crash an upload may appear"
            " twice, or replace a file of the same name.",
            "Use a local file system such as ext4, XFS or Btrfs for homes.",
        )
    ]


def descriptors(limit: int, sessions: int, transfers: int) -> list[Finding]:
    """Judge the limit of open files: a session needs one descriptor, a transfer three more, the daemon about 64."""
    needed = sessions + 3 * transfers + 64
    if limit < 0 or limit >= needed:  # -1 is infinity
        return []
    return [
        Finding(
            "limits.descriptors",
            "warning",
            f"The limit of open files is {limit}, and {sessions} sessions with {transfers} transfers need {needed}.",
            "Raise it, or lower `limits.sessions`.",
            "systemctl edit ftpsd    # and write:\n[Service]\nLimitNOFILE=65536",
        )
    ]


def check_logins(new: PasswordSettings, known: Iterable[str], report: Report) -> None:
    """Measure what logins cost here, judge that, and report how many logins per second a processor can do."""
    try:
        free = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        free = None
    available = int(free[1]) << 10 if free is not None else 1 << 40
    costs, processors = login_costs(new, known), os.cpu_count() or 1
    report.passed += login_rates(costs, processors)
    report.add(*logins(costs, new.memory, processors, available))


def login_costs(new: PasswordSettings, known: Iterable[str]) -> dict[str, float]:
    """Measure what a login costs here, in seconds of a processor: with a new hash, and with each kind of known hash."""
    sample = hashes.make("password", new)
    samples, seen = {"a new password": sample}, {hashes.parameters(sample)}
    for hashed in known:
        kind = hashes.parameters(hashed)
        if kind not in seen and len(seen) < _MOST_KINDS:
            seen.add(kind)
            samples[f"a hash of users ({kind})"] = hashed
    return {kind: hashes.cost_of(hashed) for kind, hashed in samples.items()}


def logins(costs: Mapping[str, float], memory: int, processors: int, available: int) -> list[Finding]:
    """Judge what logins cost: seconds by kind of hash, and bytes of memory for each that runs at the same time."""
    found = []
    cure = "Lower `passwords.memory` or `passwords.iterations`, and give new passwords."
    slow = {kind: cost for kind, cost in costs.items() if cost > _SLOW_LOGIN}
    for kind, cost in slow.items():
        problem = f"A login with {kind} costs {_rate(cost, processors)}. Anyone can make the server verify passwords."
        found.append(Finding("logins.slow", "warning", problem, cure))
    if memory * processors > available / 2:
        problem = (
            f"{processors} logins at the same time need {readable_size(memory * processors)} of memory, and"
            f" {readable_size(available)} are available."
        )
        found.append(Finding("logins.memory", "warning", problem, cure))
    return found


def login_rates(costs: Mapping[str, float], processors: int) -> list[str]:
    """Return how many logins per second this machine can do with each kind of hash, as sentences."""
    return [f"a login with {kind} costs {_rate(cost, processors)}" for kind, cost in costs.items()]


def _rate(cost: float, processors: int) -> str:
    each = 1 / max(cost, 1e-6)
    return f"{cost * 1000:.3g} ms: {each:.0f} logins per second on each of {processors} processors"


def clock(synchronized: bool | None, now: float, newest_file: float) -> list[Finding]:
    """Judge the time of day. `newest_file` is the last change of a file of the configuration."""
    cure, paste = "Let the clock be set by NTP.", "timedatectl set-ntp true"
    if newest_file > now + 60:
        return [Finding("clock.wrong", "fault", "The clock is behind: a configuration file is newer.", cure, paste)]
    if synchronized is False:
        return [Finding("clock.unsynchronized", "warning", "The clock is not synchronized.", cure, paste)]
    return []


def places(path: str) -> list[Place]:
    """Return the directories on the way to a path, from / on. Those that cannot be looked at are left out."""
    found: list[Place] = []
    parts = [each for each in path.split("/") if each]
    for count in range(len(parts) + 1):
        each = "/" + "/".join(parts[:count])
        try:
            status = os.stat(each)
        except FileNotFoundError:
            return [*found, Place(each, None)]
        except OSError:
            continue
        found.append(Place(each, (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))))
    return found


def own_places(path: str) -> list[Place]:
    """Return the directories on the way to a path, from / on, with what this process may do as their owner's rights.

    The kernel is asked, which knows access lists, too. What lies below a directory that cannot be entered is not looked
    at: the path itself follows.
    """
    user, group = os.geteuid(), os.getegid()
    found: list[Place] = []
    parts = [each for each in path.split("/") if each]
    for count in range(len(parts) + 1):
        each = "/" + "/".join(parts[:count])
        try:
            is_fixed = bool(os.statvfs(each).f_flag & os.ST_RDONLY)  # no matter of permissions
        except FileNotFoundError:
            return [*found, Place(each, None)]
        except OSError:
            is_fixed = False
        rights = [(4, os.R_OK), (1, os.X_OK), *([] if is_fixed else [(2, os.W_OK)])]
        bits = sum(bit for bit, right in rights if os.access(each, right, effective_ids=True)) | 2 * is_fixed
        found.append(Place(each, (user, group, bits << 6)))
        if not bits & 1 and count < len(parts):
            return [*found, Place(path, (user, group, 0))]
    return found
