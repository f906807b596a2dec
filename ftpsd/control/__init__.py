"""The control connection: from the listening socket to the reply, TLS and login included.

May import every package except `storage`, `service` and `cli`. Read first: `ftp_protocol`.
"""
