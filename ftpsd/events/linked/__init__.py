"""Events and log lines of worker processes, which the supervisor publishes and logs.

May import `protocol`, `config.settings`, `system` and the rest of `events`. Read first: `sender`, then `receiver`.
"""
