"""The administration of a running daemon: what its state is, and the API that shows and changes it.

May import everything but `service` and `cli`. Read first: `status` and `parts`, then `administration`.
"""
