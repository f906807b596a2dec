"""Users in a directory: the source against a real slapd."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from cryptography import x509

from ftpsd.accounts.sources.source import (
    Answer,
    CannotLookUp,
    LoginDenied,
    Source,
    SourceFailed,
    UnusableSettings,
    WrongPassword,
)
from ftpsd.accounts.user_store import InvalidRecord
from ftpsd.config.users.layers import Layers
from ftpsd.config.users.records import RecordBuilder
from tests.authority import make_chain
from tests.ldap_sources import answer, ask, denied, source_maker
from tests.slapd import GROUPS, PEOPLE, SERVICE, SERVICE_PASSWORD, SUFFIX, Slapd, entry, person

#: Names that mean something in filters or in distinguished names.
HOSTILE = [
    "*", "a*", "*)(uid=*", ")(uid=*", "alice)(|(uid=*", "\\2a", "\\*", "alice\\", "(", ")", "&", "|(uid=*)",
    "alice,ou=people", f"alice,{PEOPLE}", "alice+cn=alice", "#alice", "alice;", 'ali"ce', "<alice>", "=alice", "uid=alice",
    "{name}", "{dn}", "\udcff", "alice\udc00", "a" * 10_000, "é" * 300, "", " ", "alice\x01", "alice\u200b\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the certificate of a server at 127.0.0.1, and of its authority."""
    directory = tmp_path_factory.mktemp("tls")
    make_chain(directory)
    return directory


def entries() -> tuple[str, str]:
    """Return the people and groups of the directory."""
    people = [
        person(
            "alice", homeDirectory="/srv/ftp/alice", mail=["alice@example.com"], description="10G", employeeNumber="7"
        ),
        person("Bob", shadowExpire="1", employeeType=["list", "download"]),
        person("carol", shadowExpire="-1", mail=["shared@example.com"]),
        person("dave", mail=["shared@example.com"]),
        person("secretive", below=f"ou=hidden,{SUFFIX}"),
        entry(
            f"cn=Erin\\, Q,{PEOPLE}", "inetOrgPerson", cn="Erin, Q", sn="Q", uid=["zoe", "erin"], userPassword="secret"
        ),
    ]
    groups = [
        entry(f"cn=ftp-staff,{GROUPS}", "groupOfNames", cn="ftp-staff", member=[f"uid=alice,{PEOPLE}"]),
        entry(f"cn=unique,{GROUPS}", "groupOfUniqueNames", cn="unique", uniqueMember=[f"uid=carol,{PEOPLE}"]),
        entry(f"cn=posix,{GROUPS}", "posixGroup", cn="posix", gidNumber=7, memberUid=["carol", "dave"]),
        entry(f"cn=outer,{GROUPS}", "groupOfNames", cn="outer", member=[f"cn=ftp-staff,{GROUPS}"]),
        entry(
            f"cn=outermost,{GROUPS}", "groupOfNames", cn="outermost", member=[f"cn=outer,{GROUPS}", f"cn=loop,{GROUPS}"]
        ),
        entry(f"cn=loop,{GROUPS}", "groupOfNames", cn="loop", member=[f"cn=outermost,{GROUPS}"]),
    ]
    return "".join(people), "".join(groups)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tls: Path) -> Iterator[Slapd]:
    """A server that no test breaks."""
    people, groups = entries()
    slapd = Slapd(tmp_path_factory.mktemp("slapd"), tls, people).start()
    slapd.modify(groups, "-a")  # slapadd would not let the overlay make memberOf
    yield slapd
    slapd.kill()


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """Return a file with the password of the service."""
    path = tmp_path / "password"
    path.write_text(SERVICE_PASSWORD + "\n")
    return path


@pytest.fixture
def source(password_file: Path, tls: Path) -> Iterator[Callable[..., Source]]:
    """Return a function that makes sources with settings of their own; None removes a key."""
    with source_maker(
        SERVICE_PASSWORD,
        ca_file=str(tls / "ca.pem"),
        bind_dn=SERVICE,
        password_file=str(password_file),
        base=PEOPLE,
        values={"home": "/srv/ftp/{user}"},
    ) as new:

        def of(server: Slapd | str, password: str = SERVICE_PASSWORD, **changes: Any) -> Source:
            url = server if isinstance(server, str) else server.tls_url
            return new(password, **{"servers": [url], **changes})

        yield of


# --- logins ----------------------------------------------------------------------------------------


def test_search_and_bind(server: Slapd, source: Callable[..., Source]) -> None:
    """A user who is found by the search logs in with the password of the directory, and no other one."""
    directory = source(server)
    assert answer(directory, "alice") == Answer("alice", {"home": "/srv/ftp/{user}"}, True)
    for wrong in ("Secret", "secret ", "x" * 1000, "\udcff", "sec\x00ret", SERVICE_PASSWORD):
        with pytest.raises(WrongPassword):
            ask(directory, "alice", wrong)
    assert ask(directory, "mallory") is None and ask(directory, "mallory", "") is None
    assert answer(directory, "alice").verified


