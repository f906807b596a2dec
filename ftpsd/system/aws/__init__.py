"""Amazon's library for S3: whether it can be imported, which files it reads, and clients of it.

May import what `system` may. Read first: `boto`.
"""
