"""The store of all users: the YAML files and the sources, asked in order. A failed source delays no user of another.

May import what `accounts` may import. Read first: `store`, then `running`.
"""