def test_an_empty_password_never_logs_in(server: Slapd, source: Callable[..., Source]) -> None:
    """A bind without a password would be an anonymous one, which servers accept (RFC 4513 section 5.1.2)."""
    for settings in (
        {},
        {"bind": f"uid={{name}},{PEOPLE}"},
        {"bind": f"uid={{name}},{PEOPLE}", "bind_dn": None, "password_file": None},
    ):
        with pytest.raises(WrongPassword):
            ask(source(server, **settings), "alice", "")


def test_a_user_is_looked_up(server: Slapd, source: Callable[..., Source]) -> None:
    """Without a password the user is looked up, and nothing is verified."""
    for settings in ({}, {"bind": f"uid={{name}},{PEOPLE}"}):
        directory = source(server, **settings)
        assert answer(directory, "ALICE", None) == Answer("alice", {"home": "/srv/ftp/{user}"}, False)
        assert ask(directory, "mallory", None) is None


@pytest.mark.parametrize("service", [True, False], ids=["service", "user"])
def test_bind_with_a_template(server: Slapd, source: Callable[..., Source], service: bool) -> None:
    """With `bind` the name stands in the distinguished name; without `bind_dn` the user reads the own entry."""
    none = {} if service else {"bind_dn": None, "password_file": None}
    directory = source(server, bind=f"uid={{name}},{PEOPLE}", attributes={"home": "homeDirectory"}, base=None, **none)
    assert answer(directory, "Alice") == Answer("alice", {"home": "/srv/ftp/alice"}, True)
    with pytest.raises(WrongPassword):
        ask(directory, "alice", "wrong")
    if service:
        assert ask(directory, "mallory") is None
    else:
        with pytest.raises(WrongPassword):
            ask(directory, "mallory")
    assert answer(directory, "alice").name == "alice"  # over the connection on which logins have failed


@pytest.mark.parametrize("settings", [{}, {"bind": f"uid={{name}},{PEOPLE}"}], ids=["search", "template"])
def test_no_name_is_an_injection(server: Slapd, source: Callable[..., Source], settings: dict[str, str]) -> None:
    """A name with wildcards, parentheses or separators is a name that nobody has, and asks the server for nothing else."""
    directory = source(server, **settings)
    for name in HOSTILE:
        assert ask(directory, name) is None, name
        assert ask(directory, name, None) is None, name
    alone = source(server, bind=f"uid={{name}},{PEOPLE}", bind_dn=None, password_file=None)
    for name in HOSTILE:
        try:
            assert ask(alone, name) is None, name
        except WrongPassword:
            pass


@pytest.mark.parametrize("own", ["disallow bind_anon\nrequire bind authc"], indirect=True)
def test_a_server_that_tells_strangers_nothing(own: Slapd, source: Callable[..., Source]) -> None:
    """With a template, users log in to a server that answers nobody else. The probe accepts its refusal."""
    directory = source(own, bind=f"uid={{name}},{PEOPLE}", bind_dn=None, password_file=None)
    directory.probe()
    assert answer(directory, "alice").verified
    with pytest.raises(WrongPassword):
        ask(directory, "alice", "wrong")
    # Not a failure: a password that ends in six digits, which may be a one-time password, would be refused with 451.
    with pytest.raises(CannotLookUp):
        ask(directory, "alice", None)
    own.kill()
    for call in (directory.probe, lambda: ask(directory, "alice", None)):
        with pytest.raises(SourceFailed) as caught:
            call()
        assert not isinstance(caught.value, CannotLookUp)


def test_names_with_special_characters(server: Slapd, source: Callable[..., Source]) -> None:
    """A user whose name has special characters logs in by it."""
    by_cn = source(server, filter="(cn={name})")
    assert answer(by_cn, "erin, q").name == "Erin, Q"
    assert answer(source(server, bind=f"cn={{name}},{PEOPLE}"), "Erin, Q").name == "Erin, Q"


def test_the_name_is_that_of_the_directory(server: Slapd, source: Callable[..., Source]) -> None:
    """However the client writes a name that the server matches, the user has one name, which the directory stores."""
    directory = source(server)
    for name in ("bob", "Bob", "BOB", "Bob ", " bob", "\uff22\uff2f\uff22"):
        assert answer(directory, name).name == "Bob", name
    by_mail = source(server, filter="(|(uid={name})(mail={name}))")
    assert answer(by_mail, "alice@EXAMPLE.com").name == answer(by_mail, "alice").name == "alice"
    erin = source(server, filter="(uid={name})")
    assert answer(erin, "zoe").name == answer(erin, "erin").name == "erin"  # no value is in the DN: always the same one


