"""Password hashes: every format that users may have, what a new one costs, and formats that are refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftpsd.accounts import hashes, libcrypt
from ftpsd.cli.main import main
from ftpsd.config.sections.passwords import PasswordSettings
from ftpsd.config.sections.values import Quantity
from tests.conftest import PLAIN
from tests.daemon import Daemon, ftpsd
from tests.ftpclient import FtpClient

#: Hashes of "secret", made with crypt(3), bcrypt and hashlib.
YESCRYPT = "$y$j9T$QA8pbxtTian8vLuRZfYja1$kHJ1rzilRWHR9.2Ha9HOFyxyOzIsQbDl/kjcm2DA66D"
QUICK = "$5$rounds=1000$ftpsdtests$geSfdgweKkmpcWZrZnH5w.qser4CUVtgBW1FBbYAKH."
SLOW = (
    "$6$rounds=656000$wELNvig50Am5Mcra$"
    "N9J8wa6HX6sBLho5HOn1l2Cg1oXFfZIcrI20QS1Txcq0c42mIbf83aTukBak0yKo/2Y9TAREsnnDmUrivbWbh0"
)
ACCEPTED = {
    "yescrypt": YESCRYPT,
    "sha256-crypt": QUICK,
    "{CRYPT} yescrypt": f"{{CRYPT}}{YESCRYPT}",
    "{crypt} sha256-crypt": f"{{crypt}}{QUICK}",
    "{CRYPT} bcrypt": "{CRYPT}$2b$04$JUndrhtwt0vBpawFaXxVAeFonF.81G53mXA6636TNdeJbdwarkjOW",
    "{SHA}": "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
    "{SSHA}": "{SSHA}+RFhsab2AfzZ0VfEdyknXtUT06RhYmNk",
    "{ssha}": "{ssha}SWdNwI9zrKBmRo5SG0mvNQtpZnhhYmNkZWZnaA==",
}
REFUSED = {
    "traditional crypt": "ab01FAX.bQRSU",
    "{CRYPT} traditional": "{CRYPT}ab01FAX.bQRSU",
    "md5-crypt": "$1$abcdefgh$irWbblnpmw.5z7wgBnprh0",
    "{CRYPT} md5-crypt": "{CRYPT}$1$abcdefgh$irWbblnpmw.5z7wgBnprh0",
    "{MD5}": "{MD5}Xr4ilOzQ4PCOq3aQ0qbuaQ==",
    "{CLEARTEXT}": "{CLEARTEXT}secret",
    "a scheme alone": "{SSHA}",
    "no salt": "{SSHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
    "half a yescrypt": "$y$j9T$QA8pbxtTian8vLuRZfYja1$",
    "yescrypt without parameters": "$y$$QA8pbxtTian8vLuRZfYja1$kHJ1rzilRWHR9.2Ha9HOFyxyOzIsQbDl/kjcm2DA66D",
    "argon2 with 4 GiB": "$argon2id$v=19$m=4194304,t=1,p=1$ScQpHdxEtyMGP1txSUD+bw$e+Oh9pbPWnSC+zZuS4ZQWw",
    "argon2 with 100 passes": "$argon2id$v=19$m=102400,t=100,p=1$ScQpHdxEtyMGP1txSUD+bw$e+Oh9pbPWnSC+zZuS4ZQWw",
    "argon2 with 65 lanes": "$argon2id$v=19$m=1024,t=1,p=65$ScQpHdxEtyMGP1txSUD+bw$e+Oh9pbPWnSC+zZuS4ZQWw",
    "argon2 with 6464 threads": "$argon2id$v=19$m=1024,t=101,p=64$ScQpHdxEtyMGP1txSUD+bw$e+Oh9pbPWnSC+zZuS4ZQWw",
    "scrypt with 32 GiB": "$scrypt$ln=25,r=8,p=1$ScQpHdxEtyMGP1txSUD+bw$8cThSr3fEbPsvtlNPLtcSv8cVbYy6KGN/ceiMpHuhlQ",
    "bcrypt of hours": "$2b$31$JUndrhtwt0vBpawFaXxVAeFonF.81G53mXA6636TNdeJbdwarkjOW",
    "sha512-crypt of minutes": SLOW.replace("656000", "999999999"),
    "sha256-crypt of minutes": QUICK.replace("1000", "999999999"),
    "yescrypt with 64 GiB": YESCRYPT.replace("$j9T$", "$jLT$"),
    "yescrypt with more parameters": YESCRYPT.replace("$j9T$", "$j9T//$"),
    "half a surrogate": "$5$rounds=1000$\udcff$geSfdgweKkmpcWZrZnH5w.qser4CUVtgBW1FBbYAKH.",
    "a locked account": "!$6$x$y",
    "nothing": "",
}


@pytest.mark.parametrize("hashed", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(hashed: str) -> None:
    """A hash is valid, the right password matches, and others do not, however strange they are."""
    assert hashes.is_valid(hashed)
    assert hashes.verify("secret", hashed)
    for wrong in ("", "Secret", "secret ", "secre", "secret\0", "\udcff", "x" * 512, "x" * 513, "x" * 2000):
        assert not hashes.verify(wrong, hashed)


@pytest.mark.parametrize("hashed", REFUSED.values(), ids=REFUSED)
def test_refused(hashed: str) -> None:
    """Formats that a computer of today breaks, incomplete hashes, and those that cost too much, are not valid."""
    assert not hashes.is_valid(hashed)


@pytest.mark.parametrize("name", [name for name in REFUSED if not re.search("with|of (hours|minutes)", name)])
def test_refused_hashes_match_nothing(name: str) -> None:
    """A hash that is not valid matches no password, if it comes to that."""
    assert not hashes.verify("secret", REFUSED[name]) and not hashes.verify("", REFUSED[name])


def test_weak() -> None:
    """A hash without salt is weak."""
    assert [name for name, hashed in ACCEPTED.items() if hashes.is_weak(hashed)] == ["{SHA}"]


@pytest.mark.parametrize("setting", ["$5$rounds=1000$ftpsdtests", "$6$rounds=1000$ftpsdtests", "$y$j8T$abcdefgh"])
@pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")
def test_long_passwords(setting: str) -> None:
    """Of crypt(3), a password of 511 bytes can be right, and a longer one is wrong, also if it begins like that."""
    line = ["perl", "-e", "print crypt('x' x 511, $ARGV[0])", setting]
    hashed = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout
    assert hashes.verify("x" * 511, hashed)
    assert not any(hashes.verify("x" * length, hashed) for length in (510, 512, 513, 600, 1024))


def test_long_passwords_cost_the_same() -> None:
    """A password that is too long for libcrypt is hashed there, too: passlib would stop the reactor for seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashes, "_verify_with_passlib", pytest.fail)
        assert not hashes.verify("x" * 1024, SLOW)
    durations = []
    for length in (511, 1024):
        before = time.process_time()
        assert not hashes.verify("x" * length, SLOW)
        durations.append(time.process_time() - before)
    assert 0.5 < durations[1] / durations[0] < 2


