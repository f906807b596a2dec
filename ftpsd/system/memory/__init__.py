"""How memory is freed without stopping the sessions: garbage collections, and collections of many strings.

May import what `system` may. Read first: `garbage`.
"""
