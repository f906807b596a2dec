"""A file system that fails on request: a directory seen through FUSE, with the kernel's own protocol.

    faulty.py MOUNTPOINT BACKING RULES COMMAND…

mounts BACKING at MOUNTPOINT for one command, in a mount namespace of its own, and serves it until the command ends.
RULES is a file that is read at every request. Each line has an operation and its result, which is the name of an error
or STALL: `WRITE EIO`, `READ STALL`. `READ EIO/3` lets three requests succeed first. A stalled request is answered when its rule is removed. With `NAMES FOLD` names are
equal if they differ in case, in composition or in an invisible character only, and each has a short name (8.3), as on
FAT, NTFS and ext4 with casefold.

The protocol is that of linux/fuse.h. Requests that the tests do not need are ENOSYS. Nothing is cached.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import stat
import struct
import sys
from collections.abc import Callable
from unicodedata import normalize

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_REC, MS_PRIVATE, PR_SET_PDEATHSIG = 0x20000, 0x4000, 0x40000, 1
DIRECT_IO = 1

NAMES = {
    1: "LOOKUP", 2: "FORGET", 3: "GETATTR", 4: "SETATTR", 9: "MKDIR", 10: "UNLINK", 11: "RMDIR", 12: "RENAME",
    13: "LINK", 14: "OPEN", 15: "READ", 16: "WRITE", 17: "STATFS", 18: "RELEASE", 20: "FSYNC", 25: "FLUSH",
    26: "INIT", 27: "OPENDIR", 28: "READDIR", 29: "RELEASEDIR", 30: "FSYNCDIR", 35: "CREATE", 36: "INTERRUPT", 42: "BATCH_FORGET",
}  # fmt: skip
UNANSWERED = {"FORGET", "BATCH_FORGET", "INTERRUPT"}


class Tree:
    """The backing directory: the path of each number that the kernel knows."""

    def __init__(self, backing: str) -> None:
        self._paths = {1: os.path.realpath(backing)}
        self.folds = False

    def path(self, node: int, name: bytes = b"") -> str:
        """Return the path of a node, or of a name in it."""
        if not name:
            return self._paths[node]
        said, directory = os.fsdecode(name.rstrip(b"\0")), self._paths[node]
        return os.path.join(directory, self._spelled(directory, said) if self.folds else said)

    @staticmethod
    def _spelled(directory: str, said: str) -> str:
        """Return a name as the directory has it, if it has an equal one."""
        names = os.listdir(directory)
        same = [each for each in names if fold(each) == fold(said)] or [each for each in names if short(each) == said]
        return said if said in names or not same else same[0]

    def entry(self, path: str) -> bytes:
        """Return the answer to LOOKUP and similar requests."""
        attributes = _attributes(os.lstat(path))
        node = next((node for node, each in self._paths.items() if each == path), len(self._paths) + 1)
        self._paths[node] = path
        return struct.pack("=QQQQII", node, 0, 0, 0, 0, 0) + attributes

    def moved(self, old: str, new: str) -> None:
        """Record that a path was renamed or removed."""
        for node, path in self._paths.items():
            if path == new:
                self._paths[node] = ""  # replaced
            elif path == old or path.startswith(old + "/"):
                self._paths[node] = new + path[len(old) :]


#: Characters that ext4 with casefold ignores: some of each kind.
IGNORED = "\u200b\u00ad\u034f\u180b\u2065\ufe0f\ufff0\U000e0001\U000e0100\U000e0fff"


def fold(name: str) -> str:
    """Return one spelling for all names that are equal."""
    seen = "".join(each for each in name if each not in IGNORED)
    return normalize("NFC", normalize("NFD", seen).upper().casefold()).rstrip(". ")


def short(name: str) -> str:
    """Return the short name that FAT makes of a long one."""
    stem, dot, ending = name.lstrip(".").rpartition(".") if "." in name[1:] else (name.lstrip("."), "", "")
    return f"{stem.replace('.', '')[:6].upper()}~1{dot}{ending[:3].upper()}"


def _attributes(found: os.stat_result) -> bytes:
    times = [found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns]
    seconds, rest = [each // 10**9 for each in times], [each % 10**9 for each in times]
    sizes = found.st_ino, found.st_size, found.st_blocks
    return struct.pack(
        "=6Q10I", *sizes, *seconds, *rest, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, 0, 4096, 0
    )


def lookup(tree: Tree, node: int, body: bytes) -> bytes:
    return tree.entry(tree.path(node, body))


def get_attributes(tree: Tree, node: int, body: bytes) -> bytes:
    return struct.pack("=QII", 0, 0, 0) + _attributes(os.lstat(tree.path(node)))


def set_attributes(tree: Tree, node: int, body: bytes) -> bytes:
    valid, _, _, size, _, *times = struct.unpack_from("=IIQQQQQ", body)
    (mode,) = struct.unpack_from("=I", body, 68)
    if valid & 8:
        os.truncate(tree.path(node), size)
    if valid & 1:
        os.chmod(tree.path(node), stat.S_IMODE(mode))
    if valid & 48 == 48:
        os.utime(tree.path(node), (times[0], times[1]))
    return get_attributes(tree, node, b"")


def make_directory(tree: Tree, node: int, body: bytes) -> bytes:
    os.mkdir(tree.path(node, body[8:]))
    return tree.entry(tree.path(node, body[8:]))


def unlink(tree: Tree, node: int, body: bytes) -> bytes:
    os.unlink(tree.path(node, body))
    tree.moved(tree.path(node, body), "")
    return b""


def remove_directory(tree: Tree, node: int, body: bytes) -> bytes:
    os.rmdir(tree.path(node, body))
    tree.moved(tree.path(node, body), "")
    return b""


def rename(tree: Tree, node: int, body: bytes) -> bytes:
    (target,) = struct.unpack_from("=Q", body)
    old, new, _ = body[8:].split(b"\0")
    os.rename(tree.path(node, old), tree.path(target, new))
    tree.moved(tree.path(node, old), tree.path(target, new))
    return b""


def link(tree: Tree, node: int, body: bytes) -> bytes:
    (source,) = struct.unpack_from("=Q", body)
    new = tree.path(node, body[8:])
    os.link(tree.path(source), new)
    tree.moved(tree.path(source), new)  # the daemon takes the old name away next, while it has the file open
    return tree.entry(new)


def open_file(tree: Tree, node: int, body: bytes) -> bytes:
    flags = struct.unpack_from("=I", body)[0] & (os.O_ACCMODE | os.O_TRUNC)
    return struct.pack("=QII", os.open(tree.path(node), flags), DIRECT_IO, 0)


def create(tree: Tree, node: int, body: bytes) -> bytes:
    flags, mode, umask, _ = struct.unpack_from("=4I", body)
    path = tree.path(node, body[16:])
    flags &= os.O_ACCMODE | os.O_TRUNC | os.O_EXCL
    fd = os.open(path, flags | os.O_CREAT, mode & ~umask)
    return tree.entry(path) + struct.pack("=QII", fd, DIRECT_IO, 0)


def read(tree: Tree, node: int, body: bytes) -> bytes:
    fd, offset, size = struct.unpack_from("=QQI", body)
    return os.pread(fd, size, offset)


def write(tree: Tree, node: int, body: bytes) -> bytes:
    fd, offset, size = struct.unpack_from("=QQI", body)
    return struct.pack("=II", os.pwrite(fd, body[40 : 40 + size], offset), 0)


def release(tree: Tree, node: int, body: bytes) -> bytes:
    os.close(struct.unpack_from("=Q", body)[0])
    return b""


def synchronize(tree: Tree, node: int, body: bytes) -> bytes:
    os.fsync(struct.unpack_from("=Q", body)[0])
    return b""


def statistics(tree: Tree, node: int, body: bytes) -> bytes:
    found = os.statvfs(tree.path(node))
    counts = found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree
    return struct.pack("=5Q10I", *counts, found.f_bsize, 255, found.f_frsize, *[0] * 7)


def initialize(tree: Tree, node: int, body: bytes) -> bytes:
    _, minor = struct.unpack_from("=II", body)
    # max_write of 128 KiB needs no further negotiation.
    return struct.pack("=4I2H2I2H8I", 7, min(minor, 31), 0, 0, 16, 12, 131072, 1, 0, 0, *[0] * 8)


def open_directory(tree: Tree, node: int, body: bytes) -> bytes:
    os.listdir(tree.path(node))
    return struct.pack("=QII", 0, 0, 0)


def read_directory(tree: Tree, node: int, body: bytes) -> bytes:
    _, offset, size = struct.unpack_from("=QQI", body)
    entries = b""
    for number, name in enumerate(sorted(os.listdir(tree.path(node)))[offset:], offset + 1):
        raw = os.fsencode(name)
        entry = struct.pack("=QQII", number, number, len(raw), 0) + raw
        entry += bytes(-len(entry) % 8)
        if len(entries) + len(entry) > size:
            break
        entries += entry
    return entries


def nothing(tree: Tree, node: int, body: bytes) -> bytes:
    return b""


OPERATIONS: dict[str, Callable[[Tree, int, bytes], bytes]] = {
    "LOOKUP": lookup, "GETATTR": get_attributes, "SETATTR": set_attributes, "MKDIR": make_directory,
    "UNLINK": unlink, "RMDIR": remove_directory, "RENAME": rename, "LINK": link, "OPEN": open_file, "READ": read,
    "WRITE": write, "STATFS": statistics, "RELEASE": release, "FSYNC": synchronize, "FLUSH": nothing,
    "INIT": initialize, "OPENDIR": open_directory, "READDIR": read_directory, "RELEASEDIR": nothing,
    "FSYNCDIR": nothing, "CREATE": create,
}  # fmt: skip


def serve(device: int, backing: str, rules_file: str) -> None:
    """Answer the kernel until the file system is unmounted."""
    tree, held, left = Tree(backing), list[bytes](), dict[str, int]()
    last: dict[str, str] = {}
    while True:
        if select.select([device], [], [], 0.02 if held else None)[0]:
            try:
                held.append(os.read(device, 1 << 20))
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                continue  # the request was taken back
        with open(rules_file) as file:
            rules = dict(line.split() for line in file)
        tree.folds = rules.get("NAMES") == "FOLD"
        if rules != last:
            left, last = {name: int(rule.partition("/")[2] or 0) for name, rule in rules.items()}, rules
        for request in held[:]:
            name = NAMES.get(struct.unpack_from("=I", request, 4)[0], "")
            if rules.get(name) != "STALL":
                held.remove(request)
                if name not in UNANSWERED:
                    answer(device, tree, name, request, fault(rules, left, name))


def fault(rules: dict[str, str], left: dict[str, int], name: str) -> str | None:
    """Return the error of an operation now, or None. `left` has how many of each succeed first."""
    if left.get(name, 0) > 0:
        left[name] -= 1
        return None
    return rules[name].partition("/")[0] if name in rules else None


def answer(device: int, tree: Tree, name: str, request: bytes, fault: str | None) -> None:
    """Carry out a request, or answer with the error."""
    unique, node = struct.unpack_from("=QQ", request, 8)
    error, reply = 0, b""
    try:
        if fault is not None:
            raise OSError(getattr(errno, fault), fault)
        if name not in OPERATIONS:
            raise OSError(errno.ENOSYS, name)
        reply = OPERATIONS[name](tree, node, request[40:])
    except OSError as problem:
        error = problem.errno or errno.EIO
    try:
        os.write(device, struct.pack("=IiQ", 16 + len(reply), -error, unique) + reply)
    except FileNotFoundError:
        pass  # nobody waits any more


def must(result: int) -> None:
    """Raise the error that a C function reports."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main(mountpoint: str, backing: str, rules: str, *command: str) -> None:
    """Mount, serve in a child process, and become the command."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    if os.fork() == 0:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # what waits for us is freed when we are gone
        try:
            serve(device, backing, rules)
        finally:
            os._exit(0)
    must(LIBC.unshare(CLONE_NEWNS))
    must(LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    must(LIBC.mount(b"faulty", os.fsencode(mountpoint), b"fuse", 0, options.encode()))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
