"""Find where each effective setting of a user comes from: the user, groups, defaults, ftpsd.yaml or the program."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from attrs import frozen

from ftpsd.config.faults import Key
from ftpsd.config.sections.values import Value
from ftpsd.config.settings import UserSettings
from ftpsd.config.users.merge import RULES, Record, origins
from ftpsd.config.yaml import Document

#: Keys of a user that replace a key of ftpsd.yaml, if they are not null.
_SERVER = {
    "limits.sessions": ("limits", "sessions_per_user"),
    "limits.transfers": ("limits", "transfers_per_user"),
    "limits.session_upload_rate": ("limits", "session_upload_rate"),
    "limits.session_download_rate": ("limits", "session_download_rate"),
    "tls.data_session": ("tls", "data_session"),
    "tls.close_notify": ("tls", "close_notify"),
}

#: The most bytes of a file in which lines are looked up: that takes a second for 4 MiB.
_LARGEST = 4 << 20


@frozen
class Layer:
    """The keys of a user, a group or the defaults, and where they come from. Only those of a file have a document."""

    label: str
    values: Record
    document: Document | None = None
    key: Key = ()


@frozen
class Origin:
    """A layer that decides about a setting, and its line in a file. Line 0 is not known."""

    layer: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{self.layer} ({where})" if where else self.layer


def find_origins(layers: Sequence[Layer], user: UserSettings, main: Document) -> dict[str, list[Origin]]:
    """Return where each key of a user comes from, by the key as in `limits.sessions`.

    `layers` are the defaults, the groups and the user; `user` has the settings that follow from them; `main` is
    ftpsd.yaml.
    """
    records = [layer.values for layer in layers]
    found = {}
    for key in RULES:
        if key in _SERVER and attrgetter(key)(user) is None:
            deciding = [_at("ftpsd.yaml", main, _SERVER[key])] if _is_in(main.value, _SERVER[key]) else []
        else:
            deciding = [_origin(layers[number], key) for number in origins(key, records)]
        found[key] = deciding or [Origin("default")]
    return found


def _origin(layer: Layer, key: str) -> Origin:
    if layer.document is None:
        return Origin(layer.label)
    return _at(layer.label, layer.document, (*layer.key, *key.split(".")))


def _at(label: str, document: Document, key: Key) -> Origin:
    line = document.line(key) if len(document.data) <= _LARGEST else 0
    return Origin(label, str(document.path), line)


def _is_in(value: Value, key: Sequence[str]) -> bool:
    for name in key:
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True
