"""Make the configuration snapshot of each load: SnapshotFactory."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import cast

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred

from ftpsd.accounts.anonymous import with_anonymous
from ftpsd.accounts.certificate_checker import CertificateChecker, CertificatePolicy
from ftpsd.accounts.chain.factory import StoreFactory
from ftpsd.accounts.one_time.totp import Codes
from ftpsd.accounts.password_checker import PasswordChecker
from ftpsd.accounts.realm import Realm
from ftpsd.accounts.user_store import UserStore
from ftpsd.config import load
from ftpsd.config.settings import BanSettings, Limits, PortRange, QuotaSettings, Settings
from ftpsd.data.channel import DataPlane
from ftpsd.data.nat import AddressRefresh, Announcer
from ftpsd.data.passive.own import OwnPorts
from ftpsd.data.passive.ports import PortPool
from ftpsd.data.passive.shared_ports import Ports, SharedPorts
from ftpsd.data.shared import Shared
from ftpsd.limits.ledger import Ledger, LedgerState
from ftpsd.limits.transfer_counts import TransferCounts
from ftpsd.outbox.outbox import Outbox
from ftpsd.snapshot import Newest, Snapshot, policy_of
from ftpsd.storage.folders.tree import FolderTrees
from ftpsd.storage.local.files import LocalBackend
from ftpsd.storage.local.measure import DirectoryMeter
from ftpsd.storage.places import PlacedBackend, PlacedMeter
from ftpsd.storage.quota import Comparison, Quotas
from ftpsd.storage.stores import Stores
from ftpsd.system.reactor import Reactor
from ftpsd.system.worker_threads import WorkerThreads, size_beside_others


class SnapshotFactory:
    """Makes the configuration snapshot of each load. What sessions of all snapshots share is given to it."""

    def __init__(
        self,
        reactor: Reactor,
        counts: LedgerState,
        make_ledger: Callable[[Limits, BanSettings], Ledger],
        refresh: AddressRefresh,
        control_ports: Callable[[], set[int]],
        outbox: Outbox,
        codes: Codes,
    ) -> None:
        self._reactor = reactor
        self._make_ledger = make_ledger
        self._refresh = refresh
        self._control_ports = control_ports
        self._outbox = outbox
        self._codes = codes
        self._retired = False
        self.workers = WorkerThreads(reactor, beside=size_beside_others())
        self._stores = StoreFactory(reactor, self.workers)
        self.sources, self.recent = self._stores.sources, self._stores.recent
        self.transfers = TransferCounts(reactor.seconds)
        self.object_stores = Stores(reactor)
        outbox.ask_stores(self.object_stores.was_made)
        meter = PlacedMeter(DirectoryMeter(), self.object_stores)
        self.quotas = Quotas(reactor, self.workers, meter, counts.homes, self.object_stores.queue)
        self.shared_ports = SharedPorts(reactor, self.workers)
        #: Snapshots with the same port range share its ports.
        self._pools: dict[PortRange, PortPool] = {}

    def compare(self, configuration: load.Configuration) -> Awaitable[Comparison]:
        """Return which homes of the last snapshot a configuration lacks, for `make`. Takes several turns."""
        homes = configuration.users.homes
        return self.quotas.compare(homes.with_quota, homes.of_groups)

    def make(self, configuration: load.Configuration, compared: Comparison | None = None) -> Snapshot:
        """Return the snapshot for new sessions. Work that the users need begins in worker threads."""
        settings = configuration.settings
        #: The users of the last snapshot.
        self.users = self._stores.make(
            settings, configuration.users, configuration.sources, configuration.builder.build
        )
        users = with_anonymous(self.users, configuration.anonymous)
        self.workers.patience = settings.timeouts.stalled
        homes = users.homes  # is computed at each access
        self.quotas.keep(homes.with_quota, homes.all, homes.of_groups, compared)
        ledger = self._make_ledger(settings.limits, settings.bans)
        snapshot = Snapshot(
            settings=settings,
            contexts=configuration.contexts,
            data=DataPlane(self._shared(configuration)),
            policy=policy_of(settings),
            ledger=ledger,
            now=time.time,
            newest=lambda: None if self._retired else self._newest,
            shows=self._is_known if settings.log.unknown_names == "hide" else lambda name: True,
        )
        self._known = users
        self._newest = Newest(snapshot, self._portal(configuration, users, ledger))
        return snapshot

    def _is_known(self, name: str) -> bool:
        """Return whether a user of the newest load has this name: old sessions must not keep the users of theirs."""
        return self._known.knows(name)

    def retire(self) -> None:
        """Log nobody in any more: later configurations are loaded by other processes only."""
        self._retired = True

    def _portal(self, configuration: load.Configuration, users: UserStore, ledger: Ledger) -> Portal:
        settings, groups = configuration.settings, configuration.layers.shared
        quotas = {name: group.quota for name, group in groups.items() if group.quota != QuotaSettings()}
        journals = self._outbox.use(settings)
        local = LocalBackend(self.workers, self.quotas, settings.uploads.fsync, journals, quotas)
        self.object_stores.use(configuration.stores, settings.timeouts.stalled)
        files = PlacedBackend(local, self.object_stores.backends(self.quotas, quotas, journals))
        trees = FolderTrees(files, lambda folder: files, self.workers, self._reactor, time.time())
        realm = cast(IRealm, Realm(time.time, trees, ledger, groups))
        clients = settings.tls.clients
        policy = None if clients is None else CertificatePolicy(users, clients)
        checkers = (
            PasswordChecker(users, self._codes, time.time, policy),
            CertificateChecker(users, self._codes, time.time),
        )
        return Portal(realm, [cast(ICredentialsChecker, each) for each in checkers])

    def _shared(self, configuration: load.Configuration) -> Shared:
        settings = configuration.settings
        #: The passive ports of the last snapshot.
        self.ports = self._ports(settings)
        announcer = Announcer(settings.passive, self._resolve, configuration.addresses)
        self._refresh.add(announcer)
        return Shared(
            reactor=self._reactor,
            workers=self.workers,
            ports=self.ports,
            announcer=announcer,
            timeouts=settings.timeouts,
            source_port=settings.active.source_port or 0,
            foreign_networks=settings.foreign_networks,
            control_ports=self._control_ports,
            transfers=self.transfers,
        )

    def _ports(self, settings: Settings) -> Ports:
        if settings.passive.shared is not None:
            return self.shared_ports.range(settings)
        ports = settings.passive.ports
        return OwnPorts(self._reactor, self._pools.setdefault(ports, PortPool(ports.low, ports.high)))

    def _resolve(self, name: str) -> Deferred[str]:
        return self.workers.queue("configuration", "login").call(load.resolve, name)
