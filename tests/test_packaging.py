"""What the package brings beside the daemon is accepted by the programs that read it."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ftpsd.cli import main

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, **keywords: object) -> subprocess.CompletedProcess[str]:
    """A program's exit status and words; the test is skipped where it is missing."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **keywords)  # type: ignore[call-overload,no-any-return]


def test_the_package_has_every_document() -> None:
    """The Debian package has all documents for administrators. performance.md is for those who choose a server."""
    listed = (ROOT / "debian/ftpsd.docs").read_text().split()
    assert set(listed) >= {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - {"docs/performance.md"}


@pytest.mark.parametrize("mode", ["normal", "aggressive", "bans"])
def test_fail2ban_takes_the_jail(tmp_path: Path, mode: str) -> None:
    """The jail, switched on as the document says, is a configuration that fail2ban accepts."""
    system = Path("/etc/fail2ban")
    if not (system / "jail.conf").exists():
        pytest.skip("fail2ban is not installed")
    directory = tmp_path / "fail2ban"
    shutil.copytree(system, directory)
    for part in ("filter.d", "jail.d"):
        shutil.copy(ROOT / "packaging/fail2ban" / part / "ftpsd.conf", directory / part)
    (directory / "jail.d" / "defaults-debian.conf").unlink(missing_ok=True)  # its sshd wants a log of its own
    (tmp_path / "log").touch()
    words = f"enabled = true\nfilter = ftpsd[mode={mode}]\nbackend = polling\nlogpath = {tmp_path}/log\n"
    (directory / "jail.local").write_text(f"[ftpsd]\n{words}")
    done = run("fail2ban-client", "-c", directory, "-t")
    assert done.returncode == 0, done.stdout + done.stderr
    told = run("fail2ban-client", "-c", directory, "-d").stdout
    assert "'ftpsd'" in told
    assert "50000:50999" in told


def test_root_owns_the_directory_of_log_files() -> None:
    """What systemd and logrotate open as root lies in a directory that the daemon cannot write to."""
    (line,) = re.findall(r"^d /var/log/ftpsd (.*)$", (ROOT / "debian/ftpsd.tmpfiles").read_text(), re.MULTILINE)
    assert line.split() == ["0750", "root", "adm", "-"]
    assert "su root adm" in (ROOT / "debian/ftpsd.logrotate").read_text()
    unit = (ROOT / "debian/ftpsd.service").read_text()
    assert "/var/log" not in "".join(re.findall("^ReadWritePaths=.*$", unit, re.MULTILINE))
    assert "install -o ftpsd" not in (ROOT / "docs/systemd.md").read_text()


def test_the_nftables_example_can_be_loaded(tmp_path: Path) -> None:
    """nft accepts the rules in docs/firewall.md."""
    (rules,) = re.findall(r"```nft\n(.*?)```", (ROOT / "docs/firewall.md").read_text(), re.DOTALL)
    (tmp_path / "rules").write_text(rules)
    done = run("nft", "-c", "-f", tmp_path / "rules")
    if "Operation not permitted" in done.stderr:
        pytest.skip("nft may not even look")
    assert done.returncode == 0, done.stderr


def test_completion_knows_every_option() -> None:
    """bash can read it, and it offers each command with all of its options."""
    completion = ROOT / "packaging/bash-completion/ftpsd"
    assert run("bash", "-n", completion).returncode == 0
    text = completion.read_text()
    parser = main.make_parser({command.name for command in main.COMMANDS})
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    offered = dict(re.findall(r"^ +(\w+|'')\) COMPREPLY=\(\$\(compgen -W '([^']*)'", text, re.MULTILINE))
    assert set(commands.choices) <= set(offered["''"].split())
    for name, parser in commands.choices.items():
        options = {word for action in parser._actions for word in action.option_strings if word != "-h"}
        assert options <= set(offered[name].split()), name


def test_the_deploy_hook_refuses_the_wrong_key(tmp_path: Path) -> None:
    """The deploy hook compares key and certificate before it changes anything."""
    for name in ("one", "other"):
        made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x"]
        run("openssl", *made, "-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.pem")
    hook = ROOT / "packaging/deploy-hook"
    done = run("sh", hook, tmp_path / "one.pem", tmp_path / "other.key")
    assert (done.returncode, "does not match the certificate" in done.stderr) == (1, True)
    assert run("sh", hook, tmp_path / "one.key", tmp_path / "one.key").returncode != 0


def test_certificates_md_shows_the_hook() -> None:
    """The hook in the document is the one that is installed."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/certificates.md").read_text(), re.DOTALL)
    assert (ROOT / "packaging/deploy-hook").read_text() in blocks
