"""The form in which a text of a client is shown, in the log and on a terminal."""

from __future__ import annotations

#: Characters that are shown of an argument, or of another text of a client.
LONGEST_TEXT = 200


def printable(text: str, most: int = LONGEST_TEXT) -> str:
    """Return a text of a client on one line: at most `most` characters, with all unprintable ones escaped."""
    if len(text) <= most and text.isprintable():
        return text
    shown: list[str] = []
    length = 0
    for character in text[: most + 1]:
        if not character.isprintable():
            character = character.encode("unicode_escape", "surrogatepass").decode()
        length += len(character)
        if length > most:
            return f"{''.join(shown)}… ({len(text)} characters)"
        shown.append(character)
    return "".join(shown)
