"""What happens in the daemon, and who is told of it: today the log.

May import `protocol` and `config.settings`. Read first: `log`.
"""
