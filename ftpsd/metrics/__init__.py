"""Metrics for Prometheus, and the health checks /live and /ready, over a listener of their own without admin rights.

May import everything but `service` and `cli`. `prometheus_client` is imported by `collector` only, and that only when
the section `metrics` is there. Read first: `service`, then `counters`.
"""
