"""A home that is a directory of this machine. Every system call on users' files is made here or by a transfer.

May import what `storage` may import. Read first: `jail`, then `root`.
"""
