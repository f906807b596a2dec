"""The events of the daemon, the hub that publishes them, and its first listener: the log.

May import `protocol`, `config.settings` and `system`. Read first: `log`.
"""
