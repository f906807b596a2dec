"""Sessions of botocore, from which clients are made: `new_session`."""

from __future__ import annotations

from functools import cache

import botocore.session

from ftpsd.system.aws.times import parse_time


@cache
def _loader() -> object:
    """Return what reads the descriptions of services. That of S3 takes 12 MiB, so all sessions share it."""
    return botocore.session.Session().get_component("data_loader")


def new_session() -> botocore.session.Session:
    """Return a session, whose clients read times with `parse_time`."""
    session = botocore.session.Session()
    session.register_component("data_loader", _loader())
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_time)
    return session
