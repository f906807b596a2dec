"""`ftpsd doctor`: findings about a machine or a server, each with its real cause, in namespaces or in real files."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.daemon import Daemon, ftpsd
from tests.disks import SmallDisk, must_work, with_mount
from tests.middlebox import middlebox
from tests.namespaces import apart
from tests.pki import Authority, pem
from tests.test_doctor_client import authority_file, found, through
from tests.test_doctor_client import doctor as from_outside
from tests.test_doctor_server import doctor

Make = Callable[..., Daemon]

#: The announced address is a host's own private one, behind a router.
BEHIND_A_ROUTER = """ip link add lan type veth peer name far && ip link set lo up && ip link set lan up && ip link set far up &&
    ip addr add 10.9.0.2/24 dev lan && ip route add default via 10.9.0.1"""


def alone(script: str) -> tuple[str, ...]:
    """Return a command that runs a script in namespaces of its own, and then another command. Skip if it cannot."""
    prefix = (*apart(), "sh", "-c", f'{{ {script}; }} || exit 77; exec "$@"', "sh")
    probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, timeout=20)
    if probe.returncode:
        pytest.skip(f"not possible here: {probe.stderr.strip()}")
    return prefix


def outside(prefix: tuple[str, ...], host: str, *arguments: str) -> dict[str, Any]:
    """The report of `ftpsd doctor --from` with a command before it."""
    words = ["doctor", "--from", host, "--user", "alice", "--password-stdin", "--json", "--tries", "2", *arguments]
    done = subprocess.run([*prefix, *ftpsd(*words)], input="secret\n", capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr and done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


def levels(report: dict[str, Any]) -> dict[str, str]:
    """The level of each finding, by its code."""
    return {each["code"]: each["level"] for each in report["findings"]}


# --- from a client's side --------------------------------------------------------------------------


def test_all_passive_ports_are_taken(make_daemon: Make) -> None:
    """If another program has the whole range, the server's own reply is shown, and no device is blamed."""
    daemon = make_daemon()
    with ExitStack() as taken:
        for port in range(daemon.passive[0], daemon.passive[1] + 1):
            taken.enter_context(socket.create_server(("127.0.0.1", port)))
        seen = found(from_outside(f"127.0.0.1:{daemon.port}", *authority_file(daemon)))
        inside = found(doctor(daemon, "--user", "alice", "--password-stdin"))
    assert list(seen) == ["passive.none"]
    assert "425 All passive ports are in use" in seen["passive.none"]
    assert "passive.none" in inside and "middlebox" not in inside


@pytest.mark.parametrize("command", ["EPSV", "PASV"])
def test_a_server_without_a_command(shared: Daemon, certificate: Path, command: str) -> None:
    """A server that knows only one of the two commands, and says so in FEAT, is no device in between."""
    word = command.encode()

    def replies(line: bytes) -> bytes | None:
        return None if line.strip() == word else line

    def commands(line: bytes) -> bytes:
        return b"XXXX\r\n" if line.startswith(word) else line

    with middlebox(shared.port, commands, replies, certificate) as device:
        seen = levels(through(device, shared))
    assert seen[f"passive.no_{command.lower()}"] == ("note" if command == "EPSV" else "warning")
    assert not {"middlebox", "passive.none"} & set(seen)


