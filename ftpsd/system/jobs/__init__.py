"""What jobs wait for before a worker thread runs them: a free thread, or a lock that another job has.

May import what `system` may. Read first: `fair_queue`, then `job_lock`.
"""