def test_two_entries_are_a_failure(server: Slapd, source: Callable[..., Source]) -> None:
    """A name that two entries have is refused with a reason: either could be the wrong one."""
    for password in ("secret", "wrong", None):
        with pytest.raises(SourceFailed, match="more than one entry"):
            ask(source(server, filter="(mail={name})", name="uid"), "shared@example.com", password)


def test_an_entry_that_cannot_be_read(server: Slapd, source: Callable[..., Source]) -> None:
    """An entry that the service may not see is no user; a base that does not exist is a failure with a reason."""
    assert ask(source(server, base=SUFFIX), "secretive") is None
    with pytest.raises(SourceFailed, match="no entry ou=nowhere"):
        ask(source(server, base=f"ou=nowhere,{SUFFIX}"), "alice")
    with pytest.raises(SourceFailed, match="has no attribute employeeNumber"):
        ask(source(server, name="employeeNumber"), "carol")


def test_names_are_listed(server: Slapd, source: Callable[..., Source]) -> None:
    """All names are listed, in the form of the directory."""
    assert sorted(source(server).names()) == ["Bob", "alice", "carol", "dave", "erin"]
    with pytest.raises(SourceFailed, match="without base"):
        source(server, base=None, bind=f"uid={{name}},{PEOPLE}").names()


# --- attributes and groups -------------------------------------------------------------------------


def test_attributes_become_keys(server: Slapd, source: Callable[..., Source]) -> None:
    """Attributes have the types of the keys, and take precedence over `values`."""
    directory = source(
        server,
        attributes={
            "home": "homeDirectory",
            "quota.bytes": "description",
            "quota.files": "employeeNumber",
            "permissions": "employeeType",
            "expires": "shadowExpire",
        },
        values={"home": "/srv/ftp/{user}", "permissions": "read-only", "quota": {"files": 5}},
    )
    assert answer(directory, "alice").values == {
        "home": "/srv/ftp/alice", "permissions": "read-only", "quota": {"files": 7, "bytes": "10G"},
    }  # fmt: skip
    bob = answer(directory, "bob").values
    assert (bob["home"], bob["quota"], bob["expires"]) == ("/srv/ftp/{user}", {"files": 5}, "1970-01-02 00:00:00+00:00")
    assert sorted(bob["permissions"]) == ["download", "list"]  # type: ignore[arg-type, type-var]
    assert answer(directory, "carol").values["expires"] is None


@pytest.mark.parametrize(
    ("membership", "name", "groups"),
    [
        ({}, "alice", ["staff"]),
        ({}, "carol", []),
        ({"base": GROUPS}, "carol", ["two", "three"]),
        ({"base": GROUPS}, "dave", ["three"]),
        ({"base": GROUPS, "attribute": None}, "alice", ["staff"]),
        ({"base": GROUPS, "nested": "search"}, "alice", ["staff", "outermost"]),
        ({"base": GROUPS, "nested": "search"}, "bob", []),
    ],
)
def test_groups(
    server: Slapd, source: Callable[..., Source], membership: dict[str, str], name: str, groups: list[str]
) -> None:
    """Groups come from `memberOf`, and from a search for `member`, `uniqueMember`, `memberUid` and groups within groups."""
    mapping = {
        f"CN=ftp-staff , {GROUPS.upper()}": "staff", "Unique": "two", f"cn=posix,{GROUPS}": "three",
        "outermost": "outermost", f"cn=unique,{PEOPLE}": "wrong",
    }  # fmt: skip
    for settings in ({}, {"bind": f"uid={{name}},{PEOPLE}"}):
        found = answer(source(server, groups=mapping, membership=membership, **settings), name).values
        assert found.get("groups", []) == groups


def test_a_value_that_is_no_text(own: Slapd, source: Callable[..., Source]) -> None:
    """A value that cannot be read refuses the login: the user might get more than the directory permits."""
    values = {"cn": "x", "sn": "x", "userPassword": "secret", "uid": "x", "audio:": "/w=="}
    own.modify(entry(f"cn=x,{PEOPLE}", "inetOrgPerson", **values), "-a")
    directory = source(own, attributes={"permissions": "audio"})
    with pytest.raises(SourceFailed, match=f"audio of the entry cn=x,{PEOPLE} is not text"):
        ask(directory, "x")
    assert answer(directory, "alice").name == "alice"


