"""Users in a directory: OpenLDAP, Active Directory, FreeIPA and other servers of LDAP.

May import what `accounts` may import, and python-ldap. Read first: `source`.
"""
