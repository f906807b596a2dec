"""The sources of users other than YAML files. Each is a class with the methods of `source.Source`.

May import what `accounts` may import. Read first: `source`.
"""
