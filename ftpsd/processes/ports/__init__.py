"""Shared passive ports of a daemon with worker processes: its supervisor accepts, and its workers have the sessions.

May import what `processes` may import. Read first: `remote`.
"""
