"""The stores of the section `storage`: their faults, and their secrets. May import what `ftpsd.config` may.

Read first: `load`.
"""
