"""Real load balancers in front of daemons: HAProxy and nginx, each with a configuration of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon import PATIENCE, Daemon
from tests.processes import wait_for_port

#: The address at which clients reach the balancers. The daemons listen on 127.0.0.1, with the same ports.
FRONT = "127.0.0.2"


@contextmanager
def haproxy(directory: Path, daemons: Sequence[Daemon], send: str) -> Iterator[None]:
    """Run HAProxy in front of daemons: the control port of the first one, and the passive range of each."""
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    first = daemons[0]
    servers = "\n".join(
        f"  server s{number} 127.0.0.1:{daemon.port} {send} check inter 100ms" for number, daemon in enumerate(daemons)
    )
    ranges = "\n".join(
        f"listen passive{number}\n  bind {FRONT}:{daemon.passive[0]}-{daemon.passive[1]}\n"
        f"  server s{number} 127.0.0.1 {send}"
        for number, daemon in enumerate(daemons)
    )
    path = directory / "haproxy.cfg"
    path.write_text(
        "global\n  maxconn 500\n"
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
        f"listen control\n  bind {FRONT}:{first.port}\n  balance roundrobin\n{servers}\n{ranges}\n"
    )
    with _running(["haproxy", "-db", "-f", str(path)], directory, first.port):
        yield


@contextmanager
def nginx(directory: Path, daemon: Daemon) -> Iterator[None]:
    """Run nginx in front of a daemon, with its stream module."""
    if shutil.which("nginx") is None or not Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists():
        pytest.skip("nginx with its stream module is not installed")
    low, high = daemon.passive
    path = directory / "nginx.conf"
    path.write_text(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n"
        f"daemon off;\nuser root;\npid {directory}/pid;\nerror_log stderr;\n"
        "events { worker_connections 1000; }\n"
        "stream {\n  proxy_protocol on;\n  proxy_timeout 1h;\n"
        f"  server {{ listen {FRONT}:{daemon.port}; proxy_pass 127.0.0.1:{daemon.port}; }}\n"
        f"  server {{ listen {FRONT}:{low}-{high}; proxy_pass 127.0.0.1:$server_port; }}\n"
        "}\n"
    )
    with _running(["nginx", "-c", str(path), "-p", str(directory)], directory, daemon.port):
        yield


@contextmanager
def _running(command: list[str], directory: Path, port: int) -> Iterator[None]:
    with (directory / "balancer.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for_port(port, process, directory / "balancer.log", FRONT, source="127.0.0.9")
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)
