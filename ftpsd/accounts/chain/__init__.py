"""The store of all users: the YAML files and the sources, asked in order, and what keeps their trouble apart.

May import what `accounts` may import. Read first: `store`, then `running`.
"""
