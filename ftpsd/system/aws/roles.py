"""Assume a role, and do that again before its credentials expire: `assume`."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from botocore.credentials import AssumeRoleCredentialFetcher, CredentialResolver, DeferredRefreshableCredentials

from ftpsd.config.sections.storage import S3Storage
from ftpsd.system.aws.sessions import new_session

#: The name of the daemon's sessions in the log of the token service.
_SESSION = "ftpsd"


class Session(Protocol):
    """What is used of a botocore session, which has no types."""

    def create_client(self, service_name: str, **options: object) -> object:
        """Return a client."""

    def get_credentials(self) -> object:
        """Return the credentials."""


class _Role:
    """A provider of credentials, as botocore asks them one after the other."""

    METHOD = CANONICAL_NAME = "assume-role"

    def __init__(self, base: Session, settings: S3Storage, role: str) -> None:
        self._base = base
        self._settings = settings
        self._role = role

    def load(self) -> object:
        """Return credentials that are fetched when they are needed first, and before they expire."""
        settings = self._settings
        create = partial(self._base.create_client, endpoint_url=settings.endpoint, region_name=settings.region)
        fetcher = AssumeRoleCredentialFetcher(
            create, self._base.get_credentials(), self._role, extra_args={"RoleSessionName": _SESSION}
        )
        return DeferredRefreshableCredentials(fetcher.fetch_credentials, self.METHOD)


def assume(base: Session, settings: S3Storage, role: str) -> object:
    """Return a botocore session that has the credentials of a role, which those of `base` assume.

    The token service is asked at the endpoint of the store, if it has one.
    """
    session = new_session()
    session.register_component("credential_provider", CredentialResolver([_Role(base, settings, role)]))
    return session
