"""Users in SQL: PostgreSQL with psycopg, and SQLite with the standard library.

May import what `accounts` may import. Read first: `source`, then `schema`.
"""
