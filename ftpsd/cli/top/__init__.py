"""`ftpsd top`: the sessions, live. `view` is what the keys change, `frame` makes lines of it, `screens` show them.

`view` and `frame` are pure. May import `cli.live` and `protocol`; rich, where it is installed, in `screens` only.
Read first: `command`, then `view`.
"""
