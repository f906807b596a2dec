"""Users in Active Directory: the source, and a daemon with the documented example, against a real domain (Samba)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftpsd.accounts.sources.source import CannotLookUp, Source, SourceFailed, WrongPassword
from tests.daemon import Daemon, ftpsd
from tests.ftpclient import FtpClient
from tests.ldap_daemon import log_in, wait_for_login
from tests.ldap_sources import answer, ask, denied, source_maker
from tests.samba_dc import (
    DOMAIN,
    GROUPS,
    PASSWORD,
    REALM,
    SERVICE,
    SERVICES,
    STAFF,
    SUFFIX,
    SambaDc,
    domain_directory,
    group,
    provision,
    unit,
    user,
)

pytest.importorskip("ldap", reason="python-ldap is not installed")

ROOT = Path(__file__).parents[1]

#: A common name with everything that distinguished names and filters escape, in both forms.
SPECIAL, SPECIAL_DN = "Berger, Bernd (Büro) \\ #1 *", "Berger\\, Bernd (Büro) \\\\ #1 *"

#: The states in which the server refuses an account: the log's word, and what the client is told with the right password.
STATES = {
    "off": ("disabled", "Account disabled."),
    "must": ("password must be changed", "Password must be changed."),
    "old": ("password expired", "Password expired."),
    "ended": ("expired", "Account expired."),
    "hours": ("hours", "Login not allowed at this time."),
    "station": ("network", "Login not allowed from here."),
}


def dn(cn: str) -> str:
    """Return the distinguished name of a user of the staff."""
    return f"CN={cn},{STAFF}"


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new domain, to be copied."""
    return provision(domain_directory(tmp_path_factory))


def fill(server: SambaDc) -> None:
    """Add people, groups and the account of the service."""
    server.add(
        unit(STAFF),
        unit(GROUPS),
        unit(SERVICES),
        user("ftpsd", "ftpsd", SERVICES),
        user("Anna Adams", "Anna", userPrincipalName=f"anna.adams@{REALM}"),
        user(SPECIAL_DN, "bernd"),
        user("Jürgen Müller", "jürgen"),
        user("Carol", "carol"),
        user("Dora", "dora"),
        user("dora", "impostor", SERVICES, password="Other-Password-3"),
        user("Off", "off", userAccountControl="514"),
        user("Must", "must", pwdLastSet="0"),
        user("Old", "old"),
        user("Ended", "ended", accountExpires="132539328000000000"),
        user("Hours", "hours", logonHours=b"\0" * 21),
        user("Station", "station", userWorkstations="PC1"),
        user("Locked", "locked"),
        user("Guessed", "guessed"),
        group("Inner, A (x) \\\\ *".replace(",", "\\,"), [dn("Anna Adams"), dn(SPECIAL_DN)]),
        group("Middle", [f"CN=Inner\\, A (x) \\\\ *,{GROUPS}"]),
        group("FTP Staff", [f"CN=Middle,{GROUPS}", dn("Jürgen Müller")]),
        group("Primary", [dn("Carol")]),
        group("Around Primary", [f"CN=Primary,{GROUPS}"]),
    )
    server.make_primary(dn("Carol"), f"CN=Primary,{GROUPS}")
    server.age_password("old", 100)
    server.modify(SUFFIX, lockoutThreshold="3")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, domain: Path) -> Iterator[SambaDc]:
    """A domain controller that no test stops."""
    samba = SambaDc(tmp_path_factory.mktemp("samba") / "dc", domain).start()
    try:
        fill(samba)
        yield samba
    finally:
        samba.kill()


@pytest.fixture
def source(server: SambaDc, tmp_path: Path) -> Iterator[Callable[..., Source]]:
    """Return a function that makes sources with settings of their own; None removes a key."""
    with source_maker(
        PASSWORD,
        servers=[server.tls_url],
        ca_file=str(server.ca),
        bind_dn=SERVICE,
        password_file=str(tmp_path / "password"),
        base=STAFF,
        filter="(&(objectCategory=person)(objectClass=user)(sAMAccountName={name}))",
        values={"home": "/srv/ftp/{user}"},
    ) as new:
        yield new


