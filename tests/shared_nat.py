"""Clients behind one address, a router that forwards two ports only, and a daemon with a shared passive port.

See `nat.py`, whose namespaces these are. `test_shared_port_clients.py` runs this module in namespaces of its own. It
must not be run outside of them.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.daemon import Daemon
from tests.nat import HIDDEN, INNER, OUTER, build, within

#: How many clients transfer at the same time, and how many files each of them fetches and stores.
CLIENTS, FILES = 8, 5

#: With TLS 1.3, curl 7.88 cannot resume after an upload (docs/clients.md): then each upload is a call of its own.
VERSIONS = (("--tls-max", "1.2"), ("--tlsv1.3",))


def content(client: int, number: int) -> bytes:
    """Return what a client's file has."""
    return hashlib.sha256(b"%d %d" % (client, number)).digest() * (1000 + 700 * client)


def transfers(daemon: Daemon, client: int) -> dict[str, Any]:
    """Let curl fetch some files on one session, and store each of them again."""
    directory = daemon.directory / f"client{client}"
    directory.mkdir()
    way = ("--disable-epsv",) if client % 4 >= 2 else ()
    line = ["curl", "-k", "-sS", "--ssl-reqd", "-u", "alice:secret", "--interface", HIDDEN, "--max-time", "60"]
    line += [*VERSIONS[client % 2], *way]
    url = f"ftp://{OUTER}:{daemon.port}/"
    names = [f"file-{client}-{number}" for number in range(FILES)]
    fetch = [part for name in names for part in ("-o", str(directory / name), url + name)]
    store = [["-T", str(directory / name), f"{url}back-{name}"] for name in names]
    said = ""
    for arguments in (fetch, *store):
        done = subprocess.run(within("client", *line, *arguments), capture_output=True, timeout=90, text=True)
        said += done.stderr
    right = [
        (daemon.home() / f"back-{name}").exists()
        and (daemon.home() / f"back-{name}").read_bytes() == (directory / name).read_bytes() == content(client, number)
        for number, name in enumerate(names)
    ]
    return {"said": said, "right": sum(right)}


def main(directory: Path, certificate: Path) -> dict[str, Any]:
    """Run the daemon and all clients."""
    daemon = Daemon(directory, certificate, address=INNER)
    daemon.settings["passive"] = {"ports": daemon.passive[0], "shared": True, "address": OUTER}
    daemon.write()
    for client in range(CLIENTS):
        for number in range(FILES):
            (daemon.home() / f"file-{client}-{number}").write_bytes(content(client, number))
    build(f"{{ {daemon.port}, {daemon.passive[0]} }}")
    daemon.start(within("server"))
    with ThreadPoolExecutor(CLIENTS) as threads:
        found = list(threads.map(lambda client: transfers(daemon, client), range(CLIENTS)))
    daemon.stop()
    return {"transfers": found, "log": daemon.log}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
