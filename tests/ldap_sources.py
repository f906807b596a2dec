"""The source of users in a directory, for tests: made from settings, and asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ftpsd.accounts.sources.ldap.make import make
from ftpsd.accounts.sources.source import Answer, LoginDenied, Question, Source
from ftpsd.config.convert import structure
from ftpsd.config.sections.sources import LdapSource
from ftpsd.config.yaml import Document
from ftpsd.protocol.addresses import plain_address

PEER = plain_address("192.0.2.1")


def make_source(password: str, **values: Any) -> Source:
    """Return a source with settings as in the configuration; None removes a key. `password` is that of the service."""
    pytest.importorskip("ldap", reason="python-ldap is not installed")
    document = Document(Path("ftpsd.yaml"), lines={(): 1})
    given = {"type": "ldap", **{key: value for key, value in values.items() if value is not None}}
    settings = structure(document, given, LdapSource)
    assert settings is not None and not document.faults, document.faults
    return make(settings, dict.fromkeys(settings.secret_files, password))


@contextmanager
def source_maker(password: str, **usual: Any) -> Iterator[Callable[..., Source]]:
    """Yield a function that makes sources with `usual` settings, changed by its own; None removes a key."""
    pytest.importorskip("ldap", reason="python-ldap is not installed")
    with ExitStack() as stack:

        def new(password: str = password, **changes: Any) -> Source:
            source = make_source(password, **{**usual, **changes})
            stack.callback(source.close)
            return source

        yield new


def ask(source: Source, name: str, password: str | None = "secret") -> Answer | None:
    """Return what a source answers to a login."""
    return source.ask(Question(name, password, PEER))


def answer(source: Source, name: str, password: str | None = "secret") -> Answer:
    """Return the answer about a user whom the source knows."""
    found = ask(source, name, password)
    assert found is not None
    return found


def denied(source: Source, name: str, password: str = "secret") -> str:
    """Return the word for the log with which a login is denied."""
    with pytest.raises(LoginDenied) as caught:
        ask(source, name, password)
    return caught.value.word
