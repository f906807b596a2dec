"""What the processes of the daemon count and measure: of this process, or of a supervisor and its workers together.

May import `protocol`, `config.settings`, `events`, `system`, `limits`, `data` and `accounts`. Read first: `figures`.
"""
