"""Amazon's library for S3: whether it can be imported, and which files it reads.

May import what `system` may. Read first: `boto`.
"""
