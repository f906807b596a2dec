"""The form of what the processes of the daemon send each other over a link (`system/link`).

May import what `system` may. Start with `codec`.
"""
