"""Homes and folders in S3-compatible object stores.

Read first: `store`, which has what all sessions share, then `uploads` and `reader`. May import what `storage` may, and
boto3, so it is imported only if a store is configured.
"""
