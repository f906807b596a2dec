"""TABLE: every command that is served, one row each."""

from ftpsd.command import table
from ftpsd.commands import about, channel, files, login, transfer

TABLE = table(login.ROWS, channel.ROWS, transfer.ROWS, files.ROWS, about.ROWS)
