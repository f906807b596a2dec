"""`ftpsd container`: users of the environment, a certificate at the first start, and the files of packaging/container."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from ftpsd.accounts import hashes
from ftpsd.cli.main import main
from ftpsd.cli.serve import container as _  # noqa: F401 - another user cannot import it
from ftpsd.cli.serve import given_users
from ftpsd.cli.serve.self_signed import make_certificate
from ftpsd.config import load
from tests.daemon import PATIENCE, SECRET, free_range, ftpsd

CONTAINER = Path(__file__).parents[1] / "packaging/container"

NOBODY = 65534


class Container:
    """The files of a container below one directory: its configuration, its volumes and its secrets."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, high = free_range(8)
        self.data, self.tls, self.secrets = (directory / name for name in ("data", "tls", "secrets"))
        for each in (self.data, self.tls, self.secrets, directory / "run", directory / "etc"):
            each.mkdir()
        ports = {"2121": self.port, "9990": self.port + 1, "8122": self.port + 2}
        text = (CONTAINER / "ftpsd.yaml").read_text()
        for old, new in ports.items():
            text = text.replace(f"port: {old}", f"port: {new}")
        text = re.sub(r"(?m)^  ports: .*?( #|$)", f"  ports: {self.port + 3}-{high}\\1", text)
        text = text.replace('"::"', '"127.0.0.1"').replace("/tls/", f"{self.tls}/").replace("/data/", f"{self.data}/")
        self.config = directory / "etc/ftpsd.yaml"
        self.config.write_text(text)
        users = (CONTAINER / "users.yaml").read_text().replace("/data/", f"{self.data}/")
        self.users_file = directory / "etc/users.yaml"
        self.users_file.write_text(users)

    def secret(self, name: str, text: str) -> str:
        """Write a secret, and return its path."""
        (self.secrets / name).write_text(text)
        return str(self.secrets / name)

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the image with these variables."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FTPSD_USER_")}
        places = {"RUNTIME_DIRECTORY": str(self.directory / "run"), "STATE_DIRECTORY": str(self.data / "state")}
        return {**clean, **places, **variables}

    def prepare(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Do what the start does before the daemon."""
        return subprocess.run(
            ftpsd("container", "--prepare", "-c", str(self.config)),
            env=self.environment(variables),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def running(self, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start the container; it has started when this returns."""
        log = self.directory / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ftpsd("container", "-c", str(self.config)),
                env=self.environment(variables),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            deadline = time.monotonic() + 2 * PATIENCE
            while "has started" not in log.read_text():
                assert time.monotonic() < deadline and process.poll() is None, log.read_text()
                time.sleep(0.05)
            yield process
        finally:
            process.kill()
            process.wait(PATIENCE)

    def curl(self, *arguments: str, login: str = "alice:secret", path: str = "") -> list[str]:
        """Return a curl command that verifies the certificate of the container."""
        url = f"ftp://127.0.0.1:{self.port}/{path}"
        return ["curl", "-sS", "--ssl-reqd", "--cacert", str(self.tls / "tls.crt"), "-u", login, *arguments, url]


@pytest.fixture
def container(tmp_path: Path) -> Container:
    """A container that has never been started."""
    return Container(tmp_path)


def user_of(container: Container, name: str) -> dict[str, object]:
    """Return the keys in a user's file."""
    found = yaml.safe_load((container.data / f"users.d/{name}.yaml").read_text())
    assert isinstance(found, dict)
    return found


def users_files(container: Container) -> list[str]:
    """Return the names of all users' files."""
    found = (path.name for path in (container.data / "users.d").glob("*.yaml"))
    return sorted(name for name in found if not name.startswith("."))


# --- users -----------------------------------------------------------------------------------------------


def test_users_come_from_secrets(container: Container) -> None:
    """Each user of the environment gets a file with the hash of the password, the given keys, and a home."""
    alice = container.secret("alice", "secret\n")
    bob = container.secret("bob", f"{SECRET}\r\n")
    done = container.prepare(
        FTPSD_USER_alice_PASSWORD_FILE=alice,
        FTPSD_USER_alice_PERMISSIONS="list, download",
        FTPSD_USER_bob_PASSWORD_HASH_FILE=bob,
        FTPSD_USER_bob_HOME=str(container.data / "homes/in/bob"),
        FTPSD_USER_carol_x_PASSWORD_HASH=SECRET,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = user_of(container, "alice")
    assert hashes.verify("secret", str(found["password"]))
    assert found["permissions"] == ["list", "download"]
    assert user_of(container, "bob") == {"password": SECRET, "home": str(container.data / "homes/in/bob")}
    assert user_of(container, "carol_x") == {"password": SECRET}
    users = load.load(container.config).users.users
    assert {name: Path(str(users.get(name).settings.home)).is_dir() for name in users.names()} == dict.fromkeys(
        ["alice", "bob", "carol_x"], True
    )
    assert "secret" not in done.stdout.replace("secrets", "")


def test_users_that_the_environment_drops_are_gone(container: Container) -> None:
    """A start removes users that an earlier one has written, and no user that `ftpsd user` or a person has added."""
    alice = container.secret("alice", "secret")
    assert container.prepare(FTPSD_USER_alice_PASSWORD_FILE=alice, FTPSD_USER_bob_PASSWORD_HASH=SECRET).returncode == 0
    (container.data / "users.d/own.yaml").write_text(f'password: "{SECRET}"\n')
    done = container.prepare(FTPSD_USER_bob_PASSWORD_HASH=SECRET)
    assert "removed the user alice" in done.stdout
    assert users_files(container) == ["bob.yaml", "own.yaml"]
    assert (container.data / "homes/alice").is_dir()
    done = container.prepare()
    assert users_files(container) == ["own.yaml"]
    taken = container.prepare(FTPSD_USER_own_PASSWORD_HASH=SECRET)
    assert taken.returncode == 1
    assert "there is a user own already" in taken.stderr


def change_user(container: Container, *arguments: str, password: str = "") -> None:
    """Run `ftpsd user` in the container, without a daemon."""
    command = ftpsd("user", *arguments, "-c", str(container.config))
    environment = container.environment({})
    done = subprocess.run(command, env=environment, input=password, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_users_of_the_environment_that_were_changed(container: Container) -> None:
    """A disabled user stays disabled, a changed password is lost, and without its variable each user is gone."""
    both = {"FTPSD_USER_alice_PASSWORD_HASH": SECRET, "FTPSD_USER_bob_PASSWORD_HASH": SECRET}
    assert container.prepare(**both).returncode == 0
    change_user(container, "disable", "alice")
    change_user(container, "passwd", "bob", "--password-stdin", password="other\n")
    change_user(container, "add", "own", "--password-stdin", password="other\n")
    done = container.prepare(**both)
    assert (done.returncode, done.stderr) == (0, "")
    assert "alice is disabled until you run: ftpsd user enable alice" in done.stdout
    assert user_of(container, "alice") == {"password": SECRET, "enabled": False}
    assert user_of(container, "bob") == {"password": SECRET}
    change_user(container, "enable", "alice")
    assert container.prepare(**both).returncode == 0
    assert user_of(container, "alice") == {"password": SECRET}
    change_user(container, "set", "alice", "--set", "permissions=read-only")
    change_user(container, "passwd", "bob", "--password-stdin", password="other\n")
    done = container.prepare()
    assert "removed the user alice" in done.stdout and "removed the user bob" in done.stdout
    assert list(load.load(container.config).users.users.names()) == ["own"]


def test_a_user_who_is_removed_and_added_again_belongs_to_nobody_else(container: Container) -> None:
    """A start without the variable forgets the name, even if `ftpsd user remove` was first."""
    assert container.prepare(FTPSD_USER_alice_PASSWORD_HASH=SECRET).returncode == 0
    change_user(container, "remove", "alice", "--yes")
    assert container.prepare().returncode == 0
    change_user(container, "add", "alice", "--password-stdin", password="other\n")
    assert container.prepare().returncode == 0
    assert hashes.verify("other", str(user_of(container, "alice")["password"]))


def test_a_changed_secret_counts_at_the_next_start(container: Container) -> None:
    """Password and keys are those of the last start."""
    for password in ("first", "second"):
        container.prepare(FTPSD_USER_alice_PASSWORD_FILE=container.secret("alice", password))
        assert hashes.verify(password, str(user_of(container, "alice")["password"]))


def test_a_password_in_the_environment_is_taken_with_a_warning(container: Container) -> None:
    """The warning names the variable and the better one, and does not have the password."""
    done = container.prepare(FTPSD_USER_alice_PASSWORD="Sesame")
    assert done.returncode == 0
    assert "warning: " in done.stdout
    assert "FTPSD_USER_alice_PASSWORD_FILE" in done.stdout
    assert "Sesame" not in done.stdout + done.stderr
    assert hashes.verify("Sesame", str(user_of(container, "alice")["password"]))


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"alice_PASSWORD_FILE": "/nowhere/alice"}, "cannot read /nowhere/alice: no such file or directory. Mount"),
        ({"alice_PASSWORD_FILE": "{secrets}"}, "not a regular file"),
        ({"alice_PASSWORD_FILE": "{pipe}"}, "not a regular file"),
        ({"alice_PASSWORD_FILE": "{empty}"}, "is empty"),
        ({"alice_PASSWORD_FILE": "{lines}"}, "more than one line"),
        ({"alice_PASSWORD_FILE": "{long}"}, "more than 1024 bytes"),
        ({"alice_PASSWORD_HASH_FILE": "{lines}"}, "more than one line"),
        ({"alice_PASSWORD_HASH": "plain"}, "no hash that ftpsd knows"),
        ({"alice_PASSWORD": "", "bob_PASSWORD_FILE": "/nowhere"}, "FTPSD_USER_alice_PASSWORD is empty\nFTPSD_USER_bob"),
        ({"alice_PASSWORD": "x", "alice_PASSWORD_HASH": "x"}, "are both set: remove one"),
        ({"alice_HOME": "/x"}, "alice has no password: set FTPSD_USER_alice_PASSWORD_FILE"),
        ({"alice_PASSWORT_FILE": "/x"}, "FTPSD_USER_alice_PASSWORT_FILE” is not FTPSD_USER_NAME_"),
        ({".alice_PASSWORD": "x"}, "starts with a dot"),
        ({"alice_PASSWORD": "x", "Alice_PASSWORD": "x"}, "differ only in case"),
        ({"alice_PASSWORD": "x", "alice_HOME": "{empty}/alice"}, "not a directory"),
    ],
)
def test_a_fault_of_the_environment_ends_the_start(container: Container, variables: dict[str, str], words: str) -> None:
    """The start ends with a line that names the variable and what helps; no user is changed."""
    os.mkfifo(container.secrets / "pipe")
    places = {
        "secrets": str(container.secrets),
        "pipe": str(container.secrets / "pipe"),
        "empty": container.secret("empty", "\n"),
        "lines": container.secret("lines", "a\nb\n"),
        "long": container.secret("long", "x" * 1025),
    }
    given = {f"FTPSD_USER_{key}": value.format(**places) for key, value in variables.items()}
    done = container.prepare(**given)
    assert done.returncode == 1, done.stdout
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(container.data.glob("users.d/*.yaml"))


