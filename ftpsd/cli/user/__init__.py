"""`ftpsd user`: add, change, remove and show users, each with a file of its own in `users.d`.

May import what `cli` may import. Read first: `command`, then `change`.
"""
