"""Load and endurance: thousands of sessions, a hundred thousand of them one after another, and clients that mean harm.

`python -m benchmarks.soak --help`; what it found stands in docs/reliability.md, its short form is tests/test_soak.py.
"""
