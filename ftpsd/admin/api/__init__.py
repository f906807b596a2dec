"""The resources of the admin API, and what they have in common: arguments, answers, errors, the OpenAPI document.

May import what `admin` may import. Read first: `routes`, then `sessions`.
"""
