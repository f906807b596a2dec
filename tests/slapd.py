"""A real slapd (OpenLDAP) with all its files below one directory, on loopback ports and a unix socket."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.daemon import PATIENCE, free_range
from tests.processes import wait_for_port

#: The program, which Debian keeps out of the path of plain users.
SLAPD = shutil.which("slapd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

SUFFIX = "dc=example,dc=com"
PEOPLE, GROUPS = f"ou=people,{SUFFIX}", f"ou=groups,{SUFFIX}"
SERVICE, SERVICE_PASSWORD = f"cn=ftpsd,ou=services,{SUFFIX}", "service secret"
ADMIN, ADMIN_PASSWORD = f"cn=admin,{SUFFIX}", "admin secret"

_CONFIGURATION = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
moduleload memberof
pidfile {directory}/slapd.pid
TLSCACertificateFile {tls}/ca.pem
TLSCertificateFile {tls}/certificate.pem
TLSCertificateKeyFile {tls}/key.pem
loglevel none
threads 8
{options}
database mdb
suffix "{suffix}"
rootdn "{admin}"
rootpw "{admin_password}"
directory {directory}/db
dbnosync
maxsize 268435456
index objectClass,uid,mail,cn,member,uniqueMember,memberUid eq
access to attrs=userPassword by anonymous auth by * none
access to dn.subtree="ou=hidden,{suffix}" by * none
access to * by dn.exact="{service}" read by self read by anonymous auth by * none
overlay ppolicy
ppolicy_default "cn=default,ou=policies,{suffix}"
ppolicy_use_lockout
overlay memberof
"""


def entry(dn: str, *classes: str, **attributes: Any) -> str:
    """Return an entry as LDIF; an underscore in the name of an attribute stands for a hyphen."""
    lines = [f"dn: {dn}", *(f"objectClass: {each}" for each in classes)]
    for name, values in attributes.items():
        for value in values if isinstance(values, list | tuple) else [values]:
            lines.append(f"{name.replace('_', '-')}: {value}")
    return "\n".join(lines) + "\n\n"


def person(name: str, password: str = "secret", below: str = PEOPLE, **attributes: Any) -> str:
    """Return a person as LDIF."""
    values = {"uid": name, "cn": name, "sn": name, "userPassword": password, **attributes}
    more = ("shadowAccount",) if "shadowExpire" in attributes else ()
    posix = ("posixAccount",) if "homeDirectory" in attributes else ()
    if posix:
        values = {"uidNumber": 1000, "gidNumber": 1000, **values}
    return entry(f"uid={name},{below}", "inetOrgPerson", *more, *posix, **values)


def skeleton() -> str:
    """Return the entries that every directory of the tests has."""
    units = [
        entry(f"ou={name},{SUFFIX}", "organizationalUnit", ou=name)
        for name in ["people", "groups", "services", "policies", "hidden"]
    ]
    service = entry(SERVICE, "applicationProcess", "simpleSecurityObject", cn="ftpsd", userPassword=SERVICE_PASSWORD)
    policy = entry(
        f"cn=default,ou=policies,{SUFFIX}",
        "applicationProcess",
        "pwdPolicy",
        cn="default",
        pwdAttribute="userPassword",
        pwdMustChange="TRUE",
    )
    return entry(SUFFIX, "dcObject", "organization", dc="example", o="Example") + "".join(units) + service + policy


def modify(url: str, administrator: str, password: str, ldif: str, *options: str) -> None:
    """Change entries of a directory, with ldapmodify's LDIF; with -a, add entries."""
    command = ["ldapmodify", "-x", "-H", url, "-D", administrator, "-w", password, *options]
    done = subprocess.run(command, input=ldif.encode(), capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr.decode()


class Slapd:
    """One server. `ldif` has its entries beside those of `skeleton`. TLS is that of `tls`, made by `tests/authority`."""

    def __init__(self, directory: Path, tls: Path, ldif: str = "", options: str = "") -> None:
        if SLAPD is None:
            pytest.skip("slapd is not installed")
        self.directory = directory
        (directory / "db").mkdir(parents=True)
        self.port, self.tls_port = free_range(2)
        self.ca = tls / "ca.pem"
        self.url, self.tls_url = f"ldap://127.0.0.1:{self.port}", f"ldaps://127.0.0.1:{self.tls_port}"
        self.ipc_url = f"ldapi://{quote(str(directory / 'socket'), safe='')}"
        self.process: subprocess.Popen[bytes] | None = None
        self.configuration = directory / "slapd.conf"
        self.configuration.write_text(
            _CONFIGURATION.format(
                directory=directory,
                tls=tls,
                suffix=SUFFIX,
                admin=ADMIN,
                admin_password=ADMIN_PASSWORD,
                service=SERVICE,
                options=options,
            )
        )
        (directory / "entries.ldif").write_text(skeleton() + ldif)
        add = [SLAPD, "-T", "add", "-q", "-f", str(self.configuration), "-l", str(directory / "entries.ldif")]
        added = subprocess.run(add, capture_output=True, timeout=PATIENCE)
        assert added.returncode == 0, added.stderr.decode()

    def start(self) -> Slapd:
        """Run the server until `stop`, and wait until it answers."""
        assert SLAPD is not None
        urls = f"{self.url}/ {self.tls_url}/ {self.ipc_url}/"
        with (self.directory / "log").open("ab") as log:
            command = [SLAPD, "-d", "0", "-f", str(self.configuration), "-h", urls]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_for_port(self.tls_port, self.process, self.directory / "log")
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP freezes the server, SIGCONT lets it continue."""
        assert self.process is not None
        self.process.send_signal(number)
        deadline = time.monotonic() + PATIENCE
        while number == signal.SIGSTOP and not self._is_stopped():
            assert time.monotonic() < deadline, "slapd does not stop"
            time.sleep(0.01)

    def _is_stopped(self) -> bool:
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        return all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)

    def kill(self) -> None:
        """End the server without any farewell."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def modify(self, ldif: str, *options: str) -> None:
        """Change entries as the administrator, with ldapmodify's LDIF; with -a, add entries."""
        modify(self.url, ADMIN, ADMIN_PASSWORD, ldif, *options)
