"""mypy finds a method that is renamed in one implementation of an interface, and nowhere else."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: A file of `ftpsd/`, the name of a method that it defines, and a new name for that.
RENAMED = [
    # protocol.interfaces.Files, storage.backend.Files and CountableFiles
    ("storage/local/files.py", "set_time", "change_time"),
    ("storage/local/files.py", "count_changes", "report_changes"),
    ("storage/quota_wrapper.py", "available_space", "usable_space"),
    # storage.backend.Backend
    ("storage/local/files.py", "open", "open_home"),
    # protocol.interfaces.Upload and storage.backend.Upload
    ("storage/local/upload.py", "must_copy", "needs_copy"),
    ("storage/local/upload.py", "initial_amount", "first_amount"),
    ("storage/quota_wrapper.py", "publish", "finish"),
    # protocol.interfaces.Reader
    ("data/endpoints.py", "__iter__", "pieces"),
    # storage.backend.ChangeCounter, PartFile and HomeMeter
    ("storage/quota_wrapper.py", "require_a_file", "require_one_file"),
    ("storage/local/measure.py", "amount", "size"),
    ("storage/local/measure.py", "amounts", "sizes"),
    # limits.ledger.Ledger, SessionLease and UserLease; bans.ban_list.Listener
    ("limits/ledger.py", "check_bans", "require_no_ban"),
    ("limits/ledger.py", "release", "give_back"),
    ("limits/user_limits.py", "rate_limits", "limits"),
    ("limits/user_counts.py", "add_transfer", "count_transfer"),
    ("limits/shared/user_counts.py", "add_session", "count_session"),
    ("limits/shared/rates.py", "transfers", "running"),
    ("limits/bans/store.py", "ban_added", "ban_made"),
    # limits.session_registry.SessionRegistry and RunningSession
    ("limits/session_registry.py", "sessions", "list_sessions"),
    ("control/ftp_protocol.py", "view", "look"),
    # accounts.user_store.UserStore
    ("accounts/yaml_store.py", "find", "look_up"),
    ("accounts/yaml_store.py", "knows", "has"),
    ("accounts/chain/store.py", "verify", "check"),
    # accounts.sources.source.Source
    ("accounts/sources/http.py", "probe", "check"),
    ("accounts/sources/helper.py", "names", "list_names"),
    ("accounts/sources/ldap/source.py", "ask", "find"),
    ("accounts/sources/sql/source.py", "close", "end"),
    # events.hub.Publisher
    ("events/hub.py", "publish", "emit"),
    # protocol.interfaces.Control
    ("control/control_channel.py", "send_reply", "reply"),
    # Behind LocalFiles: methods that are called in worker threads.
    ("storage/local/root.py", "set_mode", "change_mode"),
    ("storage/listings.py", "first_entries", "some_entries"),
]


class Tree:
    """A copy of the tree, and a daemon of mypy that checks it: each check after the first takes a moment."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        shutil.copytree(ROOT / "ftpsd", directory / "ftpsd", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "setup.cfg", directory)

    def dmypy(self, *arguments: str) -> str:
        """Run a command of mypy's daemon; return its output."""
        command = [sys.executable, "-m", "mypy.dmypy", "--status-file", "status.json", *arguments]
        run = subprocess.run(command, cwd=self._directory, capture_output=True, text=True, check=False, timeout=300)
        return run.stdout + run.stderr

    @contextmanager
    def renamed(self, name: str, old: str, new: str) -> Iterator[None]:
        """Rename the last definition of a method in a file, and rename it back. An interface stands above it."""
        path = self._directory / "ftpsd" / name
        text = path.read_text()
        before, found, after = text.rpartition(f"def {old}(")
        assert found, f"{name} defines no {old}"
        path.write_text(f"{before}def {new}({after}")
        try:
            yield
        finally:
            path.write_text(text)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """A copy of the tree in which mypy finds nothing."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    tree = Tree(tmp_path)
    assert tree.dmypy("start", "--", "--cache-dir=cache").startswith("Daemon started")
    try:
        assert "Success: no issues found" in tree.dmypy("check", "ftpsd")
        yield tree
    finally:
        tree.dmypy("stop")


@pytest.mark.process
def test_mypy_finds_each_renamed_method(tree: Tree) -> None:
    """A method that is renamed in one implementation of an interface, and nowhere else, is an error of types."""
    unnoticed = []
    for name, old, new in RENAMED:
        with tree.renamed(name, old, new):
            report = tree.dmypy("check", "ftpsd")
        if not re.search(r" error: .*\[(arg-type|return-value|attr-defined|assignment)\]$", report, re.MULTILINE):
            unnoticed.append((name, old, report))
    assert not unnoticed
