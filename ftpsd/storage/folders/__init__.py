"""Folders: trees from elsewhere that are mounted in the tree of a user. The home is the mount at the root.

May import what `storage` may import. Read first: `tree`, then `files`.
"""
