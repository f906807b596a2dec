"""hypothesis' way to bytes that are nearly right: seeds with words, bytes and pieces put in, doubled and cut out."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.fuzz.targets import Target


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Anything, words in a row, and seeds with up to eight changes."""
    word = st.sampled_from(target.words) | st.binary(max_size=6)
    change = st.tuples(st.integers(0, 2**16), st.integers(0, 40), word | st.none())
    changed = st.builds(_change, st.sampled_from(target.seeds), st.lists(change, max_size=8))
    return changed | st.lists(word, max_size=12).map(b"".join) | st.binary(max_size=300)


def _change(seed: bytes, changes: list[tuple[int, int, bytes | None]]) -> bytes:
    for place, length, word in changes:
        start = place % (len(seed) + 1)
        piece = seed[start : start + length]
        # A word takes the place of a piece; without a word the piece is doubled.
        seed = seed[:start] + (piece * 2 if word is None else word) + seed[start + length :]
    return seed
