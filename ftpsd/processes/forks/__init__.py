"""The spawner: a process that forks workers when the supervisor asks for one.

May import what `processes` may import. Read first: `spawner`.
"""
