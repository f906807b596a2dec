"""OpenSSL: contexts for sessions, what pyOpenSSL has no public name for, errors and alerts.

May import nothing of ftpsd but `protocol` and `config.settings`. Read first: `contexts`.
"""
