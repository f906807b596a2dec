"""The two YAML files and the certificate, read into settings that are validated and frozen.

May import `protocol`, `events`, `system`, `limits` and `accounts`; but `settings` may import `protocol` only, since
every component is given its own section of it. Read first: `settings`, then `load`.
"""
