"""What was lifted while the state file could not be read, against the bans of the file."""

from __future__ import annotations

import time
from ipaddress import ip_network

import pytest

from ftpsd.admin.api.bans import concerns
from ftpsd.limits.bans.ban_table import Ban
from ftpsd.limits.bans.late_lifts import MOST, LateLifts

NETWORKS = ["203.0.113.9", "203.0.113.0/24", "0.0.0.0/0", "2001:db8::7", "2001:db8::/32", "198.51.100.0/25"]

BANS = [
    Ban("address", "203.0.113.9", 1, 1),
    Ban("address", "2001:db8::/64", 1, 1),
    Ban("network", "203.0.113.0/24", 1, 1),
    Ban("network", "203.0.0.0/16", 1, 1),
    Ban("network", "2001:db8:1::/48", 1, 1),
    Ban("site", "203.0.113.0/24 alice", 1, 1),
    Ban("site", "2001:db8::/48 bob", 1, 1),
    Ban("network", "198.51.100.127", 1, 1),
    Ban("network", "198.51.100.128", 1, 1),
    Ban("user", "alice", 1, 1),
    Ban("account", "203.0.113.9", 1, 1),
    Ban("address", "no address", 1, 1),
]


@pytest.mark.parametrize("user", [None, "alice"])
@pytest.mark.parametrize("text", [None, *NETWORKS])
def test_a_late_lift_means_what_a_lift_means(text: str | None, user: str | None) -> None:
    """The same bans are lifted as if the file had been read before."""
    network = None if text is None else ip_network(text)
    late = LateLifts()
    assert late.add_request(network, user, False)
    assert [lifted for _, lifted in late.apply(BANS)] == [concerns(ban, network, user) for ban in BANS]


def test_many_lifts_and_bans() -> None:
    """As many lifts and bans as there may be do not hold the sessions up."""
    late = LateLifts()
    asked = [ip_network((0x0A000000 + 256 * number, 20 + number % 5), strict=False) for number in range(2 * MOST)]
    while late.add_request(asked.pop(), None, False):
        pass
    bans = [Ban("address", f"192.0.{number // 256}.{number % 256}", 1, 1) for number in range(10_000)]
    began = time.process_time()
    assert not any(lifted for _, lifted in late.apply(bans))
    assert time.process_time() - began < 2
