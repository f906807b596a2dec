"""Disks that are small or fail on request (see faulty.py), for daemons that are started with `prefix`.

They are mounted in a mount namespace that ends with the daemon. Tests are skipped where that is not possible.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import faulty
from tests.daemon import PATIENCE


def apart(script: str) -> tuple[str, ...]:
    """Return a command that runs a script in a mount namespace, and then another command."""
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", "--mount", *user, "sh", "-c", f'{script} && exec "$@"', "sh")


def must_work(prefix: tuple[str, ...]) -> None:
    """Skip the test if a command fails."""
    probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, timeout=PATIENCE)
    if probe.returncode:
        pytest.skip(f"such a disk cannot be mounted here: {probe.stderr.strip().splitlines()[-1]}")


def with_mount(script: str) -> tuple[str, ...]:
    """Return a command that mounts something for the command after it. Skip the test if that is not possible here."""
    prefix = apart(script)
    must_work(prefix)
    return prefix


def read_only(directory: Path) -> tuple[str, ...]:
    """Return a command that makes a directory read-only for the command after it."""
    return with_mount(f"mount --bind {directory} {directory} && mount -o remount,bind,ro {directory}")


class SmallDisk:
    """A small file system in memory, in place of a directory."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.prefix = with_mount(f"mount -t tmpfs -o size={size},mode=700 none {directory}")

    def inside(self, pid: int) -> Path:
        """Return the directory as the process sees it."""
        return Path(f"/proc/{pid}/root{self.directory}")


class FaultyDisk:
    """A directory that a daemon sees through a file system that fails on request."""

    def __init__(self, directory: Path) -> None:
        self.backing, self._rules = directory.with_name("backing"), directory.with_name("rules")
        for each in (directory, self.backing):
            each.mkdir(parents=True, exist_ok=True)
        self.work()
        fuse = (sys.executable, str(Path(faulty.__file__)), str(directory), str(self.backing), str(self._rules))
        self.prefix = fuse if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user", *fuse)
        must_work(self.prefix)

    def fail(self, **operations: str) -> None:
        """Let these operations end with an error, or not at all (STALL), from now on: `fail(READ="EIO")`."""
        new = self._rules.with_suffix(".new")
        new.write_text("".join(f"{name} {fault}\n" for name, fault in operations.items()))
        new.rename(self._rules)

    def work(self) -> None:
        """Let all operations succeed again; those that stall continue."""
        self.fail()


class FailingDevice:
    """An ext4 file system on a block device that fails on request, in place of a directory that has files already.

    It is a loop device over a file of a `FaultyDisk`. Only what the kernel has not read or written before can fail.
    """

    def __init__(self, directory: Path, journal: bool = True) -> None:
        """Without a journal the file system can be written again as soon as the device works."""
        if os.geteuid() or shutil.which("mkfs.ext4") is None:
            pytest.skip("a loop device needs root and mkfs.ext4")
        below = directory.with_name("below")
        self._disk = FaultyDisk(below)
        self.image = self._disk.backing / "image"
        features = "has_journal" if journal else "^has_journal"
        make = ("mkfs.ext4", "-q", "-O", features, "-d", str(directory), str(self.image), "64M")
        subprocess.run(make, check=True, capture_output=True, timeout=PATIENCE)
        mount = f'mount -o loop {below / self.image.name} {directory} && exec "$@"'
        self.prefix = (*self._disk.prefix, "sh", "-c", mount, "sh")
        must_work(self.prefix)
        self.fail, self.work = self._disk.fail, self._disk.work

    def content(self, name: str) -> bytes:
        """Return the content of a file after a new mount, when the daemon has ended."""
        show = f"mount -o loop {self.image} {self.image.parent} && cat {self.image.parent / name}"
        return subprocess.run(["unshare", "--mount", "sh", "-c", show], check=True, capture_output=True).stdout


class FoldingDisk:
    """A file system that ignores case, in place of a directory: `fuse`, `ntfs`, `vfat` or `ext4`.

    It begins with the files of `seed`.
    """

    def __init__(self, kind: str, directory: Path) -> None:
        self.directory, self.seed = directory, directory.with_name("seed")
        self._kind = kind
        self.seed.mkdir()
        directory.mkdir(parents=True, exist_ok=True)
        self._image = directory.with_name("image")

    def mount(self) -> tuple[str, ...]:
        """Return a command that mounts the disk for the command after it."""
        prefix = self._fuse() if self._kind == "fuse" else self._loop()
        must_work(prefix)
        return prefix

    def _fuse(self) -> tuple[str, ...]:
        shutil.rmtree(self.directory)
        disk = FaultyDisk(self.directory)
        shutil.copytree(self.seed, disk.backing, dirs_exist_ok=True)
        disk.fail(NAMES="FOLD")
        return disk.prefix

    def _loop(self) -> tuple[str, ...]:
        make = {
            "ntfs": ("mkntfs", "-q", "-F", "-f", str(self._image)),
            "vfat": ("mkfs.vfat", "-C", str(self._image), "16384"),
            "ext4": ("mkfs.ext4", "-q", "-O", "casefold", "-E", "encoding=utf8", str(self._image), "16M"),
        }[self._kind]
        if shutil.which(make[0]) is None:
            pytest.skip(f"{make[0]} is not installed")
        if self._kind == "ntfs":
            with self._image.open("wb") as image:
                image.truncate(16 << 20)
        subprocess.run(make, check=True, capture_output=True, timeout=PATIENCE)
        if self._kind == "ntfs":
            # It ends with the command, which takes the shell's place.
            serve = f"setpriv --pdeathsig TERM lowntfs-3g -o ignore_case,no_detach {self._image} {self.directory} &"
            wait = f"for i in $(seq 200); do mountpoint -q {self.directory} && break; sleep 0.02; done"
            copy = f"mountpoint -q {self.directory} && cp -r {self.seed}/. {self.directory}"
            return apart(f"{{ {serve} }} && {wait} && {copy}")
        options = "loop,utf8" if self._kind == "vfat" else "loop"
        where, top = self.directory, self.directory / "top"
        folds = f"mkdir {top} && chattr +F {top}" if self._kind == "ext4" else f"mkdir {top}"
        copy = f"cp -r {self.seed}/. {top} && mount --bind {top} {where}"
        return apart(
            f"mount -o {options} -t {self._kind} {self._image} {where} && {{ [ -d {top} ] || {folds}; }} && {copy}"
        )

    def inside(self, pid: int) -> Path:
        """Return the directory as the process sees it."""
        return Path(f"/proc/{pid}/root{self.directory}")


@contextmanager
def deep_tree(top: Path, levels: int) -> Iterator[None]:
    """Make directories named d within each other, deeper than a path can be.

    Afterwards they are removed, since pytest's own removal is recursive.
    """
    try:
        here = os.open(top, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir("d", dir_fd=here)
            deeper = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
        os.close(here)
        yield
    finally:
        subprocess.run(["rm", "-rf", str(top / "d")], check=True, timeout=PATIENCE)
