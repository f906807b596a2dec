"""Counts and rates that sessions share, and the bans after failed logins.

May import `protocol`, `config.settings`, `events` and `system`. Read first: `session_registry`, then `user_limits`.
"""
