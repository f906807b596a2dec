"""Check settings of users and groups that have the right types."""

from __future__ import annotations

import attrs

from ftpsd.config.checks import check_limits
from ftpsd.config.faults import Key
from ftpsd.config.settings import UserSettings
from ftpsd.config.yaml import Document


@attrs.frozen
class Place:
    """Where a user or a group stands: a document, and the key in it of all their keys."""

    document: Document
    key: Key

    def fault(self, key: Key, problem: str, remedy: str) -> None:
        """Add a fault at a key of the user or the group."""
        self.document.fault((*self.key, *key), problem, remedy)


def check_user(place: Place, user: UserSettings, resumption: bool) -> None:
    """Check settings of a user. `resumption` is whether `ftpsd.yaml` lets data connections resume TLS sessions."""
    check_limits(place.document, user.limits, (*place.key, "limits"))
    if user.tls.data_session == "require" and not resumption:
        # The TLS of a session begins before its user is known.
        problem = "require is not possible: ftpsd.yaml has tls.data_session: off"
        place.fault(("tls", "data_session"), problem, "Write allow there, which requires nothing of other users.")
