"""A real 389 Directory Server with all its files below one directory, on loopback ports. It is the directory of FreeIPA."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import subprocess
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest

from tests.authority import make_chain
from tests.daemon import PATIENCE, free_range
from tests.processes import wait_for_port
from tests.slapd import SERVICE_PASSWORD, SUFFIX, entry, modify

#: The program, which Debian keeps out of the path of plain users.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
DIRSRV = shutil.which("ns-slapd", path=_PATH)

_SHARED = Path("/usr/share/dirsrv")

#: The tree of FreeIPA.
PEOPLE, GROUPS = f"cn=users,cn=accounts,{SUFFIX}", f"cn=groups,cn=accounts,{SUFFIX}"
SERVICE = f"uid=ftpsd,cn=sysaccounts,cn=etc,{SUFFIX}"

_ADMIN, _ADMIN_PASSWORD = "cn=Directory Manager", "admin secret"

#: Who may read what.
_READERS = (
    f'(targetattr != "userPassword")(version 3.0; acl "service"; allow (read, search, compare) userdn = "ldap:///{SERVICE}";)',
    '(targetattr != "userPassword")(version 3.0; acl "self"; allow (read, search, compare) userdn = "ldap:///self";)',
)


class Dirsrv:
    """One server. `ldif` has its entries beside those of `_skeleton`. Its certificate is for 127.0.0.1."""

    def __init__(self, directory: Path, ldif: str = "") -> None:
        if DIRSRV is None or not _SHARED.is_dir() or shutil.which("pk12util") is None:
            pytest.skip("389-ds-base is not installed")
        self.directory = directory
        for name in ("config/schema", "db", "home", "log", "lock", "run", "other", "tls"):
            (directory / name).mkdir(parents=True)
        self.port, self.tls_port = free_range(2)
        self.url, self.tls_url = f"ldap://127.0.0.1:{self.port}", f"ldaps://127.0.0.1:{self.tls_port}"
        self.process: subprocess.Popen[bytes] | None = None
        make_chain(directory / "tls")
        self.ca = directory / "tls/ca.pem"
        self._configure()
        self._import_certificate()
        self._add(_skeleton() + ldif)

    def _configure(self) -> None:
        """Write the configuration from the server's own templates."""
        config = self.directory / "config"
        shutil.copy("/etc/dirsrv/config/slapd-collations.conf", config)
        for path in [*Path("/etc/dirsrv/schema").glob("*.ldif"), _SHARED / "data/60kerberos.ldif"]:
            shutil.copy(path, config / "schema")
        other = str(self.directory / "other")
        values = {
            "schema_dir": str(config / "schema"), "config_dir": str(config), "cert_dir": str(config), "inst_dir": other,
            "tmp_dir": other, "ldif_dir": other, "bak_dir": other, "lock_dir": str(self.directory / "lock"),
            "run_dir": str(self.directory / "run"), "log_dir": str(self.directory / "log"),
            "db_dir": str(self.directory / "db"), "db_home_dir": str(self.directory / "home"), "db_lib": "bdb",
            "fqdn": "localhost", "ds_port": str(self.port), "ds_user": getpass.getuser(), "rootdn": _ADMIN,
            "ds_passwd": _hashed(_ADMIN_PASSWORD), "ldapi_enabled": "off", "ldapi": f"{other}/socket", "ldapi_autobind": "off",
            "ds_suffix": SUFFIX, "ds_bename": "userRoot",
        }  # fmt: skip
        templates = [(_SHARED / "data" / f"template-{name}.ldif").read_text() for name in ("dse", "suffix-db")]
        # The server accepts neither comments nor two empty lines in a row.
        text = re.sub("\n\n+", "\n\n", re.sub("(?m)^#.*\n", "", "\n".join(templates)))
        for name, value in values.items():
            text = text.replace(f"%{name}%", value)
        head = "nsslapd-security: on\nnsslapd-securePort: {}\nnsslapd-listenhost: 127.0.0.1\nnsslapd-securelistenhost: 127.0.0.1\n"
        text = text.replace("cn: config\n", "cn: config\n" + head.format(self.tls_port), 1)
        for plugin in ("MemberOf Plugin", "Account Policy Plugin"):
            before, name, after = text.partition(f"dn: cn={plugin},cn=plugins,cn=config\n")
            on = after.replace("luginenabled: off", "luginenabled: on", 1).replace(
                "luginEnabled: off", "luginEnabled: on", 1
            )
            text = before + name + on
        (config / "dse.ldif").write_text(text)

    def _import_certificate(self) -> None:
        """Put the certificate into the database of the server's TLS library."""
        tls, config = self.directory / "tls", self.directory / "config"
        pair = ["-in", tls / "certificate.pem", "-inkey", tls / "key.pem"]
        _run(
            "openssl", "pkcs12", "-export", *pair, "-name", "Server-Cert", "-out", tls / "pair.p12", "-passout", "pass:"
        )
        _run("certutil", "-N", "-d", config, "--empty-password")
        _run("pk12util", "-i", tls / "pair.p12", "-d", config, "-W", "")
        _run("certutil", "-A", "-d", config, "-n", "authority", "-t", "CT,,", "-a", "-i", self.ca)

    def _add(self, ldif: str) -> None:
        """Add entries, and stop the server."""
        self.start()
        try:
            self.modify(ldif, "-a")
        finally:
            self.kill(signal.SIGTERM)

    def start(self) -> Dirsrv:
        """Run the server until `kill`, and wait until it answers."""
        assert DIRSRV is not None
        command = [DIRSRV, "-D", self.directory / "config", "-i", self.directory / "run/pid", "-d", "0"]
        with (self.directory / "output").open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        wait_for_port(self.tls_port, self.process, self.directory / "output")
        return self

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the server."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            self.process = None

    def modify(self, ldif: str, *options: str) -> None:
        """Change entries as the administrator, with ldapmodify's LDIF; with -a, add entries."""
        modify(self.url, _ADMIN, _ADMIN_PASSWORD, ldif, *options)

    def replace(self, dn: str, values: Mapping[str, Any]) -> None:
        """Replace attributes of an entry as the administrator."""
        changes = "-\n".join(f"replace: {name}\n{name}: {value}\n" for name, value in values.items())
        self.modify(f"dn: {dn}\nchangetype: modify\n{changes}")


def _hashed(password: str) -> str:
    return "{SSHA}" + b64encode(sha1(password.encode() + b"salt").digest() + b"salt").decode()


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr.decode()


def person(name: str, **attributes: Any) -> str:
    """Return a person as LDIF, who has what FreeIPA knows of the state of an account."""
    values = {"uid": name, "cn": name, "sn": name, "userPassword": "secret", **attributes}
    return entry(f"uid={name},{PEOPLE}", "inetOrgPerson", "krbPrincipalAux", **values)


def _skeleton() -> str:
    containers = [
        entry(f"{dn},{SUFFIX}", "nsContainer", cn=dn.partition(",")[0].removeprefix("cn="))
        for dn in ("cn=accounts", "cn=users,cn=accounts", "cn=groups,cn=accounts", "cn=etc", "cn=sysaccounts,cn=etc")
    ]
    service = entry(SERVICE, "account", "simpleSecurityObject", uid="ftpsd", userPassword=SERVICE_PASSWORD)
    return entry(SUFFIX, "domain", dc="example", aci=_READERS) + "".join(containers) + service
