"""The servers, one class each. Every one is as its manual sets it up, with these the same for all:

the certificate, TLS on the control connection required and on data connections as the client asks, one account with
one hash of the same format, its home as its root directory, 10,000 passive ports, no limit that a workload meets, no
log of transfers, no name look-ups, no waits that are there to slow down attackers.
"""

from __future__ import annotations

import grp
import os
import shutil
from pathlib import Path

from benchmarks import peers
from benchmarks.client import HOST
from benchmarks.server import PASSIVE_PORTS, Server
from benchmarks.stage import USER

FIRST, LAST = PASSIVE_PORTS.start, PASSIVE_PORTS.stop - 1
HERE = Path(__file__).resolve().parent


class Unpacked(Server):
    """A server from Debian's packages. They change to the user who logs in and to its root."""

    packages: tuple[str, ...] = ()

    def obtain(self) -> str:
        """See Server."""
        if os.geteuid() != 0:
            raise peers.Missing("it needs to be started by root")
        return peers.unpack(self.packages, self.peer)

    def environment(self) -> dict[str, str]:
        """See Server."""
        return {"LD_LIBRARY_PATH": peers.library_path(self.peer)}

    def file(self, path: str) -> str:
        """Where a file of the packages was unpacked."""
        return str(self.peer / "root" / path)


class Vsftpd(Unpacked):
    """vsftpd knows accounts by PAM only: it gets a mount namespace of its own, where /etc knows one user more."""

    name = "vsftpd"
    packages = ("vsftpd",)

    def obtain(self) -> str:
        """See Server."""
        if not shutil.which("unshare"):
            raise peers.Missing("there is no unshare here to give it a user of its own")
        return super().obtain()

    def _write_accounts(self) -> dict[str, Path]:
        """What its namespace has in the place of the machine's own files."""
        owner, home = self.stage.owner, self.stage.home
        etc = self.directory / "etc"
        (etc / "pam.d").mkdir(parents=True, exist_ok=True)
        (etc / "pam.d" / "vsftpd").write_text("auth required pam_unix.so\naccount required pam_permit.so\n")
        row = f"{USER}:x:{owner.pw_uid}:{owner.pw_gid}::{home}:/bin/sh\n"
        (etc / "passwd").write_text(row + Path("/etc/passwd").read_text())
        (etc / "shadow").touch(0o600)
        (etc / "shadow").write_text(f"{USER}:{self.stage.password_hash}:19000:0:99999:7:::\n")
        return {f"/etc/{name}": etc / name for name in ("passwd", "shadow", "pam.d")}

    def command(self) -> list[str]:
        """See Server."""
        empty = self.directory / "empty"
        empty.mkdir(exist_ok=True)
        settings = {
            "listen": "YES", "listen_address": HOST, "listen_port": self.port, "background": "NO",
            "anonymous_enable": "NO", "local_enable": "YES", "write_enable": "YES", "local_umask": "022",
            "chroot_local_user": "YES", "allow_writeable_chroot": "YES", "secure_chroot_dir": empty,
            "pam_service_name": "vsftpd", "pasv_min_port": FIRST, "pasv_max_port": LAST,
            "ssl_enable": "YES", "ssl_ciphers": "HIGH", "force_local_data_ssl": "NO", "require_ssl_reuse": "YES",
            "rsa_cert_file": self.stage.certificate, "rsa_private_key_file": self.stage.private_key,
            "max_clients": 0, "max_per_ip": 0, "xferlog_enable": "NO",
        }  # fmt: skip
        config = self.directory / "vsftpd.conf"
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        mounts = [f"mount --bind '{ours}' {theirs} && " for theirs, ours in self._write_accounts().items()]
        script = f"{''.join(mounts)}exec '{self.file('usr/sbin/vsftpd')}' '{config}'"
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]


class ProFtpd(Unpacked):
    """ProFTPD with mod_tls, and an AuthUserFile.

    Without a TLSCACertificateFile each session would read all of the system's authorities, which takes 20 ms.
    """

    name = "ProFTPD"
    packages = ("proftpd-core", "proftpd-mod-crypto")

    def command(self) -> list[str]:
        """See Server."""
        owner, stage = self.stage.owner, self.stage
        users = self.directory / "users"
        users.touch(0o600)
        users.write_text(f"{USER}:{stage.password_hash}:{owner.pw_uid}:{owner.pw_gid}::{stage.home}:/bin/sh\n")
        config = self.directory / "proftpd.conf"
        config.write_text(f"""\
ServerName benchmark
ServerType standalone
DefaultAddress {HOST}
SocketBindTight on
Port {self.port}
UseIPv6 off
UseReverseDNS off
MaxInstances none
User {owner.pw_name}
Group {grp.getgrgid(owner.pw_gid).gr_name}
Umask 022
AllowOverwrite on
DefaultRoot ~
RequireValidShell off
AuthOrder mod_auth_file.c
AuthUserFile {users}
PassivePorts {FIRST} {LAST}
PidFile {self.directory}/pid
ScoreboardFile {self.directory}/scoreboard
SystemLog none
TransferLog none
WtmpLog off
DelayEngine off
ModulePath {self.file("usr/lib/proftpd")}
LoadModule mod_tls.c
TLSEngine on
TLSProtocol TLSv1.3
TLSRequired ctrl
TLSCACertificateFile {stage.certificate}
TLSECCertificateFile {stage.certificate}
TLSECCertificateKeyFile {stage.private_key}
""")
        return [self.file("usr/sbin/proftpd"), "--nodaemon", "--config", str(config)]


