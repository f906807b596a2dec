"""The resources for bans: list them, add one, and lift them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from twisted.internet.defer import Deferred, TimeoutError

from ftpsd.admin.api import schemas
from ftpsd.admin.api.arguments import BOOLEAN, NETWORK, TEXT, Body, Parameter, Schema
from ftpsd.admin.api.problem import Json, Problem, bad_value
from ftpsd.admin.api.routes import Answer, Call, Route, answer, list_answer
from ftpsd.admin.parts import Parts
from ftpsd.events.record import valid_text
from ftpsd.events.types import AdministrativeAct, BanAdded, ban_name
from ftpsd.limits.bans.ban_list import shown_subject, stored_name
from ftpsd.limits.bans.ban_table import FOR_EVER, Ban
from ftpsd.limits.bans.networks import network_text
from ftpsd.protocol import addresses
from ftpsd.protocol.login_rules import Network

#: The longest ban that is not for ever: a hundred years.
LONGEST = 100 * 366 * 86_400

#: Seconds to wait until the state file has a change.
PATIENCE = 15.0

MEMBERS = ("address", "user", "seconds")
_SECONDS: Schema = {
    "type": ["number", "null"],
    "exclusiveMinimum": 0,
    "maximum": LONGEST,
    "description": "How long; null or missing: until it is lifted.",
}
BODY: Schema = {
    "oneOf": [
        {
            "type": "object",
            "properties": {whom: {**schema, "description": text}, "seconds": _SECONDS},
            "required": [whom],
            "additionalProperties": False,
        }
        for whom, schema, text in (
            ("address", NETWORK, "An address or a network. Of a single IPv6 address, its /64 is banned."),
            ("user", TEXT, "The name of a user, who is banned from everywhere."),
        )
    ]
}


class Bans:
    """The bans of the daemon."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._list = parts.counts.bans

    def routes(self) -> list[Route]:
        """Return the routes of this subject."""
        path = "/v1/bans"
        whom = (
            Parameter("address", NETWORK, "Lift the bans of this address or network, and of all addresses in it."),
            Parameter("user", TEXT, "Lift the bans of this user name."),
            Parameter("all", BOOLEAN, "Lift all bans."),
        )
        return [
            Route("GET", path, self._show, "List the bans in effect", schemas.listed("bans", "Ban", total=False)),
            Route("POST", path, self._add, "Ban", schemas.to("NewBan"), 201, body=BODY, problems=[409]),
            Route("DELETE", path, self._lift, "Lift bans", schemas.LIFTED, parameters=whom, problems=[503]),
        ]

    def active(self) -> list[Ban]:
        """Return all bans in effect; the one that ends last stands last."""
        return sorted(self._list.table.in_effect(), key=lambda ban: ban.until)

    def by_user(self) -> Mapping[str, Sequence[Ban]]:
        """Return the bans of each user name."""
        found: dict[str, list[Ban]] = {}
        for ban in self._list.table.in_effect():
            if ban.user is not None:
                found.setdefault(ban.user, []).append(ban)
        return found

    def form(self, ban: Ban) -> dict[str, Json]:
        """Return a ban in JSON. A ban for ever has no end."""
        until = self._parts.now() + ban.until - self._list.now()
        subject = valid_text(shown_subject(ban.subject))
        return {"kind": ban.kind, "subject": subject, "until": None if ban.length >= FOR_EVER else round(until, 3)}

    # --- handlers ----------------------------------------------------------------------------------

    async def _show(self, call: Call) -> Answer:
        return await list_answer(call.slices, "bans", self.active(), self.form)

    async def _add(self, call: Call) -> Answer:
        body = Body(call.body, MEMBERS)
        network, user = body.network("address"), body.text("user")
        seconds = body.number("seconds", LONGEST)
        if (network is None) == (user is None):
            raise bad_value("address", "or user must be given, and not both", "Write one of them.")
        if network is not None:
            self._refuse_allowed(network)
        subject = subject_of(network) if network is not None else stored_name(user or "")
        length = seconds or FOR_EVER
        ban = Ban("network" if network is not None else "account", subject, self._list.now() + length, length)
        self._list.add(ban)
        self._parts.hub.publish(BanAdded(ban.kind, subject, seconds))
        self._publish(call, "ban", ban_name(ban.kind, subject))
        return answer({**self.form(ban), **await self._unless_stored()}, 201)

    async def _unless_stored(self) -> dict[str, Json]:
        """Return what an answer says if the state file does not have what was changed."""
        stored: Deferred[bool] = Deferred()
        self._parts.bans.is_stored().chainDeferred(stored)  # the end of the wait must not cancel what is stored
        try:
            is_stored = await stored.addTimeout(PATIENCE, self._parts.reactor)  # type: ignore[arg-type]
        except TimeoutError:  # the disk does not answer
            is_stored = False
        return {} if is_stored else {"stored": False}

    def _refuse_allowed(self, network: Network) -> None:
        """Raise Problem if `bans.allow` exempts all of a network."""
        for each in self._parts.configuration().settings.bans.allow:
            if each.version == network.version and network.subnet_of(each):  # type: ignore[arg-type]
                text = f"bans.allow has {each}: its clients are never banned. Remove it from the configuration first."
                raise Problem(409, text)

    async def _lift(self, call: Call) -> Answer:
        arguments = call.arguments
        network, user = arguments.network("address"), arguments.text("user")
        everything = arguments.flag("all")
        if network is None and user is None and not everything:
            raise bad_value("address", "and user are missing", "Write one of them, or all=true.")
        if everything and (network is not None or user is not None):
            raise bad_value("all", "is given with an address or a user", "Write all=true alone to lift all bans.")
        name = None if user is None else stored_name(user)

        def is_meant(ban: Ban) -> bool:
            return everything or concerns(ban, network, name)

        if not self._parts.bans.lift_unread(network, name, everything):
            raise Problem(503, "The state file cannot be read, and too many requests wait for it. Repair it first.")
        lifted = 0
        for ban in list(self._list.table.all()):
            if is_meant(ban):
                lifted += ban.until > self._list.now()
                self._parts.bans.lift(ban)
            await call.slices.pause()
        rest = await self._unless_stored()
        if lifted or rest:
            names = [
                "all" if everything else "",
                ban_name("network", subject_of(network)) if network is not None else "",
                ban_name("account", name) if name is not None else "",
            ]
            self._publish(call, "unban", ", ".join(filter(None, names)))
        return answer({"lifted": lifted, **rest})

    def _publish(self, call: Call, action: str, subject: str) -> None:
        self._parts.hub.publish(AdministrativeAct(action, subject, call.administrator))


def subject_of(network: Network) -> str:
    """Return what is banned: of a single IPv6 address its /64, since one host has that many addresses."""
    if network.version == 6 and network.prefixlen == 128:
        return addresses.network(network.network_address)
    return network_text(network)


def concerns(ban: Ban, network: Network | None, user: str | None) -> bool:
    """Return whether a ban is one of a user name, or of a network or the addresses in it.

    The ban of a site from a name is one of the name, and one of the site.
    """
    if user is not None and ban.user == user:
        return True
    where = ban.subject.partition(" ")[0]
    return network is not None and ban.kind in ("address", "network", "site") and _is_in(where, network)


def _is_in(text: str, network: Network) -> bool:
    """Return whether the network of a text lies in another one; for a single address, whether it stands for that."""
    try:
        own = ipaddress.ip_network(text)
    except ValueError:
        return False
    if network.prefixlen == network.max_prefixlen:
        address = network.network_address
        return text in (str(address), addresses.network(address), addresses.site(address))
    return own.version == network.version and own.subnet_of(network)  # type: ignore[arg-type]
