"""What is converted on the way: names, between UTF-8 or an older encoding and text, and the line ends of text files.

May import the standard library only. Read first: `names`.
"""
