"""The table in memory that the processes of the daemon share: counts and rate limits that are exact at every moment.

May import what `limits` may import. Read first: `table`, then `slot`.
"""
