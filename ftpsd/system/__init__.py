"""What the daemon needs of Linux, systemd, SQLite, OpenSSL and threads.

May import `protocol`, `config.settings` and `events`. Read first: `worker_threads`.
"""