def as_nobody(function: Callable[[], int], environment: dict[str, str]) -> tuple[int, str]:
    """Run a function as another user, and return its result and what it has printed. It may import nothing new."""
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if not child:
            status = 99
            try:
                os.environ.clear()
                os.environ.update(environment)
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                sys.stdout = sys.stderr = output
                status = function()
            except BaseException:
                traceback.print_exc(file=output)
            finally:
                output.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return status, output.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as another user")
def test_volumes_and_secrets_of_another_user_are_faults(container: Container) -> None:
    """A secret or volume that the user of the container may not use is named, with the user."""
    secret = container.secret("alice", "secret")
    os.chmod(secret, 0o600)
    environment = container.environment({"FTPSD_USER_alice_PASSWORD_FILE": secret})
    make_certificate(container.directory / "any.pem", container.directory / "any.key")  # so that all is imported
    for each in (container.directory, *container.directory.parents[:-2]):
        os.chmod(each, os.stat(each).st_mode | 0o055)

    def start() -> str:
        status, output = as_nobody(lambda: main(["container", "--prepare", "-c", str(container.config)]), environment)
        assert status == 1, output
        return output

    expected = f"user {NOBODY} (group {NOBODY}) may not write to {container.data}"
    assert expected in start()
    os.chown(container.data, NOBODY, NOBODY)
    assert f"may not write to {container.tls}" in start()
    os.chown(container.tls, NOBODY, NOBODY)
    assert f"cannot read {secret}: permission denied. Let user {NOBODY}" in start()


