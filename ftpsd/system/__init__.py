"""What the daemon needs of Linux, systemd, SQLite, OpenSSL and threads.

May import `protocol` and `config.settings`. Read first: `worker_threads`.
"""
