"""The ledger, which admits sessions, logins and transfers, the rate limits, the bans, and the registry of sessions.

May import `protocol`, `config.settings`, `events` and `system`. Read first: `ledger`, then `session_registry`.
"""
