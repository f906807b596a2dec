"""How names are converted between the bytes of a session and text: UTF-8, or an older encoding of the user's device.

May import the standard library only. Read first: `names`.
"""
