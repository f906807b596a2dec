"""A small HTTP server on twisted.web, bounded in every way, for what the daemon shows and does over HTTP.

May import `system`. Read first: `server`.
"""
