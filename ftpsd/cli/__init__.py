"""The command `ftpsd`, one module for each group of subcommands.

May import every package that a subcommand needs. Read first: `main`.
"""