#: Settings without an account of the daemon.
ALONE = {"bind_dn": None, "password_file": None}


def enter(source: Source, name: str, password: str | None = PASSWORD) -> str:
    """Return the canonical name of a user who logs in."""
    found = answer(source, name, password)
    assert found.verified == (password is not None)
    return found.name


def test_search_and_bind(server: SambaDc, source: Callable[..., Source]) -> None:
    """Users log in by sAMAccountName, whatever the case, with LDAPS and with StartTLS; others and wrong passwords do not."""
    for settings in ({}, {"servers": [server.url], "tls": "starttls"}, {"base": SUFFIX}):
        directory = source(**settings)
        directory.probe()
        assert [enter(directory, name) for name in ("anna", "ANNA", "Jürgen", "JÜRGEN", "bernd")] == [
            "Anna", "Anna", "jürgen", "jürgen", "bernd",
        ]  # fmt: skip
        assert enter(directory, "anna", None) == "Anna"
        with pytest.raises(WrongPassword):
            ask(directory, "anna", "wrong")
        for name in ("nobody", "*", "anna)(cn=*", f"anna@{REALM}", f"{DOMAIN}\\anna", dn("Anna Adams")):
            assert ask(directory, name, PASSWORD) is None, name
        assert {"Anna", "bernd", "jürgen"} <= set(directory.names())


def test_names_of_every_kind(source: Callable[..., Source]) -> None:
    """With a filter for several attributes, a user has one name, whether sAMAccountName, userPrincipalName or cn is sent."""
    directory = source(
        filter="(&(objectClass=user)(|(sAMAccountName={name})(userPrincipalName={name})(cn={name})))",
        name="sAMAccountName",
    )
    assert {enter(directory, each) for each in ("anna", f"Anna.Adams@{REALM}", "anna adams")} == {"Anna"}
    assert enter(directory, SPECIAL) == "bernd"
    assert enter(source(bind=f"CN={{name}},{STAFF}", name="sAMAccountName"), SPECIAL) == "bernd"
    by_principal = source(filter="(userPrincipalName={name})")
    assert enter(by_principal, f"ANNA.adams@{REALM}") == f"anna.adams@{REALM}"


@pytest.mark.parametrize("template", [f"{{name}}@{REALM}", f"{DOMAIN}\\{{name}}"], ids=["principal", "domain"])
def test_bind_with_a_login_name(source: Callable[..., Source], template: str) -> None:
    """Without an account of the daemon, users log in with a template of Active Directory's login names."""
    directory = source(**ALONE, bind=template)
    directory.probe()
    for _ in range(2):
        assert [enter(directory, name) for name in ("anna", "JÜRGEN", "bernd")] == ["Anna", "jürgen", "bernd"]
        for name, password in (("anna", "wrong"), ("anna", ""), ("nobody", PASSWORD), ("*", PASSWORD)):
            with pytest.raises(WrongPassword):
                ask(directory, name, password)
    with pytest.raises(CannotLookUp):
        ask(directory, "anna", None)
    with pytest.raises(SourceFailed, match="cannot be listed without bind_dn"):
        directory.names()
    groups = {"groups": {"FTP Staff": "staff"}, "membership": {"base": GROUPS, "nested": "active-directory"}}
    assert answer(source(**ALONE, bind=template, **groups), "bernd", PASSWORD).values["groups"] == ["staff"]
    for name, (word, _) in STATES.items():
        if name != "station":
            assert denied(directory, name, PASSWORD) == word


def test_the_whole_login_name(source: Callable[..., Source]) -> None:
    """Users may send their principal names; a name in another form, which the server takes, is of no entry."""
    directory = source(**ALONE, bind="{name}", filter="(userPrincipalName={name})", name="sAMAccountName")
    assert enter(directory, f"anna.adams@{REALM}") == "Anna"
    for name in (f"{DOMAIN}\\anna", dn("Anna Adams"), f"ftpsd@{REALM}"):
        assert denied(directory, name, PASSWORD) == "outside base, or not matched by filter"
        with pytest.raises(WrongPassword):
            ask(directory, name, "wrong")


