"""A client, a router and a server in network namespaces; what happens there, as one line of JSON.

    client 9.9.9.2, 9.9.9.3 --- 9.9.9.1 router 10.77.0.1 --- 10.77.0.2 server

The router sends what comes for its outer address on to the server (DNAT). The client's address 9.9.9.2
it hides behind its own inner one (masquerade), 9.9.9.3 the server sees as it is. The client has no
route to 10.77.0.0/24. The outer addresses are none of those for documentation, since to Python (and
so to the daemon's warning) these are private.

`test_nat.py` runs this module in namespaces of its own, which end with it: it must not be run outside.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.daemon import Daemon

OUTER = "9.9.9.1"
INNER = "10.77.0.2"
HIDDEN = "9.9.9.2"
SEEN = "9.9.9.3"

CONTENT = random.Random(4).randbytes(2_000_003)
DIGEST = hashlib.sha256(CONTENT).hexdigest()

_RULES = """
table ip nat {
    chain arriving {
        type nat hook prerouting priority dstnat;
        iifname "outer" tcp dport %s dnat to %s
    }
    chain leaving {
        type nat hook postrouting priority srcnat;
        oifname "inner" ip saddr %s masquerade
    }
}
"""


def run(*line: str, text: str | None = None) -> None:
    """A command that must succeed."""
    done = subprocess.run(line, input=text, capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}: {done.stderr}")


def within(namespace: str, *line: str) -> tuple[str, ...]:
    """The command line that runs another one in a namespace."""
    return ("ip", "netns", "exec", namespace, *line)


def ip(line: str) -> None:
    """`ip`, with arguments in one text."""
    run("ip", *line.split())


def build(ports: str) -> None:
    """The three hosts and the two wires."""
    run("mount", "-t", "tmpfs", "none", "/run")  # the names of namespaces live there; ours are not the host's
    os.makedirs("/run/netns")
    for name in ("client", "router", "server"):
        ip(f"netns add {name}")
        ip(f"-n {name} link set lo up")
    ip("link add wan netns client type veth peer name outer netns router")
    ip("link add lan netns server type veth peer name inner netns router")
    for host, device, address in (
        ("client", "wan", f"{HIDDEN}/24"),
        ("client", "wan", f"{SEEN}/24"),
        ("router", "outer", f"{OUTER}/24"),
        ("router", "inner", "10.77.0.1/24"),
        ("server", "lan", f"{INNER}/24"),
    ):
        ip(f"-n {host} addr add {address} dev {device}")
        ip(f"-n {host} link set {device} up")
    ip("-n server route add default via 10.77.0.1")
    run(*within("router", "tee", "/proc/sys/net/ipv4/ip_forward"), text="1")
    run(*within("router", "nft", "-f", "-"), text=_RULES % (ports, INNER, HIDDEN))


WAYS = {
    "PASV": ("--disable-epsv", "--no-ftp-skip-pasv-ip"),
    "EPSV": (),
    "careful PASV": ("--disable-epsv", "--ftp-skip-pasv-ip"),
}


def curl(daemon: Daemon, client: str, way: str) -> dict[str, Any]:
    """A download, and if that passes an upload of the same, from the client's side through the router."""
    name = f"{client} {way}"
    target = daemon.directory / name
    back = daemon.home() / name
    line = ["curl", "-v", "-k", "-sS", "--ssl-reqd", "-u", "alice:secret", "--interface", client, *WAYS[way]]
    line += ["--connect-timeout", "5", "--max-time", "15"]
    url = f"ftp://{OUTER}:{daemon.port}/"
    result = {"code": 0, "said": "", "down": "", "up": ""}
    for arguments in ([*line, "-o", target, url + "file.bin"], [*line, "-T", target, url]):
        done = subprocess.run(within("client", *map(str, arguments)), capture_output=True, timeout=20)
        result["said"] += done.stderr.decode(errors="replace")
        result["code"] = result["code"] or done.returncode
        if result["code"]:
            break
    result["down"], result["up"] = digest(target), digest(back)
    return result


def digest(path: Path) -> str:
    """SHA-256 of a file; empty for none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def direct(daemon: Daemon) -> int:
    """curl's exit code for the server's own address, which the client has no way to."""
    url = f"ftp://{INNER}:{daemon.port}/"
    line = within("client", "curl", "-sS", "--connect-timeout", "2", url)
    return subprocess.run(line, capture_output=True, timeout=10).returncode


def main(directory: Path, certificate: Path) -> dict[str, Any]:
    """Two daemons on the server, one of which is told its outer address; clients of all kinds, at once."""
    daemons: dict[str, Daemon] = {}
    for name, address in (("told", OUTER), ("untold", None)):
        below = directory / name
        below.mkdir()
        daemons[name] = Daemon(below, certificate, {"passive": {"address": address}}, address=INNER)
        (daemons[name].home() / "file.bin").write_bytes(CONTENT)
    build(f"{daemons['told'].port}-{daemons['untold'].passive[1]}")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda daemon: daemon.start(within("server")), daemons.values()))
        jobs = {
            f"{name} {client} {way}": threads.submit(curl, daemon, client, way)
            for name, daemon in daemons.items()
            for client in (HIDDEN, SEEN)
            for way in WAYS
        }
        runs: dict[str, Any] = {name: job.result() for name, job in jobs.items()}
    for name, daemon in daemons.items():
        runs[f"{name} direct"] = direct(daemon)
        daemon.stop()
        runs[f"{name} log"] = daemon.log
    return runs


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
