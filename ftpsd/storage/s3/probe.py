"""Find out whether a store can be used, for the command line: `probe`."""

from __future__ import annotations

from ftpsd.config.sections.storage import ConfiguredStore
from ftpsd.protocol.replies import Refusal
from ftpsd.storage.s3.calls.client import Calls, Objects
from ftpsd.storage.s3.calls.errors import StoreFailed
from ftpsd.storage.s3.calls.multiparts import Multiparts
from ftpsd.system.aws.client import make_client

#: The name below the prefix of a store for which an upload is begun, and aborted.
_NAME = ".ftpsd-check"


def probe(configured: ConfiguredStore) -> str:
    """List something, then begin an upload and abort it: no object is made. Blocks.

    Return why nothing can be uploaded; empty if it can. Raises StoreFailed, or what boto3 raises for wrong settings.
    """
    calls = Calls(make_client(configured, 2, attempts=1), configured.settings.bucket, lambda error: None)
    objects, prefix = Objects(calls), configured.settings.key_prefix
    objects.page(prefix, flat=True, most=1)
    uploads = Multiparts(calls, objects)
    try:
        uploads.abort(prefix + _NAME, uploads.begin(prefix + _NAME))
    except StoreFailed as error:
        return error.why
    except Refusal as error:
        return error.reply.text
    return ""
