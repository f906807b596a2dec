"""What can be wrong with a server: findings, each with its cure. `ftpsd doctor` and the page of the daemon report them.

May import protocol, config.settings, system, accounts and config. Read first: `findings`, then `files`.
"""
