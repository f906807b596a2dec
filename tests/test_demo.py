"""`ftpsd demo`: one command, and the curl line that it prints works."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.daemon import PATIENCE, SECRET, free_range, ftpsd


@contextmanager
def demo(directory: Path, *arguments: str) -> Iterator[list[str]]:
    """Return a running demo, its curl line without the URL, and the URL."""
    log = directory.with_suffix(".log")
    with log.open("wb") as output:
        command = ftpsd("demo", "--directory", str(directory), *arguments)
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 2 * PATIENCE
        while "listening on" not in log.read_text():
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield shlex.split(next(line for line in log.read_text().splitlines() if line.startswith("curl ")))
    finally:
        process.terminate()
        process.wait(PATIENCE)


def curl(line: list[str], *more: str, path: str = "") -> str:
    """Run a curl line and return its output."""
    *command, url = line
    done = subprocess.run([*command, "-sS", *more, url + path], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def snapshot(directory: Path) -> dict[str, bytes]:
    """Return names and contents of a demo's files."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_line_that_the_demo_prints_works(tmp_path: Path) -> None:
    """`ftpsd demo` makes all it needs; its curl line lists, uploads and downloads, and verifies the certificate."""
    port, _ = free_range(1)
    with demo(tmp_path / "demo", "--port", str(port)) as line:
        assert "welcome.txt" in curl(line)
        assert curl(line, path="welcome.txt") == "It works.\n"
        (tmp_path / "mine").write_text("mine")
        curl(line, "-T", str(tmp_path / "mine"))
        assert (tmp_path / "demo" / "files" / "mine").read_text() == "mine"
        for secret in ("users.yaml", "users.d/demo.yaml", "key.pem", "password"):
            assert (tmp_path / "demo" / secret).stat().st_mode & 0o077 == 0


def test_the_demo_prints_a_login_to_its_page(tmp_path: Path) -> None:
    """The link that the demo prints leads to its page, and its code logs in once."""
    port, _ = free_range(1)
    with demo(tmp_path / "demo", "--port", str(port)):
        log, deadline = tmp_path / "demo.log", time.monotonic() + PATIENCE
        while (
            found := re.search(r"^page +(http://127\.0\.0\.1:\d+/)#login=(\S+) ", log.read_text(), re.MULTILINE)
        ) is None:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        url, code = found.groups()
        assert "<title>ftpsd</title>" in curl(["curl", url])
        login = ["curl", "-H", "Content-Type: application/json", "-d", json.dumps({"code": code}), f"{url}login"]
        assert "csrf" in json.loads(curl(login))
        assert json.loads(curl(login))["status"] == 403


def test_the_demo_keeps_what_exists(tmp_path: Path) -> None:
    """A second start changes none of the files, also those that the user edited, and its curl line works."""
    port, _ = free_range(1)
    directory = tmp_path / "a demo"
    with demo(directory, "--port", str(port)) as first:
        pass
    with (directory / "ftpsd.yaml").open("a") as file:
        file.write("timeouts: {idle: 77}  # mine\n")
    with (directory / "users.yaml").open("a") as file:
        file.write(f'  carol:\n    password: "{SECRET}"\n    home: files\n')
    (directory / "files" / "welcome.txt").unlink()
    (directory / "files" / "mine").write_text("mine")
    before = snapshot(directory)
    with demo(directory) as second:
        assert second == first
        assert "mine" in curl(second)
        assert "mine" in curl([*second[:-3], "-u", "carol:secret", second[-1]])
    assert snapshot(directory) == before


def test_the_demo_prints_what_the_files_say(tmp_path: Path) -> None:
    """The demo prints the port and password of its files, also if they were edited.

    Settings that are not possible are refused.
    """
    port, other = free_range(2)
    directory = tmp_path / "demo"
    with demo(directory, "--port", str(port)):
        pass
    for name, old, new in (
        ("ftpsd.yaml", f"port: {port}", f"port: {other}"),
        (
            "users.d/demo.yaml",
            re.findall("password: (.*)", (directory / "users.d" / "demo.yaml").read_text())[0],
            SECRET,
        ),
    ):
        (directory / name).write_text((directory / name).read_text().replace(old, new))
    before = snapshot(directory)
    with demo(directory) as line:
        assert line[-2:] == ["demo", f"ftp://127.0.0.1:{other}/"]
        assert "welcome.txt" in curl([*line[:-2], "demo:secret", line[-1]])
    refused = subprocess.run(
        ftpsd("demo", "--directory", str(directory), "--port", str(port)), capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert f"listens on port {other}" in refused.stderr
    for port_number in ("0", "65536", "ftp"):
        refused = subprocess.run(
            ftpsd("demo", "--directory", str(directory), "--port", port_number), capture_output=True, text=True
        )
        assert (refused.returncode, "from 1 to 65535" in refused.stderr) == (2, True)
    (directory / "ftpsd.yaml").write_text("listen: nowhere\n")
    refused = subprocess.run(ftpsd("demo", "--directory", str(directory)), capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "--reset" in refused.stderr
    assert snapshot(directory) == {**before, "ftpsd.yaml": b"listen: nowhere\n"}


def test_the_demo_is_reset(tmp_path: Path) -> None:
    """`--reset` makes configuration, user and certificate again; users' files stay."""
    port, _ = free_range(1)
    directory = tmp_path / "demo"
    with demo(directory, "--port", str(port)) as first:
        pass
    (directory / "files" / "mine").write_text("mine")
    (directory / "ftpsd.yaml").write_text("nonsense: [")
    before = snapshot(directory)
    with demo(directory, "--reset", "--port", str(port)) as second:
        assert second != first
        assert "mine" in curl(second)
    after = snapshot(directory)
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] == after[name]} == {"files/mine", "files/welcome.txt", "users.yaml"}
