"""The calls of S3, the threads that make them, and the memory for what they move.

Read first: `client`. May import what `storage` may, and boto3.
"""
