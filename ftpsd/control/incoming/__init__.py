"""New control connections: listeners, the decision about each connection, and the start of its session.

May import what `control` may import. Read first: `factory`.
"""
