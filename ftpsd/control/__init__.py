"""The control connection: listeners, TLS, lines, login, commands and replies.

May import every package except `storage`, `service` and `cli`. Read first: `ftp_protocol`.
"""
