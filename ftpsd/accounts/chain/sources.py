"""The sources that run, over all reloads: RunningSources."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ftpsd.accounts.chain.counts import SourceStatus
from ftpsd.accounts.chain.recent import RecentLogins
from ftpsd.accounts.chain.running import RunningSource
from ftpsd.accounts.chain.threads import SourceThreads
from ftpsd.accounts.sources.source import ConfiguredSource
from ftpsd.system.reactor import Clock


class RunningSources:
    """The sources that run. One whose settings did not change survives a reload. For the reactor thread."""

    def __init__(self, clock: Clock, make_threads: Callable[[str], SourceThreads], recent: RecentLogins) -> None:
        self._clock = clock
        self._make_threads = make_threads
        self._recent = recent
        self._running: list[tuple[ConfiguredSource, RunningSource]] = []
        self._started = False

    def use(self, configured: Sequence[ConfiguredSource], delay: float) -> list[RunningSource]:
        """Return the running sources of a configuration, in its order.

        A source that is configured no longer is closed `delay` seconds later: older sessions may still log in.
        """
        before, self._running = self._running, []
        for each in configured:
            kept = next((pair for pair in before if pair[0] == each), None)
            if kept is not None:
                before.remove(kept)
            self._running.append(kept or (each, self._make(each)))
        for _, source in before:
            self._clock.callLater(delay, source.close)
        return [source for _, source in self._running]

    def start(self) -> None:
        """Find out which sources answer. Threads may begin from now on."""
        self._started = True
        for _, source in self._running:
            self._start(source)

    def stop(self) -> None:
        """Close all sources. Does not wait for them."""
        for _, source in self._running:
            source.close()

    def status(self) -> tuple[SourceStatus, ...]:
        """Return the state of each source, in the order of the configuration."""
        return tuple(source.status(self._recent.count(source)) for _, source in self._running)

    def name_of(self, source: object) -> str | None:
        """Return the name of a source that runs; None if it is none."""
        return next((configured.name for configured, each in self._running if each is source), None)

    def named(self, name: str) -> RunningSource | None:
        """Return the source of that name in the configuration in effect."""
        return next((source for configured, source in self._running if configured.name == name), None)

    def _make(self, configured: ConfiguredSource) -> RunningSource:
        threads = self._make_threads(f"source {configured.name}")
        made = RunningSource(configured.name, configured.source, self._clock, threads)
        if self._started:
            self._start(made)
        return made

    def _start(self, source: RunningSource) -> None:
        source.start(lambda names: self._recent.forget_users(source, names))
