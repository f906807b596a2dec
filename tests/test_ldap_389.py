"""Users in a real 389 Directory Server, which is the directory of FreeIPA: the source, and the documented example."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from ftpsd.accounts.sources.source import LoginDenied, Source, SourceFailed, WrongPassword
from tests.daemon import Daemon
from tests.dirsrv import GROUPS, PEOPLE, SERVICE, Dirsrv, person
from tests.ftpclient import FtpClient
from tests.ldap_daemon import log_in, wait_for_login
from tests.ldap_sources import answer, ask, denied, source_maker
from tests.slapd import SERVICE_PASSWORD, SUFFIX, entry

pytest.importorskip("ldap", reason="python-ldap is not installed")

ROOT = Path(__file__).parents[1]

#: The states in which the server refuses an account: the log's word, and whether a wrong password is told apart.
STATES = {
    "off": ("disabled", False),
    "old": ("password expired", True),
    "must": ("password must be changed", True),
    "idle": ("not used for too long", False),
}

_NAMES = ("anna", "Berta", "carl", "ended", "locked", *STATES)


def ldif() -> str:
    """Return people, groups within groups, and the policy of accounts that nobody uses."""
    people = [person(name) for name in _NAMES if name != "ended"]
    return "".join(
        [
            *people,
            person("ended", krbPrincipalExpiration="20200101000000Z"),
            entry(
                f"cn=Dora\\, Q (x) \\\\ ü,{PEOPLE}", "inetOrgPerson", cn="Dora, Q (x) \\ ü", sn="Q", uid="dora", userPassword="secret"
            ),
            entry(f"cn=unused,{SUFFIX}", "ldapSubEntry", "extensibleObject", "accountPolicy", cn="unused", accountInactivityLimit=1),
            entry(f"cn=inner,{GROUPS}", "groupOfNames", cn="inner", member=[f"uid=anna,{PEOPLE}", f"cn=Dora\\, Q (x) \\\\ ü,{PEOPLE}"]),
            entry(f"cn=ftp-staff,{GROUPS}", "groupOfNames", cn="ftp-staff", member=f"cn=inner,{GROUPS}"),
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dirsrv]:
    """A server with people in every state."""
    server = Dirsrv(tmp_path_factory.mktemp("dirsrv") / "server", ldif()).start()
    try:
        server.replace(
            "cn=config",
            {"passwordLockout": "on", "passwordMaxFailure": 3, "passwordExp": "on", "passwordMustChange": "on"},
        )
        server.replace(f"uid=off,{PEOPLE}", {"nsAccountLock": "true"})
        server.replace(f"uid=old,{PEOPLE}", {"passwordExpirationTime": "20200101000000Z"})
        server.replace(f"uid=must,{PEOPLE}", {"userPassword": "secret"})
        server.replace(f"uid=idle,{PEOPLE}", {"acctPolicySubentry": f"cn=unused,{SUFFIX}"})
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(made: Dirsrv) -> Dirsrv:
    """The server, which runs, whatever the test before did."""
    return made if made.process is not None else made.start()


@pytest.fixture
def source(server: Dirsrv, tmp_path: Path) -> Iterator[Callable[..., Source]]:
    """Return a function that makes sources with settings of their own; None removes a key."""
    with source_maker(
        SERVICE_PASSWORD,
        servers=[server.tls_url],
        ca_file=str(server.ca),
        bind_dn=SERVICE,
        password_file=str(tmp_path / "password"),
        base=PEOPLE,
        values={"home": "/srv/ftp/{user}"},
    ) as new:
        yield new


def test_logins(server: Dirsrv, source: Callable[..., Source]) -> None:
    """Users log in by uid, with LDAPS and StartTLS, by search and by template; others and wrong passwords do not."""
    alone = {"bind_dn": None, "password_file": None, "base": None}
    for settings in (
        {},
        {"servers": [server.url], "tls": "starttls"},
        {"bind": f"uid={{name}},{PEOPLE}"},
        {"bind": f"uid={{name}},{PEOPLE}", **alone},
    ):
        directory = source(**settings)
        directory.probe()
        for name in ("anna", "ANNA", "berta"):
            found = answer(directory, name)
            assert found.verified and found.name == {"anna": "anna", "berta": "Berta"}[name.lower()]
            for wrong in ("wrong", ""):
                with pytest.raises(WrongPassword):
                    ask(directory, "anna", wrong)
        answer(directory, "anna")  # so that wrong passwords do not add up
        for name in ("nobody", "*", "anna)(uid=*", f"anna,{PEOPLE}"):
            try:
                assert ask(directory, name) is None
            except WrongPassword:
                assert settings.get("bind_dn", "") is None
    directory = source()
    assert {"anna", "Berta", "dora", *STATES} <= set(directory.names())
    assert answer(source(filter="(cn={name})", name="uid"), "dora, q (x) \\ Ü").name == "dora"


@pytest.mark.parametrize(
    ("membership", "expected"),
    [
        ({}, ["staff", "inner"]),
        ({"attribute": None, "base": GROUPS}, ["inner"]),
        ({"attribute": None, "base": GROUPS, "nested": "search"}, ["staff", "inner"]),
    ],
    ids=["memberOf", "member", "search"],
)
def test_groups(source: Callable[..., Source], membership: dict[str, str], expected: list[str]) -> None:
    """The plugin for memberOf lists groups within groups; without it, searches find them."""
    directory = source(groups={"ftp-staff": "staff", f"cn=inner,{GROUPS}": "inner"}, membership=membership)
    for name, groups in (("anna", expected), ("dora", expected), ("berta", [])):
        assert answer(directory, name).values.get("groups", []) == groups


@pytest.mark.parametrize("name", STATES)
def test_states_of_accounts(source: Callable[..., Source], name: str) -> None:
    """A refusal of an account is no failure of the server and no wrong password, and tells a stranger nothing."""
    word, told_apart = STATES[name]
    directory = source()
    assert denied(directory, name) == word
    if told_apart:
        with pytest.raises(WrongPassword):
            ask(directory, name, "wrong")
        return
    with pytest.raises(LoginDenied) as wrong:
        ask(directory, name, "wrong")
    assert (wrong.value.reason, wrong.value.word) == ("Login incorrect.", word)


def test_a_locked_account(source: Callable[..., Source]) -> None:
    """Three wrong passwords lock an account for every password."""
    directory = source()
    for _ in range(3):
        with pytest.raises(WrongPassword):
            ask(directory, "locked", "wrong")
    assert denied(directory, "locked") == denied(directory, "locked", "wrong") == "locked"
    assert answer(directory, "anna").verified


def test_down_and_up_again(server: Dirsrv, source: Callable[..., Source]) -> None:
    """While the server is stopped, logins fail with the reason; after the restart they work again."""
    directory = source()
    assert answer(directory, "anna").verified
    server.kill(signal.SIGTERM)
    for call in (lambda: ask(directory, "anna"), directory.probe):
        with pytest.raises(SourceFailed, match="Connection refused"):
            call()
    server.start()
    assert answer(directory, "anna").verified


# --- the documented example ------------------------------------------------------------------------


def test_the_example(make_daemon: Callable[..., Daemon], server: Dirsrv, tmp_path: Path) -> None:
    """The example of FreeIPA: members have the keys of their group, refusals get 530, and 451 means that it is down."""
    (tmp_path / "password").write_text(SERVICE_PASSWORD + "\n")
    (tmp_path / "password").chmod(0o640)
    text = (ROOT / "docs/users-ldap.md").read_text().partition("\n## FreeIPA\n")[2]
    settings = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])["users"]["sources"][0]
    settings |= {"servers": [server.tls_url], "ca_file": str(server.ca), "password_file": str(tmp_path / "password")}
    settings["values"]["home"] = str(tmp_path / "ftp/{user}")
    for name in ("anna", "Berta", "ended"):
        (tmp_path / "ftp" / name).mkdir(parents=True)
    users = {"sources": [settings], "cache": {"seconds": 0, "stale_seconds": 0}}
    daemon = make_daemon(
        {"users": users, "sandbox": {"homes": [str(tmp_path / "ftp")]}, "bans": {"attempts": 100, "allow": []}},
        start=False,
    )
    daemon.groups = {"staff": {"permissions": "read-only"}}
    daemon.write()
    daemon.start()
    for name, reply in (("anna", "550 "), ("berta", "257 ")):
        with FtpClient(daemon) as client:
            client.start_tls()
            client.login(name, "secret")
            assert client.command("MKD new").startswith(reply)
    assert log_in(daemon, "anna", "wrong") == log_in(daemon, "nobody") == "530 Login incorrect."
    assert log_in(daemon, "ended") == "530 Account expired."
    assert log_in(daemon, "old") == "530 Password expired."
    assert log_in(daemon, "must") == "530 Password must be changed."
    for name in ("off", "idle"):
        assert log_in(daemon, name) == "530 Login incorrect."
        daemon.wait_for_log(re.escape(f"refused: Login incorrect. ({STATES[name][0]})"))
    server.kill()
    assert log_in(daemon, "berta").startswith("451 ")
    daemon.wait_for_log(f"LDAP server {server.tls_url}: Connection refused")
    server.start()
    wait_for_login(daemon, "berta")
    assert "Traceback" not in daemon.log and SERVICE_PASSWORD not in daemon.log
