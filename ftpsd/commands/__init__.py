"""What each FTP command does. One row of TABLE for each command that is served.

May import `protocol`. Read first: `transfer`.
"""

from ftpsd.commands import connection, files, information, login, site, transfer
from ftpsd.protocol.command import table

TABLE = table(login.ROWS, connection.ROWS, transfer.ROWS, files.ROWS, information.ROWS, site.ROWS)