class PureFtpd(Unpacked):
    """Pure-FTPd with a PureDB; it takes any hash that crypt(3) knows."""

    name = "Pure-FTPd"
    packages = ("pure-ftpd", "pure-ftpd-common")

    def command(self) -> list[str]:
        """See Server."""
        owner, stage = self.stage.owner, self.stage
        users, database = self.directory / "users", self.directory / "users.pdb"
        row = [USER, stage.password_hash, str(owner.pw_uid), str(owner.pw_gid), "", f"{stage.home}/./"]
        users.write_text(":".join([*row, *[""] * 12]) + "\n")
        build = f"'{self.file('usr/bin/pure-pw')}' mkdb '{database}' -f '{users}'"
        options = [
            f"--bind={HOST},{self.port}", "--ipv4only", "--dontresolve", "--noanonymous", "--chrooteveryone",
            f"--login=puredb:{database}", f"--passiveportrange={FIRST}:{LAST}", "--minuid=1", "--syslogfacility=none",
            "--maxclientsnumber=5000", "--maxclientsperip=5000", "--limitrecursion=1000000:5", "--maxidletime=60",
            "--tls=1", f"--certfile={stage.both}", f"--pidfile={self.directory}/pid",
        ]  # fmt: skip
        words = " ".join(f"'{option}'" for option in options)
        return ["sh", "-c", f"{build} && exec '{self.file('usr/sbin/pure-ftpd')}' {words}"]


class Pyftpdlib(Server):
    """pyftpdlib from its own virtual environment; pyftpdlib_server.py is its program."""

    name = "pyftpdlib"

    def obtain(self) -> str:
        """See Server."""
        python = peers.virtual_environment(self.peer, "pyftpdlib", "pyOpenSSL")
        return peers.module_versions(python, "pyftpdlib", "pyOpenSSL", "cryptography")

    def command(self) -> list[str]:
        """See Server."""
        account = [str(self.stage.both), str(self.stage.home), USER, self.stage.password_hash]
        where = [HOST, str(self.port), str(FIRST), str(LAST)]
        return [str(self.peer / "bin" / "python"), str(HERE / "pyftpdlib_server.py"), *where, *account]


class Ftpsd(Server):
    """ftpsd from the tree that this file is in."""

    name = "ftpsd"
    #: For how many seconds it remembers a right password: its default.
    remember = 300
    passive = f"ports: {FIRST}-{LAST}"
    #: Lines of the configuration beside those that it always has.
    settings = ""

    def obtain(self) -> str:
        """See Server."""
        if not (HERE.parent / "ftpsd").is_dir():
            raise peers.Missing(f"there is no ftpsd beside {HERE.name}")
        versions = peers.module_versions(self.setting.python, "Twisted", "pyOpenSSL", "cryptography")
        if "Twisted" not in versions:
            raise peers.Missing("the Python given with --ftpsd-python has no Twisted")
        return f"this tree, {versions}"

    def environment(self) -> dict[str, str]:
        """See Server."""
        return {"PYTHONPATH": str(HERE.parent)}

    def home(self) -> str:
        """Return the user's home, as users.yaml has it."""
        return str(self.stage.home)

    def command(self) -> list[str]:
        """See Server."""
        stage, config = self.stage, self.directory / "ftpsd.yaml"
        config.write_text(f"""\
listen:
  - {{address: "{HOST}", port: {self.port}, tls: explicit}}
tls:
  certificate: {stage.certificate}
  private_key: {stage.private_key}
  minimum_version: "1.3"
  require: {{login: true, data: false}}
  data_session: require
passive: {{{self.passive}}}
users: {{file: users.yaml, cache: {{seconds: {self.remember}}}}}
limits: {{sessions: 5000, sessions_per_address: 5000}}
{self.settings}""")
        users = self.directory / "users.yaml"
        users.touch(0o600)
        users.write_text(f"""\
users:
  {USER}:
    password: "{stage.password_hash}"
    home: {self.home()}
    permissions: read-write
""")
        twistd = "from twisted.scripts.twistd import run; run()"
        options = ["--nodaemon", "--pidfile=", "--logfile=-"]
        return [str(self.setting.python), "-c", twistd, *options, "ftpsd", "-c", str(config)]


class ForgetfulFtpsd(Ftpsd):
    """ftpsd that hashes the password of each login, as the others do."""

    name = "ftpsd-no-cache"
    remember = 0


USUAL: dict[str, type[Server]] = {kind.name: kind for kind in (Ftpsd, Vsftpd, ProFtpd, PureFtpd, Pyftpdlib)}
ALL: dict[str, type[Server]] = {**USUAL, ForgetfulFtpsd.name: ForgetfulFtpsd}
OURS = Ftpsd.name
