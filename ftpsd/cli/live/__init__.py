"""The commands that ask a running daemon or tell it to do something, each by the admin API.

May import `protocol`, and from `config` only what finds the socket: these commands must start quickly. Read first:
`answers`, then `who`.
"""
