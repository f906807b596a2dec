"""What happens in the daemon, and who is told of it: today the log.

May import `protocol`, `config.settings` and `system`. Read first: `log`.
"""