@pytest.mark.skipif(shutil.which("slappasswd", path="/usr/sbin:/usr/bin") is None, reason="slappasswd is not installed")
@pytest.mark.parametrize("scheme", ["{SSHA}", "{SHA}", "{SSHA256}", "{SSHA512}", "{CRYPT}", "{ARGON2}"])
def test_openldap(scheme: str) -> None:
    """What OpenLDAP makes is accepted."""
    modules = {"{SSHA256}": "pw-sha2", "{SSHA512}": "pw-sha2", "{ARGON2}": "argon2"}
    more = ["-o", f"module-load={modules[scheme]}"] if scheme in modules else []
    more += ["-c", "$6$%.16s"] if scheme == "{CRYPT}" else ["-h", scheme]
    line = ["/usr/sbin/slappasswd", "-n", *more, "-s", "pass wörd"]
    hashed = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout
    assert hashed.startswith(scheme) and hashes.is_valid(hashed)
    assert hashes.verify("pass wörd", hashed) and not hashes.verify("pass word", hashed)


@pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")
@pytest.mark.parametrize(
    "setting", ["$y$j8T$abcdefgh", "$y$j9T$LdJMENpBABJJ3hIHjB1Bi.", "$6$abc", "$5$rounds=2000$abc"]
)
def test_the_crypt_of_another_program(setting: str) -> None:
    """What crypt(3) makes in another program is accepted, as it is in /etc/shadow."""
    line = ["perl", "-e", "print crypt($ARGV[0], $ARGV[1])", "pass word", setting]
    hashed = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout
    assert hashes.is_valid(hashed) and hashes.verify("pass word", hashed) and not hashes.verify("pass", hashed)


@pytest.mark.parametrize("hashed", [SLOW, YESCRYPT, hashes.make("secret")], ids=["sha512-crypt", "yescrypt", "argon2"])
def test_other_threads_run(hashed: str) -> None:
    """While a worker thread hashes, the reactor's thread runs: no format keeps the interpreter lock."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    hashing = threading.Thread(target=lambda: [hashes.verify("secret", hashed) for _ in range(10)])
    ticks = 0
    try:
        started = time.monotonic()
        hashing.start()
        while hashing.is_alive():
            time.sleep(0.001)
            ticks += 1
    finally:
        sys.setswitchinterval(before)
        hashing.join()
    assert ticks > (time.monotonic() - started) / 0.02  # with the lock there would be one for each hash


def test_where_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libxcrypt yescrypt is not valid, and sha512-crypt is verified by passlib."""
    monkeypatch.setattr(libcrypt, "_LIBRARY", None)
    monkeypatch.setattr(hashes, "_shapes", {})
    assert not hashes.is_valid(YESCRYPT) and not hashes.verify("secret", YESCRYPT)
    assert hashes.is_valid(QUICK) and hashes.verify("secret", QUICK)


