"""Passive ports, and the data connections that arrive there.

May import what `data` may import. Read first: `connection`.
"""