@pytest.mark.parametrize(
    ("own", "whole"),
    [("sizelimit size=3 size.prtotal=unlimited", True), ("sizelimit size=3 size.prtotal=3", False)],
    indirect=["own"],
)
def test_more_groups_than_a_server_returns_at_once(own: Slapd, source: Callable[..., Source], whole: bool) -> None:
    """Groups that a server returns only in pages are read in pages. If it does not return all, the login fails."""
    names = [f"g{number}" for number in range(7)]
    groups = [entry(f"cn={name},{GROUPS}", "groupOfNames", cn=name, member=[f"uid=alice,{PEOPLE}"]) for name in names]
    own.modify("".join(groups), "-a")
    membership = {"base": GROUPS, "attribute": None, "nested": "search"}
    directory = source(own, groups=dict.fromkeys(names, "staff") | {"g6": "last"}, membership=membership)
    if whole:
        assert answer(directory, "alice").values["groups"] == ["staff", "last"]
    else:
        with pytest.raises(SourceFailed, match="does not return all entries: raise its size limit"):
            ask(directory, "alice")
    assert answer(directory, "carol").values.get("groups", []) == []


def test_too_many_groups() -> None:
    """A server that never ends is no reason to read for ever."""
    pytest.importorskip("ldap", reason="python-ldap is not installed")
    from ftpsd.accounts.sources.ldap.connection import Entry
    from ftpsd.accounts.sources.ldap.groups import limited

    page = [Entry(f"cn=g,{GROUPS}", {})] * 500
    assert len(limited([page] * 4)) == 2000
    with pytest.raises(SourceFailed, match="more than 2000 groups"):
        limited(iter(lambda: page, None))


def test_groups_that_contain_themselves(own: Slapd, source: Callable[..., Source]) -> None:
    """Groups that loop are found once each; more than 20 levels are a failure, and other users log in."""
    groups = [
        entry(f"cn=self,{GROUPS}", "groupOfNames", cn="self", member=[f"cn=self,{GROUPS}", f"uid=carol,{PEOPLE}"]),
        entry(f"cn=a,{GROUPS}", "groupOfNames", cn="a", member=[f"cn=b,{GROUPS}", f"uid=carol,{PEOPLE}"]),
        entry(f"cn=b,{GROUPS}", "groupOfNames", cn="b", member=[f"cn=a,{GROUPS}"]),
        entry(f"cn=g0,{GROUPS}", "groupOfNames", cn="g0", member=[f"uid=alice,{PEOPLE}"]),
        *(
            entry(f"cn=g{n},{GROUPS}", "groupOfNames", cn=f"g{n}", member=[f"cn=g{n - 1},{GROUPS}"])
            for n in range(1, 22)
        ),
    ]
    own.modify("".join(groups), "-a")
    mapping = {"b": "b", "self": "self", "g21": "deep"}
    directory = source(own, groups=mapping, membership={"base": GROUPS, "nested": "search"})
    assert answer(directory, "carol").values["groups"] == ["b", "self"]
    with pytest.raises(SourceFailed, match="more than 20 levels"):
        ask(directory, "alice")
    own.modify(f"dn: cn=g0,{GROUPS}\nchangetype: delete\n")
    assert answer(directory, "alice").values.get("groups", []) == []


@pytest.mark.parametrize("uid", ["..", "a/b", "{user}", "x\ny", "x\u202ey", "y" * 300, "NUL\0x", " "])
def test_hostile_values_of_the_name(own: Slapd, source: Callable[..., Source], tmp_path: Path, uid: str) -> None:
    """Whatever name the directory gives a user, `{user}` leads to no directory but the one of this name."""
    encoded = b64encode(uid.encode()).decode()
    values = {"cn": "x", "sn": "x", "userPassword": "secret", "uid:": encoded}
    own.modify(entry(f"cn=x,{PEOPLE}", "inetOrgPerson", **values), "-a")
    homes = tmp_path / "homes"
    homes.mkdir()
    builder = RecordBuilder(tmp_path, Layers(), True, [str(tmp_path)])
    reasons = "cannot be the name of a user|is not a valid user name|is not a directory"
    with pytest.raises((SourceFailed, InvalidRecord), match=reasons):
        builder.build(answer(source(own, filter="(cn={name})", name="uid"), "x").name, {"home": f"{homes}/{{user}}"})


def test_only_members_may_log_in(server: Slapd, source: Callable[..., Source]) -> None:
    """With `required_groups`, others are refused, after the password: nobody else learns who is a member."""
    directory = source(server, required_groups=["ftp-staff", "nothing"])
    assert answer(directory, "alice").name == "alice"
    with pytest.raises(LoginDenied) as denied:
        ask(directory, "dave")
    assert denied.value.word == "group"
    with pytest.raises(WrongPassword):
        ask(directory, "dave", "wrong")


# --- TLS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ldaps", "starttls", "loopback", "unix"])
def test_every_kind_of_connection(server: Slapd, source: Callable[..., Source], kind: str) -> None:
    """ldaps://, ldap:// with StartTLS, and without TLS on the same machine."""
    url, settings = {
        "ldaps": (server.tls_url, {}),
        "starttls": (server.url, {"tls": "starttls"}),
        "loopback": (server.url, {}),
        "unix": (server.ipc_url, {}),
    }[kind]
    directory = source(url, **settings)
    directory.probe()
    assert answer(directory, "alice").verified


