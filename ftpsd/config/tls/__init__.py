"""Certificates, keys and revocation lists that `ftpsd.yaml` names.

May import what `config` may. Read first: `certificates`.
"""
