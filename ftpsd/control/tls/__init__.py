"""The parts of `control/tls_layer`: TLS records, the TLS engine, the output to the socket, and the watch for resets.

May import what `control` may import. Read first: `engine`.
"""
