"""The FTP protocol without input or output: lines, arguments, replies, and the state of one session.

Everything here is pure: it reads no socket, no file and no clock, so it could run on another event loop.

May import the standard library only. Read first: `session`, then `command`.
"""
