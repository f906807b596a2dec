"""A real domain controller of Active Directory (Samba) with all its files below one directory, on a loopback address.

Samba cannot use other ports than those of LDAP: each server has an address of its own.
"""

from __future__ import annotations

import fcntl
import ipaddress
import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.authority import make_chain
from tests.daemon import PATIENCE
from tests.processes import wait_for_port

#: The programs, which Debian keeps out of the path of plain users.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
SAMBA = shutil.which("samba", path=_PATH)
SAMBA_TOOL = shutil.which("samba-tool", path=_PATH)

DOMAIN, REALM, SUFFIX = "EXAMPLE", "example.com", "DC=example,DC=com"
STAFF, GROUPS, SERVICES = f"OU=Staff,{SUFFIX}", f"OU=Groups,{SUFFIX}", f"OU=Services,{SUFFIX}"
SERVICE = f"CN=ftpsd,{SERVICES}"

#: The password of all accounts, which satisfies the policy of the domain.
PASSWORD = "Correct-Horse-1"

_ADMIN, _ADMIN_PASSWORD = f"Administrator@{REALM}", "Battery-Staple-2"

_CONFIGURATION = """
[global]
server role = active directory domain controller
workgroup = {domain}
realm = {realm}
netbios name = DC1
interfaces = {address}/8
bind interfaces only = yes
server services = ldap
tls enabled = yes
tls keyfile = {directory}/tls/key.pem
tls certfile = {directory}/tls/certificate.pem
tls cafile = {directory}/tls/ca.pem
private dir = {directory}/private
state directory = {directory}/state
cache directory = {directory}/cache
lock directory = {directory}/lock
pid directory = {directory}/run
ncalrpc dir = {directory}/ncalrpc
binddns dir = {directory}/bind-dns
winbindd socket directory = {directory}/winbindd
ntp signd socket directory = {directory}/ntp
log file = {directory}/log.samba
idmap_ldb:use rfc2307 = yes
[sysvol]
path = {directory}/state/sysvol
[netlogon]
path = {directory}/state/sysvol/{realm}/scripts
"""

#: The databases need not survive a crash of the machine.
_ENVIRONMENT = {"PATH": _PATH, "TDB_NO_FSYNC": "1"}

_process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 250
_next_numbers = itertools.cycle(range(1, 250))


