"""The counts of homes and groups that several worker processes share: `SharedHomeCounts`, a `HomeLedger`.

May import what `limits` may import. Read first: `../home_counts`, then `layout` and `home`.
"""
