"""The data connection: passive ports, dialling, TLS, and the transfer of bytes in worker threads.

May import `protocol`, `config.settings`, `events`, `system` and `limits`. Read first: `channel`, then `transfer`.
"""
