"""`ftpsd demo` and `ftpsd container`: make what is missing, and run the daemon in the foreground.

May import what `cli` may import. Read first: `container`.
"""