@pytest.fixture
def other_tls(tmp_path: Path, tls: Path) -> Callable[..., Path]:
    """Return a function that makes a certificate which a client that trusts `tls` must refuse."""

    def new(**settings: Any) -> Path:
        directory = tmp_path / "other"
        directory.mkdir()
        make_chain(directory, **settings)
        return directory

    return new


@pytest.mark.parametrize(
    ("settings", "own_authority", "reason"),
    [
        ({}, False, "certificate is not accepted: .*(signature|issuer|self.signed)"),
        ({"days": -1}, True, "certificate has expired"),
        ({"names": [x509.DNSName("other.example")]}, True, "(IP address|Hostname) mismatch"),
    ],
    ids=["authority", "expired", "name"],
)
@pytest.mark.parametrize("mode", ["ldaps", "starttls"])
def test_a_certificate_that_is_not_accepted(
    tmp_path: Path,
    source: Callable[..., Source],
    other_tls: Callable[..., Path],
    settings: dict[str, Any],
    own_authority: bool,
    reason: str,
    mode: str,
) -> None:
    """Without a valid certificate of the authority for its name the server gets nothing, and the failure says why."""
    directory = other_tls(**settings)
    slapd = Slapd(tmp_path / "slapd", directory).start()
    try:
        changes = {"ca_file": str(directory / "ca.pem")} if own_authority else {}
        url = slapd.tls_url if mode == "ldaps" else slapd.url
        if mode == "starttls":
            changes["tls"] = "starttls"
        for password in ("secret", None):
            with pytest.raises(SourceFailed, match=reason):
                ask(source(url, **changes), "alice", password)
    finally:
        slapd.kill()


# --- states of accounts ----------------------------------------------------------------------------


@pytest.fixture(params=[""])
def own(tmp_path: Path, tls: Path, request: pytest.FixtureRequest) -> Iterator[Slapd]:
    """A server that the test may break. The parameter is an option of it."""
    slapd = Slapd(tmp_path / "own", tls, entries()[0], request.param).start()
    yield slapd
    slapd.kill()


def policy(**attributes: str) -> str:
    """Return LDIF that sets attributes of the password policy."""
    changes = "-\n".join(f"replace: {name}\n{name}: {value}\n" for name, value in attributes.items())
    return f"dn: cn=default,ou=policies,{SUFFIX}\nchangetype: modify\n{changes}"


def test_a_locked_account(own: Slapd, source: Callable[..., Source]) -> None:
    """OpenLDAP locks an account after wrong passwords. Then no password is called wrong, and nothing more is told."""
    own.modify(policy(pwdLockout="TRUE", pwdMaxFailure="3"))
    directory = source(own)
    for _ in range(3):
        with pytest.raises(WrongPassword):
            ask(directory, "alice", "wrong")
    for password in ("secret", "wrong"):
        with pytest.raises(LoginDenied) as caught:
            ask(directory, "alice", password)
        assert (caught.value.reason, caught.value.word) == ("Login incorrect.", "locked")
    assert answer(directory, "carol").verified


def test_a_password_that_must_be_changed(own: Slapd, source: Callable[..., Source]) -> None:
    """A password that the administrator has reset, or that is too old, is refused: FTP cannot change it."""
    directory = source(own)
    own.modify(f"dn: uid=alice,{PEOPLE}\nchangetype: modify\nreplace: pwdReset\npwdReset: TRUE\n")
    assert denied(directory, "alice") == "password must be changed"
    with pytest.raises(WrongPassword):
        ask(directory, "alice", "wrong")
    assert answer(directory, "carol").verified  # over the same connection
    own.modify(policy(pwdMaxAge="1", pwdMustChange="FALSE"))
    own.modify(f"dn: uid=carol,{PEOPLE}\nchangetype: modify\nreplace: userPassword\nuserPassword: secret\n")
    time.sleep(2.1)
    assert denied(directory, "carol") == "password expired"


