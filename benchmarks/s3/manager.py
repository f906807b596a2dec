"""Upload with the transfer manager of boto3, as `aws s3 cp` does it: `python -m benchmarks.s3.manager`.

The arguments are the endpoint, the bucket, the key, the file, `file` or `connection`, the bytes of a part and the
number of threads. With `connection`, another process sends the file through one, as a client of a server does. It
prints the seconds, and the CPU seconds of this process, from the call to its return. Its start is not counted.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import time
from typing import Any

from benchmarks.s3.stores import client_of

#: Bytes in one read of the connection, at least: as many as ftpsd reads.
_PIECE = 512 * 1024


def main(endpoint: str, bucket: str, key: str, file: str, source: str, part_size: int, threads: int) -> None:
    """Upload a small object, so that all modules are loaded and a connection is open, and then the file."""
    received = _connection(file) if source == "connection" else None
    client, transfer = client_of(endpoint), importlib.import_module("boto3.s3.transfer")
    config = transfer.TransferConfig(
        multipart_threshold=part_size, multipart_chunksize=part_size, max_concurrency=threads
    )
    client.upload_file(__file__, bucket, key, Config=config)
    start, before = time.monotonic(), time.process_time()
    if received is None:
        client.upload_file(file, bucket, key, Config=config)
    else:
        client.upload_fileobj(received, bucket, key, Config=config)
    print(time.monotonic() - start, time.process_time() - before)


def _connection(file: str) -> Any:
    """Return the end of a connection through which another process sends a file."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if not os.fork():
            with socket.create_connection(listener.getsockname()) as sender, open(file, "rb") as opened:
                sender.sendfile(opened)
            os._exit(0)
        return listener.accept()[0].makefile("rb", buffering=_PIECE)


if __name__ == "__main__":
    main(*sys.argv[1:6], int(sys.argv[6]), int(sys.argv[7]))
