"""Records of users that sources give: whatever they hold, they become settings, or one text with the faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ftpsd.accounts.user_store import InvalidRecord
from ftpsd.config.settings import UserSettings
from ftpsd.config.users.layers import Layers
from ftpsd.config.users.records import RecordBuilder

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["10G", "read-only"])
)
KEYS = st.sampled_from([field.name for field in attrs.fields(UserSettings)]) | st.text(max_size=10)
INNER = st.sampled_from(
    ["bytes", "files", "allow", "deny", "hide", "sessions", "upload_rate", "path", "/a", "data_session"]
)
VALUES: Any = st.recursive(
    SCALARS | st.just(b"bytes") | st.just(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(INNER | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a home."""
    directory = tmp_path_factory.mktemp("records")
    (directory / "home").mkdir()
    return directory


@given(st.dictionaries(KEYS, VALUES, max_size=5) | VALUES, st.text(max_size=10))
@example({"home": "home/\0"}, "alice")
@example({"home": "{user}"}, "\udcff")
@example({"home": "h" * 5000}, "alice")
@example({"home": "home", "limits": {"sessions": 0}}, "alice")
def test_any_record(directory: Path, values: Any, name: str) -> None:
    """A record is refused with a text that is not too long, or makes settings whose home lies where homes may lie."""
    builder = RecordBuilder(directory, Layers(), True, [str(directory)])
    for record in (values, {**values, "home": "home"} if isinstance(values, dict) else {}):
        text = home = ""
        try:
            home = builder.build(name, record).home or ""
        except InvalidRecord as error:
            text = str(error)
        assert 0 < len(text) < 3000 or Path(home).is_relative_to(directory)


@pytest.mark.parametrize(
    ("home", "name"),
    [
        ("{user}", ".."),
        ("{user}", "../x"),
        ("..", "a"),
        ("link", "a"),
        ("/", "a"),
        ("/etc", "a"),
        ("home/../..", "a"),
        (".", "a"),
    ],
)
def test_homes_that_climb(directory: Path, home: str, name: str) -> None:
    """No home lies outside of `sandbox.homes`, or is one of its directories: neither by name nor by a link."""
    (directory / "link").unlink(missing_ok=True)
    (directory / "link").symlink_to("/etc")
    with pytest.raises(InvalidRecord):
        RecordBuilder(directory, Layers(), True, [str(directory)]).build(name, {"home": home})
