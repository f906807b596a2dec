"""ftpsd: an FTPS daemon on Twisted."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if not TYPE_CHECKING:  # mypy would take every misspelled name for an attribute

    def __getattr__(name: str) -> object:
        """Return the module of the log as `ftpsd.log`: `twistd --logger=ftpsd.log.json` names it so.

        Imported here and not above, since it imports Twisted, which a reader of `__version__` does not need.
        """
        if name == "log":
            from ftpsd.events import log_format

            return log_format
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
