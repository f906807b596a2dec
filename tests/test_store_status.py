"""What the administrator sees of stores: `check --online`, the doctor, status, the API, metrics and health."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.admin import Admin
from tests.daemon import PATIENCE, Daemon, ftpsd
from tests.ftpclient import secured
from tests.prometheus import with_metrics
from tests.s3 import Bucket
from tests.s3_proxy import Answer, FaultyProxy
from tests.store_daemon import HOME, Make, store_daemon


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[FaultyProxy]:
    """A proxy before the server of the bucket."""
    with FaultyProxy(bucket.server.port) as running:
        yield running


def run(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command `ftpsd`."""
    command = ftpsd(*arguments, "-c", str(daemon.config))
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)


def test_check_online(make_daemon: Make, bucket: Bucket, proxy: FaultyProxy) -> None:
    """`ftpsd check` connects to nothing. With --online it lists each store and begins an upload, which it aborts."""
    daemon = store_daemon(make_daemon, bucket, port=proxy.port, start=False)
    assert run(daemon, "check").returncode == 0
    assert proxy.requests == []
    done = run(daemon, "check", "--online")
    assert (done.returncode, done.stdout) == (0, f"{daemon.config}: good, 2 users, and all stores answer.\n")
    assert (bucket.all_keys(), bucket.uploads()) == ([], [])
    proxy.spoil("POST", "uploads", Answer(403, "AccessDenied"))
    done = run(daemon, "check", "--online")
    assert done.returncode == 0
    assert "nothing can be uploaded to the store archive: " in done.stderr


@pytest.mark.parametrize(("key", "value"), [
    ("endpoint", "s3.example.org"), ("endpoint", "https://s3_1.example.org"), ("region", "eu 1"), ("bucket", ".."),
])  # fmt: skip
def test_settings_that_boto3_refuses(make_daemon: Make, bucket: Bucket, key: str, value: str) -> None:
    """`ftpsd check` and the start of the daemon name file, line, key and remedy; there is no traceback."""
    daemon = store_daemon(make_daemon, bucket, start=False)
    daemon.settings["storage"]["archive"][key] = value
    daemon.write()
    (fault,) = json.loads(run(daemon, "check", "--json").stdout)
    assert (fault["level"], fault["key"], fault["file"]) == ("fault", f"storage.archive.{key}", str(daemon.config))
    assert fault["line"] and fault["remedy"]
    daemon.start()
    assert f"{daemon.config}:{fault['line']}: storage.archive.{key}: " in daemon.log
    assert "Traceback" not in daemon.log
    assert daemon.process is not None
    assert daemon.process.wait(PATIENCE) == 1


@pytest.mark.parametrize(("code", "status", "why"), [
    ("NoSuchBucket", 404, "the bucket does not exist"),
    ("InvalidAccessKeyId", 403, "the access key is not known"),
    ("SignatureDoesNotMatch", 403, "the secret access key is wrong"),
    ("RequestTimeTooSkewed", 403, "the clock of this machine and that of the store differ"),
])  # fmt: skip
def test_check_online_says_why(
    make_daemon: Make, bucket: Bucket, proxy: FaultyProxy, code: str, status: int, why: str
) -> None:
    """A store that cannot be used is a fault, which names its place in the file and the reason; never the secret."""
    daemon = store_daemon(make_daemon, bucket, port=proxy.port, start=False)
    proxy.spoil("GET", "list-type", Answer(status, code), times=9)
    (fault,) = json.loads(run(daemon, "check", "--online", "--json").stdout)
    assert (fault["level"], fault["key"]) == ("fault", "storage.archive")
    assert fault["line"] is not None
    assert why in fault["problem"]
    assert "testing-secret" not in json.dumps(fault)


def test_a_wrong_secret(make_daemon: Make, each_bucket: Bucket) -> None:
    """A server that verifies signatures (moto does not) refuses a wrong secret: the client gets 451, the log says why."""
    if each_bucket.server.kind == "moto":
        pytest.skip("moto accepts every signature")
    daemon = store_daemon(make_daemon, each_bucket, start=False)
    entry = daemon.settings["storage"]["archive"]
    with open(entry["credentials"]["secret_access_key_file"], "w") as file:
        file.write("wrong\n")
    assert "the secret access key is wrong" in run(daemon, "check", "--online").stderr
    daemon.start()
    with secured(daemon) as client:
        client.expect(451, "SIZE f")
        client.expect(200, "NOOP")
    daemon.wait_for_log("the store archive cannot be used: .*the secret access key is wrong")


