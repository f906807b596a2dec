"""One-time passwords: the codes, and which of them were used.

May import what `accounts` may import. Read first: `totp`.
"""
