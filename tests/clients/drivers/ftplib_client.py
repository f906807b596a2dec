"""Python's ftplib with the subclass of docs/clients.md, or as it is: MODE HOST PORT USER DIRECTORY [plain]."""

import ftplib
import os
import ssl
import sys


class ResumingFTP_TLS(ftplib.FTP_TLS):
    """Data connections resume the control connection's TLS session."""

    def ntransfercmd(self, cmd, rest=None):
        """As in ftplib, with the session."""
        connection, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        if self._prot_p:
            session = self.sock.session
            connection = self.context.wrap_socket(connection, server_hostname=self.host, session=session)
        return connection, size


_, mode, host, port, user, directory, *plain = sys.argv
context = ssl._create_unverified_context()
if os.environ.get("TLS") == "1.2":
    context.maximum_version = ssl.TLSVersion.TLSv1_2
ftp = (ftplib.FTP_TLS if plain else ResumingFTP_TLS)(context=context, timeout=10)
ftp.connect(host, int(port))
ftp.login(user, "secret")
ftp.prot_p()
ftp.mkd("dir")
with open(f"{directory}/up.bin", "rb") as file:
    ftp.storbinary("STOR dir/a.bin", file)
print("names:", *ftp.nlst("dir"))
with open(f"{directory}/down.bin", "wb") as file:
    ftp.retrbinary("RETR dir/a.bin", file.write)
with open(f"{directory}/part.bin", "ab") as file:
    ftp.retrbinary("RETR dir/a.bin", file.write, rest=file.tell())
ftp.rename("dir/a.bin", "dir/b.bin")
ftp.quit()
print("done")
