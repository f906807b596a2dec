"""The resources for the daemon as a whole: its status, and the reload of its configuration."""

from __future__ import annotations

import attrs

from ftpsd.accounts.chain.counts import RESULTS, SourceStatus
from ftpsd.admin.api import schemas
from ftpsd.admin.api.problem import Json, Problem
from ftpsd.admin.api.routes import Answer, Call, Route, answer
from ftpsd.admin.findings import FindingsReader
from ftpsd.admin.group_limits import GroupLimits
from ftpsd.admin.health import Health
from ftpsd.admin.parts import Parts
from ftpsd.admin.status import Certificate, Status, StatusReader, Usage
from ftpsd.control.lifecycle.reload import STOPPING
from ftpsd.events.record import iso_time, valid_text
from ftpsd.events.types import AdministrativeAct
from ftpsd.figures.figures import Worker
from ftpsd.storage.stores import StoreStatus


class DaemonResources:
    """The daemon as a whole."""

    def __init__(self, parts: Parts, status: StatusReader, findings: FindingsReader) -> None:
        self._parts = parts
        self._status = status
        self._health = Health(parts)
        self._findings = findings

    def routes(self) -> list[Route]:
        """Return the routes of this subject."""
        summary = "Load the configuration again, and answer when that is done"
        return [
            Route("GET", "/v1/status", self._show, "Show the state of the daemon", schemas.to("Status")),
            Route(
                "GET",
                "/v1/health",
                self._show_health,
                "Show whether the daemon can serve clients",
                schemas.to("Health"),
            ),
            Route(
                "GET",
                "/v1/findings",
                self._show_findings,
                "Show what the checks of `ftpsd doctor` find that the daemon can make",
                schemas.FINDINGS,
                problems=[503],
            ),
            Route("POST", "/v1/reload", self._reload, summary, schemas.to("Reloaded"), problems=[422, 503]),
        ]

    async def _show(self, _: Call) -> Answer:
        return answer(status_json(await self._status.refreshed()))

    async def _show_health(self, _: Call) -> Answer:
        reasons = await self._health.reasons()
        return answer({"ready": not reasons, "reasons": [valid_text(each) for each in reasons]})

    async def _show_findings(self, _: Call) -> Answer:
        found = await self._findings.read()
        return answer(
            {"findings": [{key: valid_text(text) for key, text in attrs.asdict(each).items()} for each in found]}
        )

    async def _reload(self, call: Call) -> Answer:
        self._parts.hub.publish(AdministrativeAct("reload", "", call.administrator))
        result = await self._parts.reloader.reload()
        if result is STOPPING:
            raise Problem(503, "The daemon is stopping: it loads no configuration any more.")
        if not result.ok:
            text = "The configuration has faults: the old one stays in use."
            raise Problem(422, text, faults=[valid_text(each) for each in result.faults])
        return answer({"ok": True, "warnings": [valid_text(each) for each in result.warnings]})


def _certificate(certificate: Certificate) -> dict[str, str | None]:
    expires = None if certificate.expires is None else iso_time(certificate.expires)
    return {"file": valid_text(str(certificate.file)), "expires": expires}


def status_json(status: Status) -> Json:
    """Return the status in JSON."""
    transfers, ports = status.transfers, status.passive_ports
    certificates = [_certificate(each) for each in status.certificates]
    return {
        "version": status.version,
        "started": iso_time(status.started),
        "uptime": round(status.uptime, 3),
        "listeners": [{"address": each.address, "port": each.port, "tls": each.tls} for each in status.listeners],
        "sessions": {"used": status.sessions.used, "limit": status.sessions.limit},
        "transfers": {
            "uploads": transfers.uploads,
            "downloads": transfers.downloads,
            "upload_rate": round(transfers.upload_rate, 1),
            "download_rate": round(transfers.download_rate, 1),
        },
        "limits": [_usage(each) for each in status.limits],
        "groups": [_group(each) for each in status.groups],
        "bans": status.bans,
        "certificate": min(certificates, key=lambda each: each["expires"] or "never"),
        "certificates": certificates,
        "reload": {
            "time": iso_time(status.reload.time),
            "ok": status.reload.ok,
            "faults": [valid_text(each) for each in status.reload.faults],
            "last_good": iso_time(status.last_good_reload),
        },
        "threads": status.threads._asdict(),
        "passive_ports": attrs.asdict(ports),
        "sources": [_source(each) for each in status.sources],
        "stores": [_store(each) for each in status.stores],
        "workers": [_worker(each) for each in status.workers],
        "worker_restarts": status.worker_restarts,
        "sandbox": None if status.sandbox is None else [valid_text(each) for each in status.sandbox],
    }


def _group(group: GroupLimits) -> Json:
    limits = [{"name": each.name, "used": each.used, "limit": each.limit} for each in group.limits]
    return {"name": valid_text(group.name), "limits": limits}


def _worker(worker: Worker) -> Json:
    figures = worker.figures
    return {
        "index": worker.index,
        "process": worker.pid,
        "state": worker.state if worker.answers else "silent",
        "since": iso_time(worker.since),
        "sessions": None if figures is None else figures.sessions,
        "cpu": None if figures is None else round(figures.process.cpu, 3),
        "memory": None if figures is None else figures.process.memory,
    }


def _source(source: SourceStatus) -> Json:
    return {
        "name": source.name,
        "state": source.state,
        "error": valid_text(source.error) or None,
        "questions": {result: source.results.get(result, 0) for result in RESULTS},
        "waiting": source.waiting,
        "running": source.running,
        "hanging": source.hanging,
        "remembered": source.remembered,
    }


def _store(store: StoreStatus) -> Json:
    error = valid_text(store.error) or None
    return {"name": store.name, "bucket": store.bucket, "state": store.state, "error": error}


def _usage(usage: Usage) -> Json:
    return {"name": usage.name, "used": round(usage.used, 1), "limit": usage.limit}
