"""The files of users: what a home is, and quotas, which wrap any storage.

May import `protocol`, `config.settings`, `events`, `system`, `limits` and `data`. Read first: `backend`.
"""
