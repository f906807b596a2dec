"""The clients that docs/clients.md names: how the tests run each, and what its account needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

DRIVERS = Path(__file__).parent / "drivers"

#: Where tests/run installs what is not Debian's: `python` is a virtual environment, `node_modules` is npm's.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ftpsd-clients"

#: What an account may need, as docs/clients.md writes it, and its section in users.yaml.
NEEDS = {
    "": {},
    "`data_session: allow`": {"data_session": "allow"},
    "`data_session: allow`, `close_notify: lenient`": {"data_session": "allow", "close_notify": "lenient"},
}


class Client(NamedTuple):
    """One client. The driver gets MODE HOST PORT USER DIRECTORY and `options`; {version} is that of TLS."""

    name: str
    driver: str
    program: str
    package: str
    needs: str = ""
    modes: tuple[str, ...] = ("explicit",)
    versions: tuple[str, ...] = ("1.3",)
    does: str = "upload download resume"
    options: tuple[str, ...] = ()
    heavy: bool = False

    def missing(self) -> str:
        """Return why the client cannot be run here, or an empty string."""
        if self.driver.endswith(".js"):
            found = shutil.which("node") and (CACHE / "node_modules" / self.program).is_dir()
        elif self.package.startswith("pip"):
            found = (CACHE / "python/bin/python").exists()
        elif self.program.endswith((".pm", ".go")):
            found = any(
                Path(top, self.program).exists() for top in ("/usr/share/perl5", *_PERL, "/usr/share/gocode/src")
            )
        else:
            found = shutil.which(self.program)
        return "" if found else f"{self.name} is not installed: {self.package}"

    def command(self, version: str, work: Path) -> list[str]:
        """Return the beginning of the command line."""
        path = str(DRIVERS / self.driver)
        match Path(path).suffix:
            case ".js":
                return ["node", f"--tls-max-v{version}", path]
            case ".go":
                return [build(path, work)]
            case ".py":
                return [str(CACHE / "python/bin/python") if self.package.startswith("pip") else sys.executable, path]
            case suffix:
                return [{".sh": "sh", ".pl": "perl", ".rb": "ruby", ".php": "php"}[suffix], path]


_PERL = ("/usr/lib/x86_64-linux-gnu/perl5/5.36", "/usr/lib/aarch64-linux-gnu/perl5/5.36")

BOTH = ("explicit", "implicit")
VERSIONS = ("1.2", "1.3")
ALLOW, LENIENT = list(NEEDS)[1:]

CLIENTS = [
    Client("curl", "curl.sh", "curl", "curl", modes=BOTH, versions=VERSIONS, options=("--tls-max", "{version}")),
    Client("lftp", "lftp.sh", "lftp", "lftp", modes=BOTH),
    Client("wget", "wget.sh", "wget", "wget", modes=BOTH, does="download resume"),
    Client("rclone", "rclone.sh", "rclone", "rclone", modes=BOTH, does="upload download"),
    Client("rclone, one connection", "rclone_sync.sh", "rclone", "rclone", modes=BOTH, does="upload download", options=("--ftp-concurrency=1", "--transfers=1", "--checkers=1")),
    Client("rclone, several files at once", "rclone_sync.sh", "rclone", "rclone", ALLOW, modes=BOTH, does="upload download"),
    Client("rclone without a TLS cache", "rclone.sh", "rclone", "rclone", ALLOW, does="upload download", options=("--ftp-tls-cache-size=0",)),
    Client("Python ftplib with the subclass below", "ftplib_client.py", "python3", "python3", modes=("explicit",), versions=VERSIONS),
    Client("Python ftplib", "ftplib_client.py", "python3", "python3", ALLOW, versions=VERSIONS, options=("plain",)),
    Client("PyFilesystem2", "pyfilesystem.py", "fs", "pip: fs", LENIENT),
    Client("aioftp", "aioftp_client.py", "aioftp", "pip: aioftp", modes=BOTH),
    Client("PHP", "ftp.php", "php", "php-cli"),
    Client("Ruby Net::FTP, TLS 1.2", "net_ftp.rb", "ruby", "ruby", versions=("1.2",)),
    Client("Ruby Net::FTP, TLS 1.3", "net_ftp.rb", "ruby", "ruby", ALLOW),
    Client("Perl Net::FTP", "net_ftp.pl", "IO/Socket/SSL.pm", "libio-socket-ssl-perl", ALLOW, modes=BOTH, versions=VERSIONS),
    Client("basic-ftp (npm)", "basic_ftp.js", "basic-ftp", "npm: basic-ftp", modes=BOTH, versions=VERSIONS, heavy=True),
    Client("ftp (npm)", "old_ftp.js", "ftp", "npm: ftp", versions=VERSIONS, heavy=True),
    Client("jlaffaye/ftp (Go) with a session cache", "jlaffaye.go", "github.com/jlaffaye/ftp/ftp.go", "golang-go golang-github-jlaffaye-ftp-dev", heavy=True, modes=BOTH, versions=VERSIONS, options=("cache",)),
    Client("jlaffaye/ftp (Go) with a session cache, newer releases", "jlaffaye.go", "github.com/jlaffaye/ftp/ftp.go", "golang-go golang-github-jlaffaye-ftp-dev", heavy=True, modes=BOTH, versions=VERSIONS, options=("cache", "later")),
    Client("jlaffaye/ftp (Go)", "jlaffaye.go", "github.com/jlaffaye/ftp/ftp.go", "golang-go golang-github-jlaffaye-ftp-dev", ALLOW, heavy=True, modes=BOTH, versions=VERSIONS),
    Client("gFTP", "gftp.sh", "gftp-text", "gftp-text", does="upload download", heavy=True),
    Client("GVfs", "gvfs.sh", "gio", "gvfs-backends libglib2.0-bin dbus", modes=BOTH, does="upload download", heavy=True),
    Client("duplicity", "duplicity.sh", "duplicity", "duplicity lftp", modes=BOTH, does="download", heavy=True),
    Client("ftp-ssl", "ftp_ssl.sh", "ftp-ssl", "ftp-ssl", LENIENT, does="upload download"),
]  # fmt: skip

#: These know no TLS, so that the server has to do without: `tls.require.login` and `tls.require.data` are false.
PLAIN_CLIENTS = [
    Client("NcFTP", "ncftp.sh", "ncftp", "ncftp"),
    Client("tnftp", "tnftp.sh", "tnftp", "tnftp"),
    Client("GNU inetutils ftp", "inetutils.sh", "inetutils-ftp", "inetutils-ftp"),
]


def build(source: str, work: Path) -> str:
    """Compile a driver in Go with Debian's packages; return the program."""
    program = work / "driver"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(CACHE / "go")}
    subprocess.run(["go", "build", "-o", str(program), source], check=True, env=environment, timeout=120)
    return str(program)
