"""OpenStack Swift with s3api, all servers on loopback: `/usr/bin/python3 swift_server.py DIRECTORY PORT SECRET PART` runs them until
it is killed. Uses Debian's packages swift-proxy, swift-account, swift-container and swift-object.

PORT is that of S3, PART the fewest bytes of a part, the next three are those of the servers behind it. This file imports nothing of ftpsd.
"""

from __future__ import annotations

import ctypes
import getpass
import os
import signal
import sys
from pathlib import Path

#: A server ends with the first one, also if a test is killed (prctl(2)).
_PR_SET_PDEATHSIG = 1

_SWIFT = """
[swift-hash]
swift_hash_path_prefix = ftpsd
swift_hash_path_suffix = tests
[storage-policy:0]
name = one
default = yes
"""

_DEFAULT = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {directory}
devices = {directory}/devices
mount_check = false
workers = 0
user = {user}
log_level = ERROR
log_address = {directory}/log
disable_fallocate = true
"""

_STORAGE = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

_PROXY = """
[pipeline:main]
pipeline = catch_errors cache listing_formats s3api tempauth copy slo proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
error_suppression_limit = 1
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
max_upload_part_num = 10000
min_segment_size = {least_part}
check_bucket_owner = false
s3_acl = false
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
max_manifest_segments = 10000
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""


def main(directory: Path, port: int, secret: str, least_part: str) -> None:
    """Write the configuration and the rings, and run all servers."""
    from swift.common import utils

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    (directory / "swift.conf").write_text(_SWIFT)
    utils.SWIFT_CONF_FILE = str(directory / "swift.conf")
    (directory / "devices" / "d1").mkdir(parents=True)
    names = {"directory": directory, "user": getpass.getuser(), "secret": secret, "least_part": least_part}
    for number, kind in enumerate(("proxy", "account", "container", "object")):
        text = _DEFAULT + (_PROXY if kind == "proxy" else _STORAGE)
        (directory / f"{kind}.conf").write_text(text.format(**names, kind=kind, port=port + number))
        if kind != "proxy":
            _write_ring(directory / f"{kind}.ring.gz", port + number)
    for kind in ("account", "container", "object"):
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _run(directory, kind)
    _run(directory, "proxy")


def _write_ring(path: Path, port: int) -> None:
    from swift.common.ring import RingBuilder

    builder = RingBuilder(4, 1, 0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "d1", "weight": 1.0})
    builder.rebalance()
    builder.get_ring().save(str(path))


def _run(directory: Path, kind: str) -> None:
    from swift.common.wsgi import run_wsgi

    os._exit(run_wsgi(str(directory / f"{kind}.conf"), f"{kind}-server") or 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
