"""The daemon as a whole: load the configuration again on SIGHUP, stop gracefully on SIGTERM.

May import what `control` may import. Read first: `reload`.
"""
