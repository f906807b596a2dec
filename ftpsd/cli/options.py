"""Options that several commands have, and the form of their help."""

from __future__ import annotations

import argparse
from typing import TypeAlias, TypedDict

#: The configuration of ftpsd.service.
CONFIGURATION = "/etc/ftpsd/ftpsd.yaml"

Actions: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Description(TypedDict):
    """The arguments of a parser that make its help."""

    description: str
    epilog: str
    formatter_class: type[argparse.HelpFormatter]


def describe(summary: str, example: str) -> Description:
    """Return the arguments of a parser whose help ends with an example."""
    return {
        "description": f"{summary[0].upper()}{summary[1:]}.",
        "epilog": f"example:\n  {example}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def add_action(actions: Actions, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """Add an action to a command that has several, as `ftpsd bans` has `list` and `lift`."""
    return actions.add_parser(name, help=summary, **describe(summary, example))


def add_config(parser: argparse.ArgumentParser, default: str = CONFIGURATION) -> None:
    """Add `-c CONFIG`."""
    parser.add_argument("-c", "--config", default=default, help=f"the configuration (default: {CONFIGURATION})")