@pytest.mark.parametrize(
    ("error", "text", "word"),
    [
        ("INVALID_CREDENTIALS", "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 52e, v4563", None),
        ("INVALID_CREDENTIALS", "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 530, v4563", "hours"),
        ("INVALID_CREDENTIALS", "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 531, v4563", "network"),
        ("INVALID_CREDENTIALS", "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 532, v4563", "password expired"),
        ("INVALID_CREDENTIALS", "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 533, v4563", "disabled"),
        ("INVALID_CREDENTIALS", "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 701, v4563", "expired"),
        ("INVALID_CREDENTIALS", "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 773, v4563", "password must be changed"),
        ("INVALID_CREDENTIALS", "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 775, v4563", "locked"),
        ("UNWILLING_TO_PERFORM", "Account inactivated. Contact system administrator.", "disabled"),
        ("UNWILLING_TO_PERFORM", "Account (Kerberos principal) is expired", "expired"),
        ("UNWILLING_TO_PERFORM", "Entry permanently locked.\n", "locked"),
        ("UNWILLING_TO_PERFORM", "Too many failed logins.\n", "locked"),
        ("CONSTRAINT_VIOLATION", "Exceed password retry limit. Please try later.", "locked"),
        ("CONSTRAINT_VIOLATION", "Account inactivity limit exceeded. Contact system administrator to reset.", "not used for too long"),
        ("NO_SUCH_OBJECT", "", None),
        ("INAPPROPRIATE_AUTH", "", None),
    ],
)  # fmt: skip
def test_answers_of_other_servers(error: str, text: str, word: str | None) -> None:
    """Active Directory and 389 Directory Server say the state of an account in their own ways."""
    library = pytest.importorskip("ldap", reason="python-ldap is not installed")
    from ftpsd.accounts.sources.ldap.login_results import rejected

    result = rejected(getattr(library, error)({"desc": "x", "info": text}))
    assert result is not None and not result.right
    assert (result.denial.reason if result.denial else None) == word


@pytest.mark.parametrize("error", ["SERVER_DOWN", "UNWILLING_TO_PERFORM", "OPERATIONS_ERROR", "BUSY"])
def test_answers_that_say_nothing(error: str) -> None:
    """An error that is not about the account never counts as a wrong password."""
    library = pytest.importorskip("ldap", reason="python-ldap is not installed")
    from ftpsd.accounts.sources.ldap.login_results import rejected

    kind = getattr(library, error)
    assert rejected(kind({"desc": "x"})) is None and rejected(kind()) is None


# --- servers that fail -----------------------------------------------------------------------------


def test_the_service_account_is_refused(server: Slapd, source: Callable[..., Source]) -> None:
    """A wrong password of the service is a failure that names bind_dn, and never a wrong password of the user."""
    directory = source(server, password="wrong")
    for call in (lambda: ask(directory, "alice"), lambda: ask(directory, "mallory", "x"), directory.probe):
        with pytest.raises(SourceFailed, match="refuses the login of bind_dn") as failed:
            call()
        assert "wrong name or password" in str(failed.value) and SERVICE_PASSWORD not in str(failed.value)


@pytest.mark.parametrize("own", ["security tls=1"], indirect=True)
@pytest.mark.parametrize("tls_mode", ["auto", "starttls"])
def test_down_and_up_again(own: Slapd, source: Callable[..., Source], tls_mode: str) -> None:
    """A server that is down at the start, killed later, or restarted: failures while it is down, logins at once after it.

    The server refuses whatever comes without TLS: no connection is opened again without StartTLS.
    """
    own.kill()
    directory = source(own.tls_url if tls_mode == "auto" else own.url, tls=tls_mode)
    for _ in range(2):
        with pytest.raises(SourceFailed, match="Connection refused"):
            ask(directory, "alice")
        with pytest.raises(SourceFailed, match=r"127\.0\.0\.1.*Connection refused"):
            directory.probe()
        own.start()
        for _ in range(3):
            assert answer(directory, "alice").verified
        directory.probe()
        own.kill()
    own.start()  # while connections to the old process are idle
    assert answer(directory, "alice").verified


@pytest.mark.parametrize("kind", ["ldaps", "starttls", "loopback", "unix"])
def test_a_server_that_hangs(own: Slapd, source: Callable[..., Source], kind: str) -> None:
    """A frozen server costs each login the timeout, whether it is connected or not; then logins work."""
    urls = {"ldaps": own.tls_url, "starttls": own.url, "loopback": own.url, "unix": own.ipc_url}
    directory = source(urls[kind], timeout=1, tls="starttls" if kind == "starttls" else "auto")
    assert answer(directory, "alice").verified
    own.signal(signal.SIGSTOP)
    used = time.process_time()
    for _ in range(2):  # with an idle connection, and without one
        begun = time.monotonic()
        with pytest.raises(SourceFailed, match=r"no answer in time|timed out"):
            ask(directory, "alice")
        assert 0.9 < time.monotonic() - begun < 2.5
    assert time.process_time() - used < 0.5, "the wait is a busy loop"
    own.signal(signal.SIGCONT)
    assert answer(directory, "alice").verified


@pytest.fixture
def two(tmp_path: Path, tls: Path) -> Iterator[tuple[Slapd, Slapd]]:
    """Two servers with the same entries."""
    servers = tuple(Slapd(tmp_path / name, tls, entries()[0]).start() for name in ("first", "second"))
    yield servers[0], servers[1]
    for each in servers:
        each.kill()


