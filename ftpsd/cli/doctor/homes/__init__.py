"""Homes that the running daemon cannot open, and users of sources who cannot log in because of theirs.

May import what `cli` may import. Read first: `of_sources`.
"""
