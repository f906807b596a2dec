"""Sessions of botocore, from which clients are made: `new_session`."""

from __future__ import annotations

from functools import cache

import botocore.session
from botocore.parsers import ResponseParserFactory

from ftpsd.system.aws.parsers import StoreParser
from ftpsd.system.aws.times import parse_time


@cache
def _loader() -> object:
    """Return what reads the descriptions of services. That of S3 takes 12 MiB, so all sessions share it."""
    return botocore.session.Session().get_component("data_loader")


class _Parsers(ResponseParserFactory):
    """Makes the parsers of answers."""

    def create_parser(self, protocol_name: str) -> object:
        """Return a parser for a protocol: that of S3 is `rest-xml`."""
        if protocol_name == "rest-xml":
            return StoreParser(timestamp_parser=parse_time)
        return super().create_parser(protocol_name)


def new_session() -> botocore.session.Session:
    """Return a session, whose clients read answers with `StoreParser`, and times with `parse_time`."""
    session = botocore.session.Session()
    session.register_component("data_loader", _loader())
    parsers = _Parsers()
    parsers.set_parser_defaults(timestamp_parser=parse_time)
    session.register_component("response_parser_factory", parsers)
    return session