def test_a_password_of_another_account(source: Callable[..., Source]) -> None:
    """The password must be of the entry that the filter finds, even if the server knows the name for another account."""
    for settings in ({"base": SERVICES}, {"base": SUFFIX, "filter": "(&(cn={name})(sAMAccountName=impostor))"}):
        directory = source(**ALONE, **{"bind": f"{DOMAIN}\\{{name}}", "filter": "(cn={name})", **settings})
        with pytest.raises(WrongPassword):
            ask(directory, "dora", PASSWORD)  # it is the password of the account dora, and the entry is the impostor's
        with pytest.raises(WrongPassword):
            ask(directory, "dora", "Other-Password-3")


MAPPING = {
    f"CN=FTP Staff,{GROUPS}": "staff",
    f"cn=inner\\2c a (x) \\\\ *,{GROUPS}": "inner",
    "primary": "primary",
    "around primary": "around",
    "Domain Users": "everybody",
    "Guests": "guests",
}


@pytest.mark.parametrize(
    ("membership", "expected"),
    [
        ({}, {"anna": ["inner"], "jürgen": ["staff"], "carol": ["everybody"]}),
        ({"base": GROUPS, "attribute": None}, {"anna": ["inner"], "bernd": ["inner"]}),
        ({"base": GROUPS, "nested": "search"}, {"anna": ["staff", "inner"], "bernd": ["staff", "inner"]}),
        (
            {"base": SUFFIX, "nested": "active-directory"},
            {
                "anna": ["staff", "inner", "everybody"],
                "bernd": ["staff", "inner", "everybody"],
                "jürgen": ["staff", "everybody"],
                "carol": ["primary", "around", "everybody"],
            },
        ),
        (
            {"base": GROUPS, "nested": "active-directory", "attribute": None},
            {"carol": ["primary", "around"], "dora": []},
        ),
    ],
    ids=["memberOf", "member", "search", "active-directory", "part"],
)
def test_groups(source: Callable[..., Source], membership: dict[str, str], expected: dict[str, list[str]]) -> None:
    """Groups, groups within groups and the primary group are found, also with special characters in their names."""
    for base in (STAFF, SUFFIX):
        directory = source(base=base, groups=MAPPING, membership=membership)
        found = {name: answer(directory, name, PASSWORD).values.get("groups", []) for name in expected}
        assert found == expected


def test_groups_in_portions(server: SambaDc, source: Callable[..., Source]) -> None:
    """If the server returns memberOf in portions, as Windows does for 1,500 groups and more, all groups count."""
    names = [f"Portion {number}" for number in range(5)]
    server.add(user("Member", "member"), *(group(name, [dn("Member")]) for name in names))
    directory = source(groups={name: name.replace(" ", "") for name in names})
    wanted = ["memberOf;range=0-1" if each == "memberOf" else each for each in directory._attributes]  # type: ignore[attr-defined]
    directory._attributes = wanted  # type: ignore[attr-defined]
    assert len(answer(directory, "member", PASSWORD).values["groups"]) == 5  # type: ignore[arg-type]
    assert "groups" not in answer(directory, "carol", PASSWORD).values


def test_only_members(source: Callable[..., Source]) -> None:
    """The primary group lets its members log in, and no others."""
    directory = source(required_groups=["Primary"], membership={"base": SUFFIX, "nested": "active-directory"})
    assert enter(directory, "carol") == "carol"
    assert denied(directory, "anna", PASSWORD) == "group"


@pytest.mark.parametrize("name", STATES)
def test_states_of_accounts(source: Callable[..., Source], name: str) -> None:
    """With the right password, a refusal says why; a wrong one is wrong, and tells nothing about the account."""
    directory = source()
    assert denied(directory, name, PASSWORD) == STATES[name][0]
    with pytest.raises(WrongPassword):
        ask(directory, name, "wrong")