def test_one_of_two_addresses(shared: Daemon, tmp_path: Path) -> None:
    """If a name has an address at which nothing listens, that address is named, and the other one is checked."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.2 two.example\n127.0.0.1 two.example\n")
    prefix = with_mount(f"mount --bind {hosts} /etc/hosts")
    report = outside(prefix, f"two.example:{shared.port}", "--insecure")
    (note,) = (each for each in report["findings"] if each["code"] == "control.one_address")
    assert "127.0.0.2" in note["problem"] and "closed" in note["problem"]
    assert any("upload" in each for each in report["passed"]), report


def test_no_version_in_common(make_daemon: Make, tmp_path: Path) -> None:
    """A client whose OpenSSL has TLS 1.2 only, and a server that requires 1.3, agree on nothing: that is said."""
    daemon = make_daemon({"tls": {"minimum_version": "1.3"}})
    policy = tmp_path / "openssl.cnf"
    policy.write_text("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nMaxProtocol = TLSv1.2\n")
    report = outside(("env", f"OPENSSL_CONF={policy}"), f"127.0.0.1:{daemon.port}", *authority_file(daemon))
    assert list(found(report)) == ["tls.no_common_version"]


def test_an_authority_that_is_not_known(make_daemon: Make, tmp_path: Path) -> None:
    """A whole chain whose authority the client does not know is not trusted; with the authority all is well."""
    root = Authority("an authority of our own")
    leaf = Authority("intermediate", root).issue("", x509.IPAddress(ip_address("127.0.0.1")), purpose="server")
    both = str(leaf.write(tmp_path / "server.pem"))
    daemon = make_daemon({"tls": {"certificate": both, "private_key": both}})
    (tmp_path / "root.pem").write_bytes(pem(root.certificate))
    place = f"127.0.0.1:{daemon.port}"
    assert "tls.untrusted" in found(from_outside(place))
    assert found(from_outside(place, "--cafile", str(tmp_path / "root.pem"))) == {}


# --- on the server ---------------------------------------------------------------------------------


def test_a_private_address_behind_a_router(make_daemon: Make) -> None:
    """A machine with a private address and a default route announces that address: clients elsewhere cannot use it."""
    daemon = make_daemon(start=False)
    prefix = alone(BEHIND_A_ROUTER)
    assert "10.9.0.2" in found(doctor(daemon, prefix=prefix))["address.private"]
    daemon.settings["passive"]["address"] = "9.9.9.9"
    daemon.write()
    seen = {each["code"] for each in doctor(daemon, prefix=prefix)["findings"] if each["code"].startswith("address.")}
    assert seen == {"address.elsewhere"}


def test_passive_ports_that_the_kernel_gives_away(make_daemon: Make) -> None:
    """A passive range within `ip_local_port_range` is found in the real sysctl, and not if it is reserved there."""
    daemon = make_daemon(start=False)
    low, high = daemon.passive
    local = f"echo {low - 100} {high + 100} > /proc/sys/net/ipv4/ip_local_port_range"
    assert "ports.local_range" in levels(doctor(daemon, prefix=alone(local)))
    reserved = f"{local} && echo {low}-{high} > /proc/sys/net/ipv4/ip_local_reserved_ports"
    assert "ports.local_range" not in levels(doctor(daemon, prefix=alone(reserved)))


def test_a_file_system_without_inodes(make_daemon: Make) -> None:
    """A real file system that has no inode left is found, though it has space."""
    daemon = make_daemon(start=False)
    home = daemon.home()
    prefix = with_mount(f"mount -t tmpfs -o nr_inodes=8 none {home} && for n in 1 2 3 4 5 6 7; do : > {home}/$n; done")
    seen = found(doctor(daemon, prefix=prefix))
    assert str(home) in seen["disk.inodes"] and "disk.space" not in seen


def test_a_limit_of_open_files(make_daemon: Make) -> None:
    """The real limit of the process is compared with `limits.sessions`."""
    daemon = make_daemon({"limits": {"sessions": 500}}, start=False)
    few = ("sh", "-c", 'ulimit -n 300 && exec "$@"', "sh")
    assert "300" in found(doctor(daemon, prefix=few))["limits.descriptors"]
    many = ("sh", "-c", 'ulimit -n 4096 && exec "$@"', "sh")
    assert "limits.descriptors" not in found(doctor(daemon, prefix=many))


def test_a_clock_that_is_behind(make_daemon: Make) -> None:
    """A configuration file from the future shows that the clock is behind."""
    daemon = make_daemon(start=False)
    later = time.time() + 86400
    os.utime(daemon.config, (later, later))
    assert "clock.wrong" in found(doctor(daemon))


def test_a_home_that_another_user_owns(make_daemon: Make) -> None:
    """A home that the daemon's user may not write into, or not reach, is found with the directory that is the cause."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can be another user, with setpriv")
    daemon = make_daemon(start=False)
    # The user may read the configuration wherever the test has it. The rights of homes are judged by owner and mode.
    reads = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *reads)
    must_work(prefix)
    home = daemon.home()
    above = [each for each in home.parents if each != Path("/")]
    modes = {each: each.stat().st_mode for each in above}
    try:
        for each in above:
            each.chmod(modes[each] | 0o001)
        seen = found(doctor(daemon, prefix=prefix))["home.permission"]
        assert "may not read and write" in seen and str(home.parent) in seen
        home.parent.chmod(0o700)
        assert f"may not enter {home.parent}" in found(doctor(daemon, prefix=prefix))["home.permission"]
    finally:
        for each in above:
            each.chmod(modes[each])


def test_a_revocation_list_that_has_expired(make_daemon: Make, tmp_path: Path) -> None:
    """A revocation list for certificates of clients that has expired is found in its file."""
    clients, files = Authority("clients"), {"ca": tmp_path / "clients.pem", "crl": tmp_path / "clients.crl"}
    files["ca"].write_bytes(pem(clients.certificate))
    daemon = make_daemon(
        {"tls": {"client_certificates": {name: str(file) for name, file in files.items()}}}, start=False
    )
    for valid, expected in (((-9, 9), False), ((-9, -2), True)):
        files["crl"].write_bytes(clients.crl(valid))
        assert ("certificate.clients" in found(doctor(daemon))) == expected


def test_a_full_home(make_daemon: Make, tmp_path: Path) -> None:
    """An upload for which the disk has no room is told as such, with the reply."""
    daemon = make_daemon(start=False)
    disk = SmallDisk(daemon.home(), 64 << 10)
    daemon.start(disk.prefix)
    assert "452" in found(doctor(daemon, "--user", "alice", "--password-stdin"))["transfer.no_space"]
