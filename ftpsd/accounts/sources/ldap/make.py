"""Make the source from its settings: `make`. It connects to nothing, and says what is wrong with the settings."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from ftpsd.accounts.sources.source import Secrets, Source, UnusableSettings
from ftpsd.config.sections.sources import LdapSource
from ftpsd.protocol.addresses import is_loopback

try:
    import ldap
    from ldap.dn import is_dn

    from ftpsd.accounts.sources.ldap.connection import Tls
    from ftpsd.accounts.sources.ldap.names import dn_template, filter_for, name_attribute
    from ftpsd.accounts.sources.ldap.records import kind_of
    from ftpsd.accounts.sources.ldap.source import Directory
except ImportError as error:
    _missing: ImportError | None = error
else:
    _missing = None

#: Where systems keep the authorities that they trust.
_SYSTEM_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine
)


def make(settings: LdapSource, secrets: Secrets) -> Source:
    """Return the source. Raises UnusableSettings."""
    if _missing is not None:
        remedy = "Install it (pip install 'ftpsd[ldap]', or apt install python3-ldap), or remove the entry."
        raise UnusableSettings("type", f"needs python-ldap, which cannot be imported ({_missing})", remedy)
    tls = _tls(settings)
    _check_account(settings)
    _check_users(settings)
    _check_groups(settings)
    password = secrets[settings.password_file] if settings.password_file is not None else None
    return Directory(settings, tls, password)


# --- servers ---------------------------------------------------------------------------------------


def _tls(settings: LdapSource) -> list[tuple[str, Tls]]:
    """Return the URL of each server, and how the connection to it is encrypted."""
    if not settings.servers:
        raise UnusableSettings("servers", "is empty", "Write [ldaps://ldap.example.com].")
    schemes = {_scheme(index, url, settings.tls) for index, url in enumerate(settings.servers)}
    if settings.ca_file is not None and "ldaps" not in schemes and settings.tls == "off":
        raise UnusableSettings("ca_file", "is of no use with tls: off", "Remove one of the two.")
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise UnusableSettings(
            "ca_file", f"{settings.ca_file} is not a file", "Name a PEM file with the authority's certificate."
        )
    authorities = settings.ca_file or next((Path(each) for each in _SYSTEM_AUTHORITIES if Path(each).is_file()), None)
    found = []
    for url in settings.servers:
        start = settings.tls == "starttls" or (settings.tls == "auto" and not is_loopback(urlsplit(url).hostname or ""))
        start = start and url.startswith("ldap:")
        if authorities is None and (start or url.startswith("ldaps:")):
            problem = "is missing, and this system has no file of authorities"
            raise UnusableSettings("ca_file", problem, "Name the file with the certificate of the server's authority.")
        found.append((url, Tls(start, str(authorities) if authorities else None)))
    return found


def _scheme(index: int, url: str, tls: str) -> str:
    """Return the scheme of a server's URL."""
    key = f"servers.{index}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme == "ldapi" and parts.netloc and not parts.path.strip("/"):
        return parts.scheme
    usable = parts.scheme in ("ldap", "ldaps") and host and port != 0 and parts.path in ("", "/")
    if not usable or parts.query or parts.username is not None or not url.isascii() or " " in url:
        problem = f"“{url}” is not the URL of a directory server"
        raise UnusableSettings(key, problem, "Write it as ldaps://ldap.example.com, or ldap:// for StartTLS.")
    if parts.scheme == "ldaps" and tls != "auto":
        problem = f"is encrypted from the start, which tls: {tls} contradicts"
        raise UnusableSettings(key, problem, "Write ldap:// there, or remove tls.")
    return parts.scheme


# --- users and groups ------------------------------------------------------------------------------


def _check_account(settings: LdapSource) -> None:
    if (settings.bind_dn is None) != (settings.password_file is None):
        key, other = ("password_file", "bind_dn") if settings.password_file is None else ("bind_dn", "password_file")
        raise UnusableSettings(
            key, f"is missing beside {other}", f"Add {key}, or remove {other} to search anonymously."
        )
    for key, dn in (
        ("bind_dn", settings.bind_dn),
        ("base", settings.base),
        ("membership.base", settings.membership.base),
    ):
        if dn is not None and not is_dn(dn):
            raise UnusableSettings(
                key, f"“{dn}” is not a distinguished name", "Write it as ou=people,dc=example,dc=com."
            )