def test_other_variables_are_ignored() -> None:
    """Variables of other programs, and those that Kubernetes sets for services, name no users."""
    found = given_users.read(
        {
            "FTPSD_PORT": "tcp://10.0.0.1:21",
            "FTPSD_USER_X_SERVICE_HOST": "10.0.0.1",
            "FTPSD_USER_X_SERVICE_PORT_FTP": "21",
            "FTPSD_USER_X_PORT_21_TCP_ADDR": "10.0.0.1",
            "FTPSD_USER_X_PORT": "tcp://10.0.0.1:21",
            "HOME": "/",
        }
    )
    assert found == given_users.Given()


# --- certificate -----------------------------------------------------------------------------------------


def test_a_certificate_is_made_once(container: Container) -> None:
    """The first start makes a certificate for the announced name, and says that no client trusts it. It is kept."""
    text = container.config.read_text()
    container.config.write_text(text.replace("passive:", "passive:\n  address: ftp.example.com"))
    done = container.prepare()
    assert "made a self-signed certificate for ftp.example.com, " in done.stdout
    assert (container.tls / "tls.key").stat().st_mode & 0o777 == 0o600
    names = subprocess.run(
        ["openssl", "x509", "-in", container.tls / "tls.crt", "-noout", "-ext", "subjectAltName"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "DNS:ftp.example.com" in names
    before = (container.tls / "tls.crt").read_bytes()
    assert "certificate" not in container.prepare().stdout
    assert (container.tls / "tls.crt").read_bytes() == before


#: Ends the process before the n-th time that it opens, renames or removes a file in a directory.
_KILLED = """
import os, sys
directory, left = sys.argv[1], int(sys.argv[2])
def hook(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(directory):
        left -= 1
        if left < 0:
            os._exit(9)
sys.addaudithook(hook)
from ftpsd.cli.main import main
sys.exit(main(["container", "--prepare", "-c", sys.argv[3]]))
"""


def test_a_start_that_is_killed_while_it_makes_the_certificate(container: Container) -> None:
    """Wherever it is killed, the next start has a certificate and its key."""
    status, killed = 9, 0
    while status == 9:
        for each in container.tls.iterdir():
            each.unlink()
        command = [sys.executable, "-c", _KILLED, f"{container.tls}/", str(killed), str(container.config)]
        status = subprocess.run(command, env=container.environment({}), capture_output=True, timeout=60).returncode
        killed += 1
        done = container.prepare()
        assert done.returncode == 0, done.stderr
        load.load(container.config)
        assert (container.tls / "tls.key").stat().st_mode & 0o777 == 0o600
    assert status == 0 and killed > 4


def test_a_mounted_certificate_without_its_key_is_a_fault(container: Container, certificate: Path) -> None:
    """A certificate whose key is missing is not replaced: the fault says what is missing."""
    (container.tls / "tls.crt").write_bytes((certificate / "certificate.pem").read_bytes())
    container.prepare()
    assert not (container.tls / "tls.key").exists()
    done = subprocess.run(
        ftpsd("container", "-c", str(container.config)),
        env=container.environment({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "tls.key" in done.stderr


# --- the daemon ------------------------------------------------------------------------------------------


def test_a_stop_waits_for_the_transfer(container: Container) -> None:
    """SIGTERM during a download: the client gets every byte, and the container ends. The log is on standard
    output, and `ftpsd status` answers without a configured socket."""
    alice = container.secret("alice", "secret\n")
    (container.data / "homes/alice").mkdir(parents=True)
    (container.data / "homes/alice/big").write_bytes(content := os.urandom(3 << 20))
    target = container.directory / "got"
    with container.running(FTPSD_USER_alice_PASSWORD_FILE=alice) as process:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        assert b"secret\0" not in environment
        status = subprocess.run(
            ftpsd("status", "-c", str(container.config)), env=container.environment({}), capture_output=True, timeout=60
        )
        assert status.returncode == 0, status.stderr
        slow = container.curl("--limit-rate", "1M", "-o", str(target), path="big")
        with subprocess.Popen(slow) as client:
            deadline = time.monotonic() + PATIENCE
            while not target.exists() or not target.stat().st_size:
                assert time.monotonic() < deadline and client.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert client.wait(PATIENCE) == 0
        assert process.wait(PATIENCE) == -signal.SIGTERM  # tini makes 0 of it
    assert target.read_bytes() == content
    assert "RETR big: 226" in (container.directory / "log").read_text()


# --- the manifest ----------------------------------------------------------------------------------------


def manifest(kind: str) -> dict[str, object]:
    """Return an object of the Kubernetes manifest."""
    documents = yaml.safe_load_all((CONTAINER / "kubernetes.yaml").read_text())
    return next(each for each in documents if each["kind"] == kind)


def place_in_config_map(directory: Path, name: str, text: str) -> None:
    """Write a file as Kubernetes mounts it: a link to `..data`, which is a link to a directory that anybody may write."""
    versions = directory / "..2026_01_01"
    versions.mkdir(exist_ok=True)
    (versions / name).write_text(text)
    if not (directory / "..data").is_symlink():
        (directory / "..data").symlink_to(versions.name)
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to(f"..data/{name}")
    for each in (directory, versions):
        each.chmod(0o777)


def test_the_manifest_fits_the_configuration(container: Container) -> None:
    """The ConfigMap is a configuration that loads. Service, probes and the time to stop agree with it."""
    data = manifest("ConfigMap")["data"]
    for name, text in data.items():  # type: ignore[attr-defined]
        for place, here in (("/data/", container.data), ("/tls/", container.tls)):
            text = text.replace(place, f"{here}/")
        place_in_config_map(container.directory / "etc", name, text)
    done = container.prepare(FTPSD_USER_alice_PASSWORD_HASH=SECRET)
    assert done.returncode == 0, done.stderr
    check = ftpsd("check", "-c", str(container.config))
    done = subprocess.run(check, env=container.environment({}), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    settings = load.load(container.config).settings
    spec = manifest("StatefulSet")["spec"]["template"]["spec"]  # type: ignore[index]
    (each,) = spec["containers"]
    served = {listener.port for listener in settings.listen} | set(
        range(settings.passive.ports.low, settings.passive.ports.high + 1)
    )
    ports = {port["name"]: port["containerPort"] for port in each["ports"]}
    assert set(ports.values()) == served | {settings.metrics.port}  # type: ignore[union-attr]
    service = manifest("Service")["spec"]["ports"]  # type: ignore[index]
    assert {ports[port["targetPort"]] for port in service} == served
    passive = {ports[port["targetPort"]]: port["port"] for port in service if "passive" in port["name"]}
    assert passive == {port: port for port in range(settings.passive.ports.low, settings.passive.ports.high + 1)}
    assert spec["terminationGracePeriodSeconds"] >= settings.timeouts.drain + 30
    probes = {
        each[f"{kind}Probe"]["httpGet"]["path"]: each[f"{kind}Probe"]["httpGet"]["port"]
        for kind in ("liveness", "readiness")
    }
    assert {path: ports[port] for path, port in probes.items()} == dict.fromkeys(
        ("/live", "/ready"),
        settings.metrics.port,  # type: ignore[union-attr]
    )
    mounts = {mount["mountPath"] for mount in each["volumeMounts"]}
    assert mounts >= {"/data", "/tls", "/etc/ftpsd", "/run/ftpsd", "/run/secrets/ftpsd"}
    assert each["securityContext"]["readOnlyRootFilesystem"]
    assert spec["securityContext"]["runAsNonRoot"]
    for variable in each["env"]:
        assert given_users.read({variable["name"]: variable["value"]}).faults == []


# --- the image -------------------------------------------------------------------------------------------


def test_the_image_has_what_the_daemon_needs() -> None:
    """The Containerfile names Debian's packages of all dependencies, and exposes the ports of its configuration."""
    text = (CONTAINER / "Containerfile").read_text()
    control = (CONTAINER.parents[1] / "setup.cfg").read_text()
    names = {"twisted": "twisted", "pyopenssl": "openssl", "service-identity": "service-identity", "cryptography":
             "cryptography", "pyyaml": "yaml", "attrs": "attr", "cattrs": "cattr", "libpass": "passlib",
             "argon2-cffi": "argon2", "bcrypt": "bcrypt"}  # fmt: skip
    required = re.search(r"install_requires =\n((?:    .*\n)+)", control)
    assert required is not None
    for line in required[1].split("\n")[:-1]:
        assert f"python3-{names[line.split()[0]]} " in text.replace("\\", " ").replace("\n", " "), line
    settings = yaml.safe_load((CONTAINER / "ftpsd.yaml").read_text())
    exposed = re.search(r"(?m)^EXPOSE (.*)$", text)
    assert exposed is not None
    assert {str(each["port"]) for each in settings["listen"]} <= set(exposed[1].split())
    assert str(settings["metrics"]["port"]) in exposed[1].split()
    assert re.search(r"(?m)^USER 1001:0$", text)
