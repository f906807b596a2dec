"""The servers beside each other: ftpsd with a local home, ftpsd and rclone with homes in a store."""

from __future__ import annotations

from benchmarks import peers
from benchmarks.client import HOST
from benchmarks.s3.stores import BUCKET, KEY_ID, SECRET_KEY, Store, rclone, version_of
from benchmarks.server import PASSIVE_PORTS, Setting
from benchmarks.server import Server as AnyServer
from benchmarks.servers import Ftpsd
from benchmarks.stage import PASSWORD, USER

#: The bytes of a part, and how many are sent or fetched at a time: for all who use the store.
PART_SIZE, PARALLEL = 8 << 20, 4


class LocalFtpsd(Ftpsd):
    """ftpsd with a home on the disk."""

    name = "ftpsd-disk"


class StoreFtpsd(Ftpsd):
    """ftpsd with a home in the store."""

    name = "ftpsd-s3"

    def __init__(self, setting: Setting, store: Store) -> None:
        super().__init__(setting)
        self._store = store

    def obtain(self) -> str:
        """See Server."""
        found = super().obtain()
        boto3 = peers.module_versions(self.setting.python, "boto3")
        if not boto3:
            raise peers.Missing("this Python has no boto3")
        return f"{found}, {boto3}"

    def home(self) -> str:
        """See Ftpsd."""
        return '{storage: store, path: ""}'

    def command(self) -> list[str]:
        """See Server."""
        secret = self.directory / "secret"
        secret.touch(0o600)
        secret.write_text(SECRET_KEY)
        self.settings = f"""\
storage:
  store:
    type: s3
    bucket: {BUCKET}
    endpoint: {self._store.endpoint}
    region: us-east-1
    credentials: {{access_key_id: {KEY_ID}, secret_access_key_file: {secret}}}
    part_size: {PART_SIZE}
    parallel: {PARALLEL}
"""
        return super().command()


class RcloneFtp(AnyServer):
    """`rclone serve ftp`. The size of parts and their number are those of ftpsd.

    It knows implicit TLS only, refuses PBSZ and PROT, and its data connections are plain (1.75.2).
    """

    name = "rclone"
    implicit = True

    def __init__(self, setting: Setting, store: Store) -> None:
        super().__init__(setting)
        self._store = store

    def obtain(self) -> str:
        """See Server."""
        return f"rclone serve ftp, {version_of(rclone(self.setting))}"

    def environment(self) -> dict[str, str]:
        """See Server."""
        settings = {
            "type": "s3",
            "provider": "Other",
            "endpoint": self._store.endpoint,
            "region": "us-east-1",
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET_KEY,
            "chunk_size": f"{PART_SIZE >> 20}Mi",
            "upload_concurrency": str(PARALLEL),
        }
        remote = {f"RCLONE_CONFIG_STORE_{name.upper()}": value for name, value in settings.items()}
        return {"RCLONE_CONFIG": "/dev/null", "RCLONE_PASS": PASSWORD, **remote}

    def command(self) -> list[str]:
        """See Server. Ranges are fetched at the same time, and a listing makes no request for each file."""
        ports = f"{PASSIVE_PORTS.start}-{PASSIVE_PORTS.stop - 1}"
        listen = ["--addr", f"{HOST}:{self.port}", "--passive-port", ports, "--user", USER]
        tls = ["--cert", str(self.stage.certificate), "--key", str(self.stage.private_key)]
        reading = [f"--vfs-read-chunk-size={PART_SIZE >> 20}Mi", f"--vfs-read-chunk-streams={PARALLEL}"]
        reading.append("--use-server-modtime")
        return [str(rclone(self.setting)), "serve", "ftp", *listen, *tls, *reading, f"store:{BUCKET}"]
