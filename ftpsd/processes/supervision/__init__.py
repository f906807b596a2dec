"""What the supervisor knows of its workers: how it starts, watches and replaces them, and lets them load.

May import what `processes` may import. Read first: `generation`.
"""
