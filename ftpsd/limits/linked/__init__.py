"""The ledger of a worker process, and what the supervisor serves for it.

May import what `limits` may import. Read first: `ledger`, then `bans`.
"""
