"""Bans of addresses and user names after failed logins, in memory and in the state file.

May import what `limits` may import. Read first: `policy`.
"""
