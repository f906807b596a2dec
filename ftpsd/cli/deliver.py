"""`ftpsd deliver`: deliver the events of the journal until SIGTERM."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Protocol, cast

from twisted.logger import FileLogObserver, ILogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner

from ftpsd.cli.failure import CommandFailed
from ftpsd.cli.options import add_config
from ftpsd.config.faults import InvalidConfiguration
from ftpsd.deliver.service import Deliverer, Unusable
from ftpsd.system.twisted_private import installed_reactor


class _Loop(Protocol):
    """How the reactor runs."""

    def run(self, installSignalHandlers: bool) -> None:
        """Run until `stop`."""

    def stop(self) -> None:
        """Let `run` return."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Deliver until SIGTERM; return the exit status."""
    globalLogBeginner.beginLoggingTo([cast(ILogObserver, FileLogObserver(sys.stderr, _line))], redirectStandardIO=False)
    reactor = installed_reactor()
    loop = cast(_Loop, reactor)
    try:
        deliverer = Deliverer(reactor, options.config, lambda: loop.stop())
    except (InvalidConfiguration, Unusable) as error:
        raise CommandFailed(str(error)) from None
    reactor.callLater(0, deliverer.start)
    loop.run(installSignalHandlers=False)
    return 0


def _line(event: LogEvent) -> str | None:
    """Return a line of the log, or None for what Twisted says of its connections. The systemd journal adds the time."""
    if event.get("log_namespace") != "ftpsd" and event["log_level"] <= LogLevel.info:
        return None
    text = formatEvent(event).replace("\n", "\n  ")
    if "log_failure" in event:
        text += "\n  " + event["log_failure"].getTraceback().replace("\n", "\n  ")
    if "JOURNAL_STREAM" in os.environ:
        return f"{text}\n"
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S%z', time.localtime(event['log_time']))} {text}\n"
