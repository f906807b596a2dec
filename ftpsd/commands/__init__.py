"""What each FTP command does. One row of TABLE for each command that is served.

May import `protocol`. Read first: `transfer`.
"""

from ftpsd.commands import about, channel, files, login, transfer
from ftpsd.protocol.command import table

TABLE = table(login.ROWS, channel.ROWS, transfer.ROWS, files.ROWS, about.ROWS)
