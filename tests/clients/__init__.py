"""Real clients against the daemon. Each is driven by a small program in `drivers`, which has one session to carry out."""
