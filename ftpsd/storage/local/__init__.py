"""Homes that are directories of this machine. All system calls on users' files are here and in `data.transfer`.

May import what `storage` may import. Read first: `files`, then `jail` and `root`.
"""
