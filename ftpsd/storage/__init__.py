"""Users' files, and the quotas that wrap them.

May import `protocol`, `config.settings`, `events`, `system`, `limits` and `data`. Read first: `local.root`.
"""
