"""The PROXY protocol, by which a load balancer tells whose connection it passes on.

May import `protocol`. Read first: `header`.
"""
