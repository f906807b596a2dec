"""Jobs of worker threads: how they are given to the pool, and what they wait for: a free thread, or another job's lock.

May import what `system` may. Read first: `job_queue`, then `fair_queue` and `job_lock`. The pool is in
`../worker_threads.py`.
"""
