"""Uploads to a store, from their first byte to the object.

Read first: `upload`. May import what `storage` may, and boto3.
"""
