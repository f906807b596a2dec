"""A short fuzz of every target (see `tests/fuzz`); FTPSD_FUZZ=minutes makes it long."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import EXAMPLES
from tests.fuzz.mutations import inputs
from tests.fuzz.targets import SEEDS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_bytes_break_a_promise(name: str, data: st.DataObject) -> None:
    """Any bytes give a value or an answer that says what is wrong: never another exception, never a hang."""
    TARGETS[name].run(data.draw(inputs(TARGETS[name])))


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_starts_with(name: str) -> None:
    """The seeds of each target pass it."""
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("seed", sorted(SEEDS.iterdir()), ids=lambda path: path.stem)
def test_a_damaged_certificate(seed: Path) -> None:
    """A certificate with one changed byte is used or refused, whichever byte it is."""
    text = seed.read_text()
    for block in re.findall(r"-----BEGIN [^-]*(?:CERTIFICATE|CRL)-----[^-]*", text):
        begin, _, encoded = block.partition("\n")
        der = bytearray(base64.b64decode(encoded))
        for index, byte in enumerate(der):
            der[index] = byte ^ (6 if byte != 8 else 1)
            damaged = f"{begin}\n{base64.b64encode(der).decode()}\n"
            TARGETS["certificate"].run(text.replace(block, damaged).encode())
            der[index] = byte
