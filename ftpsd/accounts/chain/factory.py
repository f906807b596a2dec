"""Make the store of all users for each configuration snapshot: StoreFactory."""

from __future__ import annotations

from collections.abc import Sequence

from ftpsd.accounts.chain.homes import KnownHomes
from ftpsd.accounts.chain.recent import RecentLogins
from ftpsd.accounts.chain.sources import RunningSources
from ftpsd.accounts.chain.store import YAML, Build, ChainStore, Shared
from ftpsd.accounts.chain.threads import SourceThreads
from ftpsd.accounts.hash_verifier import HashVerifier
from ftpsd.accounts.sources.source import ConfiguredSource
from ftpsd.accounts.yaml_store import YamlUserStore
from ftpsd.config.settings import Settings
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import WorkerThreads


class StoreFactory:
    """Makes stores, and keeps what they share. For the reactor thread."""

    def __init__(self, reactor: Reactor, workers: WorkerThreads) -> None:
        self._verifier = HashVerifier(workers, reactor)
        #: The logins that are remembered.
        self.recent = RecentLogins(reactor.seconds)
        self._shared = Shared(reactor, workers, self.recent, KnownHomes())
        #: The sources that run.
        self.sources = RunningSources(reactor, lambda name: SourceThreads(name, workers.call_in_reactor), self.recent)

    def make(
        self, settings: Settings, yaml: YamlUserStore, configured: Sequence[ConfiguredSource], build: Build
    ) -> ChainStore:
        """Return the store of a configuration. Sources and logins that are remembered are taken over."""
        sources = self.sources.use(configured, settings.timeouts.login)
        self._verifier.remembered.use(settings.users.cache.seconds)
        self.recent.use(settings.users.cache.stale_seconds, [YAML, *sources])
        store = ChainStore(yaml, settings.users.yaml_place, sources, build, self._shared)
        store.start(self._verifier)
        return store
