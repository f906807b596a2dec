"""systemd: notifications, the sockets that it passes, and the descriptors that it keeps.

May import what `system` may import. Read first: `notifier`.
"""
