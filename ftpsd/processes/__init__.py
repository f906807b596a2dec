"""The processes of the daemon, and what each of them is made of: one process, or a supervisor with worker processes.

May import everything but `service`, `admin`, `metrics`, `deliver` and `cli`. Read first: `host`, then `supervisor`.
"""
