"""What every server is given: the files to serve, a place for uploads, one certificate, one account.

The files lie in the ordinary directory for temporary files. They were just written, so what is read comes from the page
cache, and uploads are deleted as soon as they were looked at, mostly before the kernel writes any of them to the disk.
A tmpfs would keep the disk out altogether, but it takes memory 4 KiB at a time where ext4 and XFS take large folios:
the same upload then cost up to four times as much in one round as in the next. The bytes are real: the holes of a
sparse file all come from one page that stays in the processor's cache, and nobody runs a server to send those.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.sizes import PIECE, Sizes

USER = "bench"
PASSWORD = "not-a-secret-at-all"
NOBODY = "nobody"
HASHES = ("sha512-crypt", "yescrypt", "argon2id")
"""The formats of the hash. crypt(3) does not know argon2id: of the peers, Pure-FTPd does."""


class NoRoom(Exception):
    """The place for the files is too small."""


def room_needed(sizes: Sizes) -> int:
    """The file served, four uploads of its size, and the small ones."""
    return 5 * sizes.bulk + 9 * sizes.files * (16 << 10) + (256 << 20)


def file_system(directory: Path) -> str:
    """The type of the file system that a directory is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    under = [(mount, kind) for mount, kind in mounts if directory.resolve().is_relative_to(mount)]
    return max(under, key=lambda found: len(found[0]))[1]


class Stage:
    """The directory that holds all this, for as long as the benchmark runs."""

    def __init__(self, place: Path, sizes: Sizes, scheme: str, python: Path) -> None:
        self._scheme, self._python = scheme, python
        needed = room_needed(sizes)
        if shutil.disk_usage(place).free < needed:
            raise NoRoom(f"{place} has less than the {needed >> 20} MiB that are needed; use --scale or --data")
        self.directory = Path(tempfile.mkdtemp(prefix="ftpsd-benchmark-", dir=place))
        self.directory.chmod(0o755)
        self.home = self.directory / "home"
        self.uploads = self.home / "up"
        self.piece = self.directory / "piece.bin"
        self.certificate = self.directory / "certificate.pem"
        self.private_key = self.directory / "key.pem"
        self.both = self.directory / "both.pem"
        root = os.geteuid() == 0
        self.owner = pwd.getpwnam(NOBODY) if root else pwd.getpwuid(os.geteuid())
        self.password_hash = ""
        self.bulk_sha256 = self.small_sha256 = ""

    def build(self, sizes: Sizes) -> None:
        """Write everything."""
        self._write_identity()
        self.home.mkdir()
        self._write_bulk(sizes.bulk)
        piece = self.piece.read_bytes()[: sizes.small]
        self.small_sha256 = hashlib.sha256(piece).hexdigest()
        self._fill("small", sizes.files, piece, ".bin")
        self._fill("list", sizes.names)
        self._fill("many", sizes.many_names)
        self.uploads.mkdir()
        os.chown(self.uploads, self.owner.pw_uid, self.owner.pw_gid)
        os.sync()  # so that writing all this to the disk is nobody's neighbour later

    def _write_identity(self) -> None:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        names = ["-subj", "/CN=localhost", "-keyout", str(self.private_key), "-out", str(self.certificate)]
        subprocess.run(["openssl", "req", "-x509", *curve, *names], check=True, capture_output=True)
        self.both.write_bytes(self.private_key.read_bytes() + self.certificate.read_bytes())
        self.both.chmod(0o600)
        self.password_hash = self._hash()

    def _hash(self) -> str:
        """The password's hash. argon2id has ftpsd's default parameters, the others have those of Debian's passwd."""
        command = {
            "sha512-crypt": ["openssl", "passwd", "-6", "-stdin"],
            "yescrypt": ["perl", "-e", f"print crypt(<STDIN>, '$y$j9T${secrets.token_hex(8)}')"],
            "argon2id": [str(self._python), "-m", "ftpsd", "passwd", "-c", "/etc/ftpsd/ftpsd.yaml"],
        }[self._scheme]
        tree = Path(__file__).resolve().parent.parent
        answer = subprocess.run(command, input=PASSWORD, check=True, capture_output=True, text=True, cwd=tree)
        return answer.stdout.strip()

    def _write_bulk(self, size: int) -> None:
        piece = os.urandom(PIECE)
        self.piece.write_bytes(piece)
        digest = hashlib.sha256()
        with (self.home / "bulk.bin").open("wb") as file:
            for start in range(0, size, PIECE):
                part = piece[: size - start]
                file.write(part)
                digest.update(part)
        self.bulk_sha256 = digest.hexdigest()

    def _fill(self, name: str, count: int, content: bytes = b"", suffix: str = ".dat") -> None:
        directory = self.home / name
        directory.mkdir()
        for number in range(count):
            path = f"{directory}/{number}{suffix}"
            with open(path, "wb", buffering=0) as file:
                if content:
                    file.write(content)

    def check_uploads(self, count: int, size: int, *, every_byte: bool) -> None:
        """There must be `count` files of `size` bytes, which are those that were sent."""
        files = sorted(self.uploads.iterdir())
        sizes = [file.stat().st_size for file in files]
        if sizes != [size] * count:
            raise ValueError(f"{len(files)} uploads of {sorted(set(sizes))} bytes instead of {count} of {size}")
        if every_byte:
            piece = self.piece.read_bytes()
            for file in files:
                if not _repeats(file, piece):
                    raise ValueError(f"{file.name}: the bytes in the file are not those that were sent")

    def clear_uploads(self) -> None:
        """Take the uploads away."""
        for file in self.uploads.iterdir():
            file.unlink()

    def remove(self) -> None:
        """Take everything away."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _repeats(path: Path, piece: bytes) -> bool:
    """Whether a file is `piece` over and over, cut off somewhere."""
    with path.open("rb", buffering=0) as file:
        while data := file.read(len(piece)):
            if data != piece[: len(data)]:
                return False
    return True
