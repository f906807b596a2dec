"""`ftpsd sql`, and the tables of ftpsd in databases for other commands.

May import what `cli` may import. Read first: `tables`.
"""