def test_unreachable(make_daemon: Make, bucket: Bucket, proxy: FaultyProxy) -> None:
    """A store that is unreachable is a fault for `check --online` and the doctor, and later it is not."""
    daemon = store_daemon(make_daemon, bucket, port=proxy.port, start=False)
    proxy.stop()
    done = run(daemon, "check", "--online")
    assert done.returncode == 1
    assert "storage.archive: cannot be used: " in done.stderr
    assert "the store archive cannot be used" in run(daemon, "doctor").stdout.replace("\n  ", " ")
    proxy.start()
    assert run(daemon, "check", "--online").returncode == 0


def test_what_is_shown_of_a_store(make_daemon: Make, bucket: Bucket, proxy: FaultyProxy) -> None:
    """Status, API, metrics and health show whether a store can be used: it is looked at from the start on."""
    daemon = store_daemon(make_daemon, bucket, port=proxy.port, start=False)
    metrics = with_metrics(daemon)
    daemon.settings["admin"] = {"socket": str(daemon.directory / "admin.sock")}
    daemon.write()
    proxy.stop()
    daemon.start()
    admin = Admin(daemon.directory / "admin.sock")
    metrics.becomes(0.0, "ftpsd_store_up", store="archive")
    ready = metrics.get("/ready")
    assert ready.status == 503
    assert ready.text.startswith("not ready: the store archive cannot be used: ")
    assert f"archive, bucket {bucket.name}: DOWN: " in run(daemon, "status").stdout
    (shown,) = admin.get("status")["stores"]
    assert (shown["name"], shown["bucket"], shown["state"]) == ("archive", bucket.name, "down")
    assert shown["error"]
    proxy.start()
    metrics.becomes(1.0, "ftpsd_store_up", store="archive")
    assert metrics.get("/ready").status == 200
    assert f"archive, bucket {bucket.name}: up" in run(daemon, "status").stdout
    assert admin.get("status")["stores"] == [{"name": "archive", "bucket": bucket.name, "state": "up", "error": None}]
    daemon.wait_for_log("the store archive works again")


def test_ready_with_homes_elsewhere(make_daemon: Make, bucket: Bucket, proxy: FaultyProxy) -> None:
    """One store that is down takes no daemon out of service whose other users have their homes on a disk."""
    daemon = store_daemon(make_daemon, bucket, {"alice": {"home": HOME}, "bob": {}}, port=proxy.port, start=False)
    metrics = with_metrics(daemon)
    daemon.write()
    proxy.stop()
    daemon.start()
    metrics.becomes(0.0, "ftpsd_store_up", store="archive")
    assert metrics.get("/ready").status == 200


def test_user_show(make_daemon: Make, bucket: Bucket) -> None:
    """`ftpsd user show` names the place, and counts what is there for the quota."""
    bucket.put("alice/f", bytes(1000))
    users = {"alice": {"home": HOME, "quota": {"bytes": "1M"}}}
    daemon = store_daemon(make_daemon, bucket, users, start=False)
    shown = json.loads(run(daemon, "user", "show", "alice", "--json").stdout)
    assert (shown["home"], shown["usage"]) == ("s3:archive/alice", {"bytes": 1000, "files": 1})


def test_user_add(make_daemon: Make, bucket: Bucket) -> None:
    """`ftpsd user add` makes no directory for a user whose home is in a store; the files of a store are kept."""
    daemon = store_daemon(make_daemon, bucket, start=False)
    home = json.dumps({"storage": "archive", "path": "{user}/"})
    done = run(daemon, "user", "add", "carol", "--generate", "--set", f"home={home}")
    assert done.returncode == 0, done.stderr
    assert "The home is s3:archive/carol." in done.stdout
    done = run(daemon, "user", "remove", "carol", "--delete-home", "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "is in a store: delete it there" in done.stderr
    assert run(daemon, "user", "remove", "carol").returncode == 0
