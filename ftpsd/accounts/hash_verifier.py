"""Verify password hashes in worker threads, or from memory: HashVerifier. All stores share it, also after a reload."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from ftpsd.accounts import hashes
from ftpsd.accounts.fair_queue import FairSemaphore
from ftpsd.accounts.remembered import Claim, RememberedPasswords
from ftpsd.accounts.user_store import Admit
from ftpsd.protocol.addresses import Address, network
from ftpsd.system.reactor import Clock
from ftpsd.system.worker_threads import WorkerThreads


class HashVerifier:
    """Verifies as many hashes at the same time as there are processors. For the reactor thread.

    Waiting logins are served round-robin by client network. They are checked against the bans again when their turn
    comes, so that no password of a banned client is hashed. A password that was right recently needs no hash, and does
    not wait.
    """

    def __init__(self, workers: WorkerThreads, clock: Clock) -> None:
        self.remembered = RememberedPasswords(clock)
        self._workers = workers
        self._turns = FairSemaphore(max(1, os.cpu_count() or 1))

    async def matches(
        self, claim: Claim, peer: Address, admit: Admit, known: bool = True, remember: bool = True
    ) -> bool:
        """Return whether the password of a claim matches its hash. Raises what `admit` raises.

        Without a `known` user the hash is a decoy, which takes as long, and matches no password. A password that must
        not be remembered is hashed each time.
        """
        if self.remembered.matches(claim) and known and remember:
            return True
        if not await self._hash(claim, peer, admit) or not known:
            return False
        if remember:
            self.remembered.remember(claim)
        return True

    async def _hash(self, claim: Claim, peer: Address, admit: Admit) -> bool:
        owner = network(peer)
        await self._turns.acquire(owner)
        try:
            await admit()
            return await self._workers.queue(owner, "login").call(hashes.verify, claim.password, claim.hashed)
        finally:
            self._turns.release()


class Decoys:
    """Hashes that are verified for names that do not exist: an unknown name must take as long as a wrong password."""

    #: The most hashes.
    MOST = 256

    def __init__(self, known: Sequence[str] = ()) -> None:
        self._hashes = list(known)

    def note(self, hashed: str) -> None:
        """Add the hash of some user, unless there are enough."""
        if len(self._hashes) < self.MOST and hashed not in self._hashes:
            self._hashes.append(hashed)

    def choose(self, name: str) -> str:
        """Return a hash for a name that does not exist, always the same one while none is added."""
        if not self._hashes:
            self._hashes.append(hashes.make(os.urandom(16).hex()))
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return self._hashes[digest[0] % len(self._hashes)]