def _check_users(settings: LdapSource) -> None:
    dn = dn_template(settings.bind)
    if settings.bind is not None and "{name}" not in settings.bind:
        remedy = "Write it as uid={name},ou=people,dc=example,dc=com, or for Active Directory as {name}@example.com."
        raise UnusableSettings("bind", f"“{settings.bind}” has no {{name}}", remedy)
    if settings.bind is not None and dn is None and "=" in settings.bind:
        remedy = "Write it as uid={name},ou=people,dc=example,dc=com."
        raise UnusableSettings("bind", f"“{settings.bind}” is not a distinguished name", remedy)
    if settings.bind is not None and dn is None and settings.bind_dn is not None:
        problem = f"“{settings.bind}” is not a distinguished name, which bind_dn could read"
        raise UnusableSettings("bind", problem, "Remove bind, so that filter finds the users, or remove bind_dn.")
    if dn is None:
        if settings.base is None:
            raise UnusableSettings("base", "is missing", "Add where the users are, as ou=people,dc=example,dc=com.")
        _check_filter("filter", settings.filter, "name")
    if settings.name is None and name_attribute(dn or settings.filter) is None:
        raise UnusableSettings("name", "is missing", "Name the attribute with the canonical name of a user, as uid.")
    for key in settings.attributes:
        try:
            kind_of(key)
        except KeyError:
            remedy = "Write keys of a user, as {home: homeDirectory, quota.bytes: ftpQuota}."
            raise UnusableSettings("attributes", f"{key} cannot come from an attribute", remedy) from None
    for name in ("password", "groups"):
        if name in settings.attributes:
            remedy = "Remove it: the server checks passwords." if name == "password" else "Use the key groups instead."
            raise UnusableSettings("attributes", f"{name} cannot come from an attribute", remedy)
    for key, given in (("attributes", settings.attributes), ("values", settings.values)):
        if "totp" in given and settings.bind is not None and dn is None:
            problem = f"totp cannot be looked up before a login with bind: “{settings.bind}”"
            raise UnusableSettings(key, problem, "Remove totp; or replace bind by bind_dn and password_file.")


def _check_groups(settings: LdapSource) -> None:
    membership = settings.membership
    if membership.filter is not None:
        _check_filter("membership.filter", membership.filter, "dn", "name")
    if membership.nested != "off" and membership.base is None:
        problem, remedy = f"{membership.nested} needs a search for groups", "Add membership.base."
        raise UnusableSettings("membership.nested", problem, remedy)
    wanted = [*settings.groups, *settings.required_groups]
    if wanted and membership.attribute is None and membership.base is None:
        raise UnusableSettings("membership", "has neither attribute nor base, so that no group is found", "Add one.")
    for key, names in (("groups", settings.groups), ("required_groups", settings.required_groups)):
        for name in names:
            if not name or ("=" in name and not is_dn(name)):
                remedy = "Write the group's name, or its whole distinguished name."
                raise UnusableSettings(key, f"“{name}” is not a group", remedy)


def _check_filter(key: str, template: str, *names: str) -> None:
    """Check a filter with libldap, which parses it before it contacts the server."""
    if not any(f"{{{name}}}" in template for name in names):
        raise UnusableSettings(key, f"“{template}” has no {{{names[0]}}}", f"Write it as (uid={{{names[0]}}}).")
    nowhere = ldap.initialize("ldapi://%2Fnonexistent")
    try:
        nowhere.search_ext("", ldap.SCOPE_BASE, filter_for(template, dict.fromkeys(names, "x")))
    except ldap.FILTER_ERROR:
        raise UnusableSettings(key, f"“{template}” is not a filter", "See RFC 4515; count the parentheses.") from None
    except ldap.LDAPError:
        pass  # the filter is good, and there is no server
