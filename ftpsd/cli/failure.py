"""The failures that end a command with a sentence and an exit status."""

from __future__ import annotations


class CommandFailed(Exception):
    """The command has failed, or its answer is negative. The text is a sentence for people."""

    status = 1


class WrongUsage(CommandFailed):
    """The command line is wrong."""

    status = 2


class Unreachable(CommandFailed):
    """The daemon, or its state, is out of reach. The text says why, and what helps."""

    status = 3
