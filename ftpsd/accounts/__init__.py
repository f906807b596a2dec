"""Users: how they are found, how passwords are verified, and what a login opens.

May import `protocol`, `config.settings`, `events`, `system`, `limits` and `storage`. Read first: `realm`.
"""
