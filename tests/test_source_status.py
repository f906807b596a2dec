"""What the administrator sees of the sources of users: commands, the API, metrics and health."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin import Admin
from tests.file_source import UserFile
from tests.prometheus import Metrics, with_metrics
from tests.source_daemon import SourceDaemon, attempt, passes


class Served:
    """A running daemon with a source, its metrics and its API."""

    def __init__(self, directory: Path, certificate: Path) -> None:
        self.daemon = SourceDaemon(directory, certificate)
        self.source: UserFile = self.daemon.with_source()
        self.metrics: Metrics = with_metrics(self.daemon)
        socket = directory / "admin.sock"
        self.daemon.settings["admin"] = {"socket": str(socket)}
        self.daemon.write()
        self.daemon.start()
        self.admin = Admin(socket)

    def become(self, state: str) -> None:
        """Wait until the source has a state."""
        self.metrics.becomes(float(state == "up"), "ftpsd_source_up", source="file[0]")


@pytest.fixture
def served(tmp_path: Path, certificate: Path) -> Iterator[Served]:
    """Return a daemon with a source, metrics and the API."""
    served = Served(tmp_path, certificate)
    yield served
    served.daemon.stop()


def test_check_online(tmp_path: Path, certificate: Path) -> None:
    """`ftpsd check` connects to nothing. With --online it logs in to each source, and has a line for each fault."""
    daemon = SourceDaemon(tmp_path, certificate)
    source = daemon.with_source()
    done = daemon.run("check", "--online")
    assert (done.returncode, done.stdout) == (0, f"{daemon.config}: good, 2 users, and all sources answer.\n")
    source.write("down")
    assert daemon.run("check").returncode == 0
    done = daemon.run("check", "--online")
    line = daemon.config.read_text().splitlines().index("  sources:") + 2
    assert done.stderr.startswith(f"{daemon.config}:{line}: users.sources[0]: connection refused. Check ")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    (fault,) = json.loads(daemon.run("check", "--online", "--json").stdout)
    assert (fault["level"], fault["key"], fault["problem"]) == ("fault", "users.sources[0]", "connection refused")
    source.write(["slow", 9])
    assert "no answer within 3 seconds" in daemon.run("check", "--online").stderr
    assert "users.sources: file[0] does not answer: no answer" in daemon.run("doctor").stdout.replace("\n  ", " ")


def test_what_is_shown_of_a_source(served: Served) -> None:
    """Metrics, `ftpsd status` and the API show the questions to a source, and whether it answers."""
    daemon, metrics = served.daemon, served.metrics
    for code, user, password in (
        (230, "carol", "secret"),
        (230, "dave", "secret"),
        (530, "carol", "wrong"),
        (530, "no", "x"),
    ):
        attempt(daemon, code, user, password)
    for result, count in {"found": 2, "wrong_password": 1, "unknown": 1, "failed": 0, "late": 0, "busy": 0}.items():
        assert metrics.value("ftpsd_source_questions_total", source="file[0]", result=result) == count, result
    assert metrics.value("ftpsd_source_question_seconds_count", source="file[0]") == 4
    assert "file[0]: up, 4 questions, 0 failed, 0 wait" in daemon.run("status").stdout
    served.source.write("down")
    attempt(daemon, 451, "erin")
    served.become("down")
    text = "file[0]: DOWN, 2 users can log in without it: source file[0]: connection refused"
    assert text in daemon.run("status").stdout
    (shown,) = served.admin.get("status")["sources"]
    assert (shown["state"], shown["questions"]["failed"], shown["remembered"]) == ("down", 1, 2)
    assert metrics.get("/ready").status == 200  # Alice and Bob can log in
    served.source.write()
    served.become("up")


def test_not_ready_without_any_user(served: Served) -> None:
    """A daemon whose only source of users is down is not ready, and says why."""
    served.daemon.users = {}
    served.daemon.users_file.write_text("users: {}\n")
    served.daemon.reload()
    assert served.metrics.get("/ready").status == 200
    served.source.write("down")
    attempt(served.daemon, 451, "carol")
    served.become("down")
    ready = served.metrics.get("/ready")
    assert (ready.status, ready.text) == (503, "not ready: source file[0]: connection refused\n")


def test_users_of_a_source_in_the_api(served: Served) -> None:
    """The API shows a user of a source by name: the source is asked. The list has those who have logged in, too."""
    attempt(served.daemon, 230, "carol")
    shown = served.admin.get("users/carol")
    assert (shown["name"], shown["settings"]["home"]) == ("carol", str(served.daemon.home("carol")))
    assert "password" not in shown["settings"]
    assert sorted(each["name"] for each in served.admin.get("users")["users"]) == ["alice", "bob", "carol"]
    assert served.admin.call("GET", "users/nobody").status == 404
    served.daemon.reload()
    served.source.write("down")
    assert served.admin.get("users/carol")["settings"] == shown["settings"]
    answer = served.admin.call("GET", "users/dave")
    assert (answer.status, answer.json["detail"]) == (503, "source file[0]: connection refused")


def test_a_ban_of_a_user_of_a_source(served: Served) -> None:
    """A ban of an account holds for each spelling that the source accepts, also while the source is down."""
    attempt(served.daemon, 230, "CAROL")
    assert served.daemon.run("ban", "--user", "carol", "--for", "1h").returncode == 0
    attempt(served.daemon, 530, "carol")
    attempt(served.daemon, 530, "CAROL")
    served.source.write("down")
    attempt(served.daemon, 530, "CAROL")


def test_last_logins_of_users_of_sources(served: Served) -> None:
    """The last login of a user whom only a source knows is kept over reloads."""
    attempt(served.daemon, 230, "carol")
    served.daemon.reload()
    assert served.admin.get("users/carol")["last_login"] is not None


def test_the_log_shows_names_of_sources(served: Served) -> None:
    """The log hides names that nobody has, but not those of users who have logged in."""
    attempt(served.daemon, 530, "carol", "wrong")
    assert "carol" not in served.daemon.log
    attempt(served.daemon, 230, "carol")
    attempt(served.daemon, 530, "carol", "wrong")
    served.daemon.wait_for_log("login failed for carol")


def test_quotas_of_users_of_sources(served: Served) -> None:
    """The quota of a user whom only a source knows holds from the first login on, also after a reload."""
    served.source.users["carol"]["quota"] = {"bytes": "10K"}
    served.source.write()
    with passes(served.daemon, 230, "carol") as first:
        assert first.upload("STOR a", b"x" * 6000).startswith("226 ")
        served.daemon.reload()
        with passes(served.daemon, 230, "carol") as second:
            assert second.expect(213, "AVBL") == "213 4240"
            assert second.upload("STOR c", b"x" * 3000).startswith("226 ")
        assert first.expect(213, "AVBL") == "213 1240"
        first.expect(552, "ALLO 2000")
    assert served.admin.get("users/carol")["usage"] == {"bytes": 9000, "files": 2}