@pytest.mark.parametrize("name", ["Old", "Must", "Off"])
def test_the_account_of_the_daemon_is_refused(source: Callable[..., Source], name: str) -> None:
    """A state of the account that searches is a failure of the source that says which, and never a wrong password."""
    directory = source(bind_dn=dn(name))
    for call in (directory.probe, lambda: ask(directory, "anna", PASSWORD), lambda: ask(directory, "anna", "wrong")):
        with pytest.raises(SourceFailed, match=f"refuses the login of bind_dn: {STATES[name.lower()][0]}"):
            call()


def test_a_locked_account(server: SambaDc, source: Callable[..., Source]) -> None:
    """Three wrong passwords lock an account for every password; the administrator unlocks it."""
    directory = source()
    for _ in range(3):
        with pytest.raises(WrongPassword):
            ask(directory, "locked", "wrong")
    assert denied(directory, "locked", PASSWORD) == denied(directory, "locked", "wrong") == "locked"
    server.modify(dn("Locked"), lockoutTime="0")
    assert enter(directory, "locked") == "locked"


def test_attributes(source: Callable[..., Source]) -> None:
    """What userAccountControl and accountExpires say becomes keys of the user."""
    directory = source(attributes={"enabled": "userAccountControl", "expires": "accountExpires"})
    found = {name: answer(directory, name, None).values for name in ("anna", "off", "ended")}
    assert {name: values["enabled"] for name, values in found.items()} == {"anna": True, "off": False, "ended": True}
    assert [values["expires"] for values in found.values()] == [None, None, "2021-01-01 00:00:00+00:00"]


def test_a_user_is_renamed(server: SambaDc, source: Callable[..., Source]) -> None:
    """A user who has another name or place has it at the next login, and the old name is nobody's."""
    server.add(user("Before", "before"))
    directory = source(groups=MAPPING)
    assert enter(directory, "before") == "before"
    server.rename(dn("Before"), "CN=After\\, Anton")
    assert enter(directory, "before") == "before"
    server.modify(dn("After\\, Anton"), sAMAccountName="after", userPrincipalName=f"after@{REALM}")
    assert enter(directory, "after") == "after"
    assert ask(directory, "before", PASSWORD) is None


def test_a_password_is_changed(server: SambaDc, source: Callable[..., Source]) -> None:
    """A new password counts at once. The server takes the old one for an hour, too, as Samba does by default."""
    server.add(user("Changer", "changer"))
    directory = source()
    server.set_password(dn("Changer"), "Other-Password-4")
    for password in ("Other-Password-4", PASSWORD):
        assert enter(directory, "changer", password) == "changer"
    server.set_password(dn("Changer"), "Other-Password-5")
    with pytest.raises(WrongPassword):
        ask(directory, "changer", PASSWORD)


def test_plain_text_is_refused(server: SambaDc, source: Callable[..., Source]) -> None:
    """A domain controller accepts no password without TLS: a failure that says so, and never a wrong password."""
    for settings in ({}, {**ALONE, "bind": f"{{name}}@{REALM}"}):
        with pytest.raises(SourceFailed, match="Transport encryption required"):
            ask(source(servers=[server.url], ca_file=None, **settings), "anna", PASSWORD)


# --- the documented example ------------------------------------------------------------------------