class SambaDc:
    """One domain controller. Its domain is a copy of `template`, which `provision` has made."""

    def __init__(self, directory: Path, template: Path) -> None:
        self.directory = directory
        shutil.copytree(template, directory)
        for name in ("tls", "cache", "lock", "run", "ncalrpc"):
            (directory / name).mkdir(exist_ok=True)
        self.address = _free_address()
        make_chain(directory / "tls", [x509.IPAddress(ipaddress.ip_address(self.address))])
        self.ca = directory / "tls/ca.pem"
        self.url, self.tls_url = f"ldap://{self.address}", f"ldaps://{self.address}"
        self.process: subprocess.Popen[bytes] | None = None
        self._configuration = directory / "smb.conf"
        self._configuration.write_text(_configuration(directory, self.address))

    def start(self) -> SambaDc:
        """Run the server until `kill`, and wait until it accepts connections."""
        assert SAMBA is not None
        # Samba ends when its standard input does.
        command = [SAMBA, "-i", "-M", "single", "--debug-stdout", "-s", str(self._configuration)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_ENVIRONMENT, cwd=self.directory
            )
        wait_for_port(636, self.process, self.directory / "log", self.address)
        return self

    def kill(self) -> None:
        """End the server without any farewell."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate(timeout=PATIENCE)
            self.process = None

    # --- as the administrator ----------------------------------------------------------------------

    def _connect(self) -> Any:
        import ldap

        connection = ldap.initialize(self.tls_url)
        connection.set_option(ldap.OPT_REFERRALS, 0)
        connection.set_option(ldap.OPT_TIMEOUT, PATIENCE)
        connection.set_option(ldap.OPT_X_TLS_CACERTFILE, str(self.ca))
        connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
        connection.simple_bind_s(_ADMIN, _ADMIN_PASSWORD)
        return connection

    def add(self, *entries: tuple[str, Mapping[str, Any]]) -> None:
        """Add entries. A value is text, bytes, or several of them."""
        connection = self._connect()
        for dn, attributes in entries:
            connection.add_s(dn, [(name, _bytes(value)) for name, value in attributes.items()])
        connection.unbind_s()

    def modify(self, dn: str, **attributes: Any) -> None:
        """Replace attributes of an entry. An underscore in the name of an attribute stands for a hyphen."""
        connection = self._connect()
        connection.modify_s(dn, [(2, name.replace("_", "-"), _bytes(value)) for name, value in attributes.items()])
        connection.unbind_s()

    def rename(self, dn: str, name: str) -> None:
        """Give an entry another common name."""
        connection = self._connect()
        connection.rename_s(dn, name)
        connection.unbind_s()

    def set_password(self, account_dn: str, password: str) -> None:
        """Set the password of an account."""
        self.modify(account_dn, unicodePwd=_secret(password))

    def make_primary(self, member: str, group_dn: str) -> None:
        """Make a group the primary one of a member."""
        connection = self._connect()
        (found,) = connection.read_s(group_dn, attrlist=["primaryGroupToken"])["primaryGroupToken"]
        connection.unbind_s()
        self.modify(member, primaryGroupID=found)

    def age_password(self, account: str, days: int) -> None:
        """Make a password look as if it was set so many days ago. No administrator can do that over LDAP."""
        moment = int((time.time() + 11644473600 - days * 86400) * 10_000_000)
        code = (
            "import sys; from samba.samdb import SamDB; from samba.param import LoadParm; from samba.auth import system_session\n"
            "parm = LoadParm(); parm.load(sys.argv[1]); domain = SamDB(session_info=system_session(), lp=parm)\n"
            "dn = domain.search(expression=f'(sAMAccountName={sys.argv[2]})', attrs=[])[0].dn\n"
            "ldif = f'dn: {dn}\\nchangetype: modify\\nreplace: pwdLastSet\\npwdLastSet: {sys.argv[3]}\\n'\n"
            "domain.modify_ldif(ldif, controls=['local_oid:1.3.6.1.4.1.7165.4.3.12:1'])\n"  # past the rules
        )
        command = ["/usr/bin/python3", "-c", code, str(self._configuration), account, str(moment)]
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, env=_ENVIRONMENT)
        assert done.returncode == 0, done.stderr.decode()


def provision(directory: Path) -> Path:
    """Return a directory with a new domain. Processes that share it make one domain between them."""
    if SAMBA is None or SAMBA_TOOL is None:
        pytest.skip("samba-ad-dc is not installed")
    if os.geteuid() != 0:
        pytest.skip("samba needs root")
    made = directory / "domain"
    with (directory / "samba.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            new = directory / "new-domain"
            new.mkdir()
            (new / "smb.conf").write_text(_configuration(new, "127.0.0.1"))
            command = [
                SAMBA_TOOL, "domain", "provision", "-s", new / "smb.conf", f"--targetdir={new}", f"--realm={REALM}",
                f"--domain={DOMAIN}", "--server-role=dc", f"--adminpass={_ADMIN_PASSWORD}", "--dns-backend=NONE",
                "--use-rfc2307", "--host-name=dc1", "--host-ip=127.0.0.1",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, timeout=4 * PATIENCE, env=_ENVIRONMENT)
            assert done.returncode == 0, done.stderr.decode()
            new.rename(made)
    return made


def domain_directory(factory: pytest.TempPathFactory) -> Path:
    """Return a directory that the processes of this run of the suite share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def unit(dn: str) -> tuple[str, dict[str, Any]]:
    """Return an organizational unit."""
    return dn, {"objectClass": "organizationalUnit"}


def user(
    cn: str, account: str, below: str = STAFF, password: str = PASSWORD, **attributes: Any
) -> tuple[str, dict[str, Any]]:
    """Return an account that may log in. `cn` is its common name, as it stands in distinguished names."""
    values = {
        "objectClass": "user",
        "sAMAccountName": account,
        "userPrincipalName": f"{account}@{REALM}",
        "unicodePwd": _secret(password),
        "userAccountControl": "512",
        **attributes,
    }
    return f"CN={cn},{below}", values


def group(cn: str, members: Sequence[str] = (), **attributes: Any) -> tuple[str, dict[str, Any]]:
    """Return a group. `cn` is its common name, as it stands in distinguished names."""
    return f"CN={cn},{GROUPS}", {"objectClass": "group", **({"member": members} if members else {}), **attributes}


def _configuration(directory: Path, address: str) -> str:
    return _CONFIGURATION.format(domain=DOMAIN, realm=REALM, directory=directory, address=address)


def _secret(password: str) -> bytes:
    return f'"{password}"'.encode("utf-16-le")


def _bytes(value: Any) -> list[bytes]:
    values = value if isinstance(value, list | tuple) else [value]
    return [each if isinstance(each, bytes) else str(each).encode() for each in values]


def _free_address() -> str:
    """Return a loopback address on which nothing uses the port of LDAP."""
    for address in _addresses():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, 389))
                return address
            except OSError:
                continue
    pytest.skip("port 389 is in use, and samba has no other")


def _addresses() -> Iterator[str]:
    for number in itertools.islice(_next_numbers, 200):
        yield f"127.77.{_process}.{number}"
