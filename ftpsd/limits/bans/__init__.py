"""Bans of addresses and user names after failed logins, and how they survive a restart.

May import what `limits` may import. Read first: `policy`.
"""
