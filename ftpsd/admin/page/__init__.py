"""The page for administrators: one static page, its login, and the live data that it shows, over HTTP.

May import what `admin` may. Read first: `server`.
"""
