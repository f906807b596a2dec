"""The container image: built from Debian's packages, and started as in a container. Needs root, network and minutes.

Without a container engine: mmdebstrap makes the base image, buildah the image, and namespaces with chroot are the
container: process 1, a network and mounts of its own, any user, a root file system that nobody can write to. `.ci/run`
sets FTPSD_IMAGE.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import PATIENCE

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif("FTPSD_IMAGE" not in os.environ, reason="FTPSD_IMAGE is not set: building takes minutes"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can build and mount an image"),
    *(
        pytest.mark.skipif(shutil.which(each) is None, reason=f"{each} is not installed")
        for each in ("mmdebstrap", "buildah", "unshare", "nsenter", "curl")
    ),
]

#: A user whom the image does not know, as OpenShift runs it.
USER, GROUP = 12345, 0

#: What a container engine does: mounts, a root file system that is read-only, a user. $0 is the root.
_ENTER = """
set -e
ip link set lo up
mount --make-rprivate /
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mount --bind "$VOLUMES/data" "$0/data"
mount --bind "$VOLUMES/tls" "$0/tls"
mount -t tmpfs -o mode=1777 tmpfs "$0/run/ftpsd"
mount -t tmpfs -o mode=0755 tmpfs "$0/run/secrets"
cp "$VOLUMES"/secrets/* "$0/run/secrets/"
mount -o remount,bind,ro "$0"
exec chroot --userspec=USER:GROUP --groups=GROUP "$0" /usr/bin/env -i "$@"
""".replace("USER:GROUP", f"{USER}:{GROUP}").replace("GROUP", str(GROUP))


class Image:
    """The image in a storage of its own, mounted at `root`."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        _run(
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            "--dpkgopt=force-unsafe-io",
            "bookworm",
            str(storage / "base.tar"),
            timeout=300,
        )
        base = self._buildah("from", "scratch")
        self._buildah("add", "--quiet", base, str(storage / "base.tar"), "/")
        self._buildah("commit", "--quiet", base, "localhost/base")
        file = ROOT / "packaging/container/Containerfile"
        options = ("--isolation", "chroot", "--format", "docker", "--build-arg", "BASE=localhost/base")
        self._buildah("bud", "--quiet", *options, "-f", str(file), "-t", "localhost/ftpsd", str(ROOT))
        inspected = json.loads(self._buildah("inspect", "--type", "image", "localhost/ftpsd"))
        #: What the image says of itself: Env, Entrypoint, Cmd, Healthcheck …
        self.configuration: dict[str, Any] = inspected["Docker"]["config"]
        self._container = self._buildah("from", "--pull-never", "localhost/ftpsd")
        self.root = Path(self._buildah("mount", self._container))
        (self.root / "run/secrets").mkdir(exist_ok=True)

    def _buildah(self, *arguments: str) -> str:
        places = ("--root", str(self._storage / "root"), "--runroot", str(self._storage / "run"))
        return _run("buildah", *places, *arguments, timeout=500)

    def close(self) -> None:
        """Unmount the image."""
        self._buildah("umount", self._container)


def _run(*command: str, timeout: float) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image, built once."""
    storage = tmp_path_factory.mktemp("image")
    made = Image(storage)
    yield made
    made.close()
    shutil.rmtree(storage, ignore_errors=True)


class Volumes:
    """The volumes and secrets of a container."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("data", "tls", "secrets"):
            (directory / name).mkdir()
        for name in ("data", "tls"):  # as fsGroup does, and Docker with a volume that is empty
            os.chown(directory / name, 0, GROUP)
            os.chmod(directory / name, 0o770)
        self.log = directory / "log"


class Running:
    """A running container."""

    def __init__(self, image: Image, log: Path, process: subprocess.Popen[bytes]) -> None:
        self._image = image
        self._log = log
        self._process = process
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + PATIENCE
        while not children.read_text().split():
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.02)
        #: Process 1, as it is called outside.
        self.first = int(children.read_text().split()[0])

    def wait_for(self, words: str) -> None:
        """Wait until the log has some words."""
        deadline = time.monotonic() + 2 * PATIENCE
        while words not in self._log.read_text():
            assert time.monotonic() < deadline and self._process.poll() is None, self._log.read_text()
            time.sleep(0.05)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the container, as `docker exec` does."""
        enter = ("nsenter", "-t", str(self.first), "-m", "-p", "-r", "-w", "-S", str(USER), "-G", str(GROUP))
        environment = ("/usr/bin/env", "-i", *self._image.configuration["Env"])
        return subprocess.run([*enter, *environment, *command], capture_output=True, text=True, timeout=60, check=False)

    def outside(self, *command: str) -> list[str]:
        """Return a command that runs beside the container, in its network."""
        return ["nsenter", "-t", str(self.first), "-n", *command]

    def stop(self) -> int:
        """Send the signal of the image to process 1, and return the exit status of the container."""
        os.kill(self.first, signal.Signals[self._image.configuration.get("StopSignal", "SIGTERM")])
        return self._process.wait(2 * PATIENCE)


@contextmanager
def container(image: Image, volumes: Volumes, *variables: str) -> Iterator[Running]:
    """Start the image with variables of the environment."""
    configuration = image.configuration
    command: Sequence[str] = [*configuration["Env"], *variables, *configuration["Entrypoint"], *configuration["Cmd"]]
    with volumes.log.open("wb") as output:
        process = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--pid",
                "--net",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                _ENTER,
                str(image.root),
                *command,
            ],
            env={**os.environ, "VOLUMES": str(volumes.directory)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Running(image, volumes.log, process)
    finally:
        process.kill()
        process.wait(PATIENCE)


def test_the_image_serves(image: Image, tmp_path: Path) -> None:
    """As any user and on a read-only root file system: curl uploads and downloads with TLS through the only passive
    port, the health check answers, orphans are reaped, and SIGTERM lets a download finish."""
    assert image.configuration["User"] == "1001:0"
    volumes = Volumes(tmp_path)
    (tmp_path / "secrets/alice").write_text("sesame\n")
    curl = ["curl", "-sS", "--ssl-reqd", "--cacert", str(tmp_path / "tls/tls.crt"), "-u", "alice:sesame"]
    url = "ftp://localhost:2121/"
    content = os.urandom(3 << 20)
    (tmp_path / "big").write_bytes(content)
    with container(image, volumes, "FTPSD_USER_alice_PASSWORD_FILE=/run/secrets/alice") as running:
        running.wait_for("has started")
        assert "made a self-signed certificate" in volumes.log.read_text()
        assert Path(f"/proc/{running.first}/comm").read_text() == "tini\n"
        user = next(each for each in Path(f"/proc/{running.first}/status").read_text().splitlines() if "Uid" in each)
        assert user.split()[1:] == [str(USER)] * 4
        assert "read-only" in running.execute("touch", "/etc/x").stderr.lower()
        subprocess.run(running.outside(*curl, "-T", str(tmp_path / "big"), url), check=True, timeout=60)
        stored = tmp_path / "data/homes/alice/big"
        assert stored.read_bytes() == content
        assert stored.stat().st_uid == USER
        health = running.execute(*image.configuration["Healthcheck"]["Test"][1:])
        assert health.returncode == 0, health.stderr
        for path in ("live", "ready", "metrics"):
            get = running.outside("curl", "-sSf", "-o", "/dev/null", f"http://localhost:8122/{path}")
            subprocess.run(get, check=True, timeout=30)
        running.execute("sh", "-c", "sleep 0.2 &")
        time.sleep(0.5)
        children = Path(f"/proc/{running.first}/task/{running.first}/children").read_text().split()
        assert len(children) == 1, [Path(f"/proc/{each}/status").read_text() for each in children]
        slow = [*curl, "--limit-rate", "1M", "-o", str(tmp_path / "got"), f"{url}big"]
        with subprocess.Popen(running.outside(*slow)) as client:
            deadline = time.monotonic() + PATIENCE
            while not (tmp_path / "got").exists() or not (tmp_path / "got").stat().st_size:
                assert time.monotonic() < deadline and client.poll() is None
                time.sleep(0.05)
            assert running.stop() == 0
            assert client.wait(PATIENCE) == 0
    assert (tmp_path / "got").read_bytes() == content


def test_a_missing_secret_ends_the_container(image: Image, tmp_path: Path) -> None:
    """The container ends with status 1, and its log has the line that says which secret is missing."""
    volumes = Volumes(tmp_path)
    (tmp_path / "secrets/other").write_text("x")
    with container(image, volumes, "FTPSD_USER_alice_PASSWORD_FILE=/run/secrets/alice") as running:
        assert running._process.wait(PATIENCE) == 1
    assert "cannot read /run/secrets/alice: no such file or directory. Mount" in volumes.log.read_text()
