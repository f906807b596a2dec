"""The users of `users.yaml` and of the files in `users.d`.

May import what `config` may import. Read first: `loader`.
"""