def example(server: SambaDc, directory: Path, number: int = 0) -> dict[str, Any]:
    """Return settings with an example in docs/users-ldap.md. Make the homes below a directory."""
    (directory / "password").write_text(PASSWORD + "\n")
    (directory / "password").chmod(0o640)
    text = (ROOT / "docs/users-ldap.md").read_text().partition("\n## Active Directory\n")[2]
    source = yaml.safe_load(text.split("```yaml\n")[number + 1].partition("```")[0])["users"]["sources"][0]
    source |= {"servers": [server.tls_url], "ca_file": str(server.ca)}
    if "password_file" in source:
        source["password_file"] = str(directory / "password")
    source["values"]["home"] = str(directory / "ftp/{user}")
    for name in ("Anna", "bernd", "jürgen", "carol"):
        (directory / "ftp" / name).mkdir(parents=True)
    return {
        "users": {"sources": [source], "cache": {"seconds": 0, "stale_seconds": 0}},
        "sandbox": {"homes": [str(directory / "ftp")]},
        "bans": {"attempts": 100, "allow": []},
    }


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], server: SambaDc, tmp_path: Path) -> Daemon:
    """A daemon with the documented example."""
    daemon = make_daemon(example(server, tmp_path), start=False)
    daemon.groups = {"staff": {"permissions": "read-only"}}
    daemon.write()
    return daemon


def test_the_example(daemon: Daemon, tmp_path: Path) -> None:
    """With the documented example, staff have the keys of their group, and each refusal has its reason."""
    checked = subprocess.run(
        [*ftpsd("check", "-c", str(daemon.config)), "--online"], capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked
    daemon.start()
    for name, home in (("anna", "Anna"), ("BERND", "bernd"), ("jürgen", "jürgen")):
        (tmp_path / "ftp" / home / "file").write_text("x")
        with FtpClient(daemon) as client:
            client.start_tls()
            client.login(name, PASSWORD)
            assert client.download("NLST") == b"file\r\n"
            assert client.command("MKD new").startswith("550 ")
    with FtpClient(daemon) as client:
        client.start_tls()
        client.login("carol", PASSWORD)
        assert client.command("MKD new").startswith("257 ")
    for name in (*STATES, "anna", "nobody"):
        assert log_in(daemon, name, "wrong").startswith("530 Login incorrect"), name
    for name, (word, sentence) in STATES.items():
        assert log_in(daemon, name, PASSWORD) == f"530 {sentence}"
        why = "" if word in sentence.lower() else f" ({word})"
        daemon.wait_for_log(re.escape(f"refused: {sentence}{why}"))
    for _ in range(3):
        assert log_in(daemon, "guessed", "wrong").startswith("530 Login incorrect")
    assert log_in(daemon, "guessed", PASSWORD) == "530 Login incorrect."
    daemon.wait_for_log(re.escape("refused: Login incorrect. (locked)"))
    assert "Traceback" not in daemon.log and PASSWORD not in daemon.log


def test_the_example_without_an_account(make_daemon: Callable[..., Daemon], server: SambaDc, tmp_path: Path) -> None:
    """With the second example, users log in with nothing but their own passwords, and the rest of the domain does not."""
    daemon = make_daemon(example(server, tmp_path, 1))
    for name in ("ANNA", "jürgen"):
        assert log_in(daemon, name, PASSWORD).startswith("230 ")
    assert log_in(daemon, "anna", "wrong") == log_in(daemon, "nobody", PASSWORD) == "530 Login incorrect."
    assert log_in(daemon, "ftpsd", PASSWORD) == "530 Login not allowed."
    daemon.wait_for_log(re.escape("refused: Login not allowed. (outside base, or not matched by filter)"))


def test_a_domain_controller_that_is_down(make_daemon: Callable[..., Daemon], domain: Path, tmp_path: Path) -> None:
    """While the server is down, at the start or later, logins get 451, and the log says why; then they work again."""
    samba = SambaDc(tmp_path / "dc", domain)
    daemon = make_daemon(example(samba, tmp_path), start=False)
    daemon.groups = {"staff": {}}
    daemon.write()
    daemon.start()
    try:
        assert log_in(daemon, "anna", PASSWORD).startswith("451 ")
        daemon.wait_for_log(f"LDAP server {samba.tls_url}: Connection refused")
        samba.start()
        fill(samba)
        wait_for_login(daemon, "anna", PASSWORD)
        samba.kill()
        assert log_in(daemon, "anna", PASSWORD).startswith("451 ")
        samba.start()
        wait_for_login(daemon, "anna", PASSWORD)
    finally:
        samba.kill()