def test_weak_hashes_are_warned_of(make_daemon: Callable[..., Daemon], capsys: pytest.CaptureFixture[str]) -> None:
    """`ftpsd check` names users whose hashes have no salt, and no others."""
    users: dict[str, Any] = {f"user{number}": {"password": ACCEPTED["{SHA}"]} for number in range(7)}
    daemon = make_daemon(start=False, users={**users, "alice": {"password": ACCEPTED["{SSHA}"]}})
    assert main(["check", "-c", str(daemon.config)]) == 0
    out, err = capsys.readouterr()
    assert len(re.findall(r"the hashes of user\d(, user\d){4} and 2 others have no salt", out + err)) == 1
    assert "alice" not in out + err


# --- the cost of new hashes --------------------------------------------------------------------------


def test_the_parameters_of_a_hash() -> None:
    """A new hash is argon2id with the configured parameters; the defaults are 46 MiB and one pass."""
    assert hashes.make("secret").startswith("$argon2id$v=19$m=47104,t=1,p=1$")
    made = hashes.make("secret", PasswordSettings(Quantity(8 << 20), 2, 3))
    assert made.startswith("$argon2id$v=19$m=8192,t=2,p=3$") and hashes.verify("secret", made)


def _configured(directory: Path, daemon: Daemon, passwords: str) -> list[str]:
    daemon.config.write_text(f"{daemon.config.read_text()}\npasswords: {passwords}\n")
    return ["-c", str(daemon.config)]


def test_commands_obey_the_parameters(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """`ftpsd passwd -c` and `ftpsd user` make hashes with the parameters of the configuration."""
    daemon = make_daemon(start=False)
    options = _configured(tmp_path, daemon, "{memory: 2M, iterations: 2, parallelism: 2}")
    made = subprocess.run(
        ftpsd("passwd", *options), input="x\n", capture_output=True, text=True, timeout=60, check=True
    )
    assert made.stdout.startswith("$argon2id$v=19$m=2048,t=2,p=2$")
    home = str(tmp_path / "home")
    assert main(["user", "add", "carol", *options, "--generate", "--home", home]) == 0
    text = (daemon.directory / "users.d" / "carol.yaml").read_text()
    assert "$argon2id$v=19$m=2048,t=2,p=2$" in text
    assert main(["user", "passwd", "carol", *options, "--generate"]) == 0
    after = (daemon.directory / "users.d" / "carol.yaml").read_text()
    assert "$argon2id$v=19$m=2048,t=2,p=2$" in after and after != text


@pytest.mark.parametrize(
    ("passwords", "fault"),
    [
        ("{memory: 1000}", "passwords.memory: 1000 bytes are too few to resist guessing. Write 19M or more."),
        ("{memory: 2T}", "passwords.memory: 2199023255552 bytes for each login are too many. Write 1G or less."),
        ("{iterations: 0}", "passwords.iterations: 0 is out of range. Write a number from 1 to 100."),
        ("{parallelism: 65}", "passwords.parallelism: 65 is out of range. Write a number from 1 to 64."),
        ("{rounds: 3}", "passwords.rounds: unknown key."),
    ],
)
def test_faults(
    make_daemon: Callable[..., Daemon],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    passwords: str,
    fault: str,
) -> None:
    """Parameters that cannot be used are faults of `ftpsd check`; commands that make hashes fail, and change nothing."""
    daemon = make_daemon(start=False)
    options = _configured(tmp_path, daemon, passwords)
    assert main(["check", *options]) == 1
    out, err = capsys.readouterr()
    assert fault in out + err
    home = str(tmp_path / "home")
    assert main(["user", "add", "carol", *options, "--generate", "--home", home]) == (0 if "rounds" in passwords else 1)
    assert (fault in capsys.readouterr().err) == ("rounds" not in passwords)
    assert Path(home).exists() == ("rounds" in passwords)


@pytest.mark.parametrize("name", ["yescrypt", "{SSHA}", "{SHA}", "{CRYPT} bcrypt"])
def test_logins(make_daemon: Callable[..., Daemon], name: str) -> None:
    """Users whose hashes come from /etc/shadow or from an LDAP server log in."""
    users: dict[str, Any] = {"alice": {"password": ACCEPTED[name]}}
    daemon = make_daemon(PLAIN, users)
    with FtpClient(daemon) as client:
        client.command("USER alice")
        client.expect(530, "PASS wrong")
        client.login()
