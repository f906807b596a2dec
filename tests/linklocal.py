"""A client and a server with link-local IPv6 addresses; what the client saw, as one line of JSON.

`test_addresses.py` runs this module in a network namespace of its own: it must not be run outside.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

from tests.daemon import Daemon
from tests.ftpclient import secured
from tests.nat import ip

ADDRESS = "fe80::1"


def main(directory: Path, certificate: Path) -> dict[str, Any]:
    """Upload and download with a client that has the server's own address on that link."""
    ip("link set lo up")
    ip("link add one type veth peer name two")
    ip(f"addr add {ADDRESS}/64 dev one nodad")
    for device in ("one", "two"):
        ip(f"link set {device} up")
    daemon = Daemon(directory, certificate, address="::")
    daemon.host = f"{ADDRESS}%one"
    daemon.start()
    try:
        with secured(daemon) as client:
            said = {"EPSV": client.upload("STOR passive", b"passive"), "down": client.download("RETR passive").decode()}
            with socket.create_server(("::", 0), family=socket.AF_INET6) as listener:
                listener.settimeout(5)
                for zone in ("", "%eth7"):
                    said[f"EPRT{zone}"] = client.command(f"EPRT |2|{ADDRESS}{zone}|{listener.getsockname()[1]}|")
                client.expect(150, "RETR passive")
                with client.secure_data(listener.accept()[0]) as data:
                    said["active"] = data.recv(100).decode()
                    data.unwrap()
                client.reply()
                said["EPRT to another"] = client.command("EPRT |2|fe80::2|5000|")
    finally:
        daemon.stop()
    return said | {"log": daemon.log}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
