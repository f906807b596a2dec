"""A client, a router and a server in network namespaces; the results of its transfers, as one line of JSON.

    client 9.9.9.2, 9.9.9.3 --- 9.9.9.1 router 10.77.0.1 --- 10.77.0.2 server

The router forwards what arrives at its outer address to the server (DNAT). It hides the client's address 9.9.9.2 behind
its own inner address (masquerade), while the server sees 9.9.9.3 as it is. The client has no route to 10.77.0.0/24. The
outer addresses are not those reserved for documentation, since Python, and so the daemon's warning, counts these as
private.

`test_nat.py` runs this module in namespaces of its own. It must not be run outside of them.
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
    """Run a command that must succeed."""
    done = subprocess.run(line, input=text, capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}: {done.stderr}")


def within(namespace: str, *line: str) -> tuple[str, ...]:
    """Return the command line that runs another one in a namespace."""
    return ("ip", "netns", "exec", namespace, *line)


def ip(line: str) -> None:
    """Run `ip` with the arguments in a text."""
    run("ip", *line.split())


def build(ports: str) -> None:
    """Make the three hosts and the two links."""
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
    """Download through the router, and then upload the same from the client."""
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
    """Return the SHA-256 of a file, or nothing if there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def direct(daemon: Daemon) -> int:
    """Return curl's exit status for the server's own address, to which the client has no route."""
    url = f"ftp://{INNER}:{daemon.port}/"
    line = within("client", "curl", "-sS", "--connect-timeout", "2", url)
    return subprocess.run(line, capture_output=True, timeout=10).returncode


def main(directory: Path, certificate: Path) -> dict[str, Any]:
    """Run two daemons on the server, one of which knows its outer address, and all kinds of clients at the same time."""
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
