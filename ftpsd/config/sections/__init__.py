"""Sections of `ftpsd.yaml` that are longer than a few keys, as immutable classes. `config.settings` has the others.

May import the protocol only. Start with `events`.
"""