def test_the_second_server_takes_over(two: tuple[Slapd, Slapd], source: Callable[..., Source]) -> None:
    """While the first server is dead or frozen, the second one answers, without a wait from the second login on."""
    first, second = two
    directory = source(first, servers=[first.tls_url, second.tls_url], timeout=2)
    assert answer(directory, "alice").verified
    first.signal(signal.SIGSTOP)
    begun = time.monotonic()
    assert answer(directory, "alice").verified
    assert time.monotonic() - begun < 2
    begun = time.monotonic()
    for _ in range(10):
        assert answer(directory, "alice").verified
        with pytest.raises(WrongPassword):
            ask(directory, "alice", "wrong")
    assert time.monotonic() - begun < 0.9
    first.kill()
    assert answer(directory, "alice").verified
    directory.probe()
    second.kill()
    for call in (directory.probe, lambda: ask(directory, "alice")):
        with pytest.raises(SourceFailed) as failed:
            call()
        assert first.tls_url in str(failed.value) and second.tls_url in str(failed.value)
    first.start()
    assert answer(directory, "alice").verified


def test_a_server_that_answers_nonsense(source: Callable[..., Source]) -> None:
    """A port that accepts and closes, says nothing, or speaks another protocol is a failure within the timeout."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        answers = [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x30\x84\xff\xff\xff\xff", b"0" * 100_000, None]
        silent = []

        def serve(data: bytes | None) -> None:
            for _ in range(4):
                connection = listener.accept()[0]
                if data is None:
                    silent.append(connection)
                    continue
                try:
                    connection.settimeout(1)
                    connection.recv(1000)
                    connection.sendall(data)
                except OSError:
                    pass
                connection.close()

        url = f"127.0.0.1:{listener.getsockname()[1]}"
        for data in answers:
            for server in (f"ldap://{url}", f"ldaps://{url}"):
                thread = threading.Thread(target=serve, args=(data,), daemon=True)
                thread.start()
                directory, begun = source(server, timeout=1), time.monotonic()
                with pytest.raises(SourceFailed):
                    ask(directory, "alice")
                assert time.monotonic() - begun < 3
                while thread.is_alive():  # the connections that are left
                    socket.create_connection(listener.getsockname()).close()
                    thread.join(0.05)


# --- many ------------------------------------------------------------------------------------------


def test_logins_at_the_same_time(server: Slapd, source: Callable[..., Source]) -> None:
    """Logins of several users with right and wrong passwords in several threads: each gets the own answer."""
    directory = source(server, attributes={"home": "homeDirectory"})
    wrong: list[str] = []

    def log_in(number: int) -> None:
        for turn in range(50):
            name = ("alice", "Bob", "carol", "mallory")[(number + turn) % 4]
            try:
                found = ask(directory, name, "secret" if turn % 3 else "wrong")
                if found is not None and (found.name != name or not turn % 3):
                    wrong.append(f"{name}: {found}")
                if (found is None) != (name == "mallory"):
                    wrong.append(f"{name}: {found}")
            except WrongPassword:
                if turn % 3 or name == "mallory":
                    wrong.append(f"{name}: wrong password")

    threads = [threading.Thread(target=log_in, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_memory_and_descriptors(server: Slapd, source: Callable[..., Source]) -> None:
    """Thousands of logins need no more memory, connections or descriptors than a few."""
    directory = source(server, groups={"ftp-staff": "staff"}, membership={"base": GROUPS})

    def work(count: int) -> tuple[int, int]:
        for _ in range(count):
            answer(directory, "alice")
            with pytest.raises(WrongPassword):
                ask(directory, "alice", "wrong")
            assert ask(directory, "mallory") is None
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
        return resident, len(os.listdir("/proc/self/fd"))

    work(200)
    before = work(100)
    after = work(700)
    assert after[0] - before[0] < 2_000_000 and after[1] == before[1]
    directory.close()
    assert len(os.listdir("/proc/self/fd")) < before[1]


def test_the_number_of_users_does_not_matter(tmp_path: Path, tls: Path, source: Callable[..., Source]) -> None:
    """Logins among 6,000 users take as long as among a few, and all their names are listed."""
    many = Slapd(
        tmp_path / "many", tls, "".join(person(f"user{number}") for number in range(6000)), "sizelimit unlimited"
    )
    few = Slapd(tmp_path / "few", tls, person("user7"))
    try:
        directories = [source(slapd.start()) for slapd in (few, many)]
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(200):  # in turn: another program that needs the processor delays both
            for directory, durations in zip(directories, times, strict=True):
                begun = time.monotonic()
                answer(directory, "user7")
                durations.append(time.monotonic() - begun)
        assert median(times[1]) < 3 * median(times[0]) + 0.001
        assert len(set(directories[1].names())) == 6000
    finally:
        many.kill()
        few.kill()


def test_a_list_that_the_server_cuts(tmp_path: Path, tls: Path, source: Callable[..., Source]) -> None:
    """A server that lists only a part of the users makes the list fail: it never looks complete."""
    slapd = Slapd(
        tmp_path / "cut", tls, "".join(person(f"user{number}") for number in range(30)), "sizelimit size.prtotal=10"
    )
    try:
        with pytest.raises(SourceFailed, match="size limit"):
            source(slapd.start()).names()
    finally:
        slapd.kill()


#: A login name of Active Directory, and no account of the daemon.
ALONE = {"bind": "{name}@example.com", "bind_dn": None, "password_file": None}


def test_a_login_name_alone_looks_up_nobody(source: Callable[..., Source]) -> None:
    """With a login name and without bind_dn, look-ups and lists end with a clear reason, and contact no server."""
    silent = socket.create_server(("127.0.0.1", 0))
    try:
        silent.setblocking(False)
        directory = source(f"ldap://127.0.0.1:{silent.getsockname()[1]}", **ALONE)
        with pytest.raises(CannotLookUp, match="cannot be looked up without bind_dn"):
            ask(directory, "alice", None)
        with pytest.raises(SourceFailed, match="cannot be listed without bind_dn"):
            directory.names()
        with pytest.raises(BlockingIOError):
            silent.accept()
    finally:
        silent.close()


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key", "problem"),
    [
        ({"servers": []}, "servers", "empty"),
        ({"servers": ["ldap.example.com"]}, "servers.0", "not the URL"),
        ({"servers": ["ldaps://a", "http://b"]}, "servers.1", "not the URL"),
        ({"servers": ["ldaps://user@a"]}, "servers.0", "not the URL"),
        ({"servers": ["ldaps://a:x"]}, "servers.0", "not the URL"),
        ({"servers": ["ldaps://a/dc=example"]}, "servers.0", "not the URL"),
        ({"tls": "off"}, "servers.0", "contradicts"),
        ({"bind_dn": None}, "bind_dn", "missing"),
        ({"password_file": None}, "password_file", "missing"),
        ({"bind_dn": "ftpsd"}, "bind_dn", "not a distinguished name"),
        ({"base": "example.com"}, "base", "not a distinguished name"),
        ({"base": None}, "base", "missing"),
        ({"filter": "(uid=alice)"}, "filter", "has no {name}"),
        ({"filter": "(uid={name}"}, "filter", "not a filter"),
        ({"filter": "(&(uid={name})"}, "filter", "not a filter"),
        ({"filter": "(&(a=b)(|(c={name}x)))"}, "name", "missing"),
        ({"bind": "{name}@example.com"}, "bind", "which bind_dn could read"),
        ({"bind": "uid={name}ou=people"}, "name", "missing"),
        ({"bind": "uid={name},ou"}, "bind", "not a distinguished name"),
        ({"bind": "ftpsd@example.com"}, "bind", "has no {name}"),
        ({"bind": "{name}", "bind_dn": None, "password_file": None, "base": None}, "base", "missing"),
        ({"bind": "{name}", "bind_dn": None, "password_file": None, "filter": "(uid=x)"}, "filter", "has no {name}"),
        ({"attributes": {"hme": "x"}}, "attributes", "hme cannot come"),
        ({"attributes": {"quota": "x"}}, "attributes", "quota cannot come"),
        ({"attributes": {"paths": "x"}}, "attributes", "paths cannot come"),
        ({"attributes": {"quota.bytes.x": "x"}}, "attributes", "cannot come"),
        ({"attributes": {"password": "userPassword"}}, "attributes", "password cannot come"),
        ({**ALONE, "attributes": {"totp": "info"}}, "attributes", "totp cannot be looked up"),
        ({**ALONE, "values": {"totp": "JBSWY3DPEHPK3PXP"}}, "values", "totp cannot be looked up"),
        ({"groups": {"cn": "x", "": "y"}}, "groups", "not a group"),
        ({"required_groups": ["cn=a,b"]}, "required_groups", "not a group"),
        ({"groups": {"a": "b"}, "membership": {"attribute": None}}, "membership", "neither"),
        ({"membership": {"nested": "search"}}, "membership.nested", "needs a search"),
        ({"membership": {"filter": "(member={dn}"}}, "membership.filter", "not a filter"),
    ],
)
def test_settings_that_cannot_be_used(
    source: Callable[..., Source], changes: dict[str, Any], key: str, problem: str
) -> None:
    """Settings that cannot work are faults, each with its key and a remedy."""
    with pytest.raises(UnusableSettings) as unusable:
        source("ldaps://ldap.example.com", **changes)
    assert unusable.value.key == key and problem in unusable.value.problem and unusable.value.remedy
