"""Upload a file with the transfer manager of boto3, as `aws s3 cp` does it: `python -m benchmarks.s3.manager`.

The arguments are the endpoint, the bucket, the key, the file, the bytes of a part and the number of threads. It prints
the seconds, and the CPU seconds of the whole process, from the call to its return. Its start is not counted.
"""

from __future__ import annotations

import importlib
import sys
import time

from benchmarks.s3.stores import client_of


def main(endpoint: str, bucket: str, key: str, file: str, part_size: int, threads: int) -> None:
    """Upload a small object, so that all modules are loaded and a connection is open, and then the file."""
    client, transfer = client_of(endpoint), importlib.import_module("boto3.s3.transfer")
    config = transfer.TransferConfig(
        multipart_threshold=part_size, multipart_chunksize=part_size, max_concurrency=threads
    )
    client.upload_file(__file__, bucket, key, Config=config)
    start, before = time.monotonic(), time.process_time()
    client.upload_file(file, bucket, key, Config=config)
    print(time.monotonic() - start, time.process_time() - before)


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]), int(sys.argv[6]))
