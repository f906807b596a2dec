"""Find TLS records in the bytes that have arrived. Pure: no connection, no OpenSSL call."""

from __future__ import annotations

from ftpsd.system.tls import errors

#: RFC 5246 section 6.2.3. A longer record is passed on as far as it has arrived, for OpenSSL to refuse.
_MAX_LENGTH = 2**14 + 2048


def next_record(data: bytes) -> bytes:
    """Return the first record of `data` (RFC 8446 section 5.1); empty until all of it has arrived.

    Raises NotTls if `data` does not begin like a record. OpenSSL gets one record at a time, so that plain text after
    the last record stays plain text (CCC, REIN), and no call is needed to learn that no record is left.
    """
    if data[:2] not in errors.RECORD_STARTS:
        raise errors.NotTls
    if len(data) < errors.HEADER:
        return b""
    end = errors.HEADER + int.from_bytes(data[3:5], "big")
    if len(data) < end <= errors.HEADER + _MAX_LENGTH:
        return b""
    return data[:end]
