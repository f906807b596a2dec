"""What the files of a configuration and the disks of its homes say. Blocks: for a thread, or the command line."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterable
from pathlib import Path

from attrs import evolve
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ftpsd.checks import certificate, host
from ftpsd.checks.findings import Finding, printable
from ftpsd.config.sections.tls import CertificateSettings
from ftpsd.config.settings import Settings
from ftpsd.config.tls import client_certificates as client_certificate_files
from ftpsd.config.tls.certificates import certificate_blocks
from ftpsd.system.file_systems import type_of
from ftpsd.system.tls import certificate_parts
from ftpsd.system.tls.client_certificates import ClientVerifier


def read_chain(path: Path) -> list[x509.Certificate]:
    """Return the certificates of a PEM file. Raises OSError or ValueError."""
    chain = certificate_parts.parse_pem_chain(certificate_blocks(path.read_bytes()))
    if chain is None:
        raise ValueError(f"{path} is damaged")
    return chain


def certificates(settings: Settings) -> list[Finding]:
    """Judge each certificate; of several, each finding names one. One of them must have the announced name."""
    name = next(iter(settings.passive.host_names), None)
    pairs = [pair for _, pair in settings.tls.pairs]
    judged = [(pair, finding) for pair in pairs for finding in _certificate(pair, name)]
    misnamed = [finding for _, finding in judged if finding.code == "tls.wrong_name"]
    if len(pairs) == 1:
        return [finding for _, finding in judged]
    return [
        evolve(finding, problem=f"{pair.certificate}: {finding.problem}")
        for pair, finding in judged
        if finding not in misnamed or len(misnamed) == len(pairs)
    ]


def _certificate(pair: CertificateSettings, name: str | None) -> list[Finding]:
    try:
        chain = read_chain(pair.certificate)
    except (OSError, ValueError):
        return []  # a fault of the configuration says so
    try:
        key = load_pem_private_key(pair.key_file.read_bytes(), None).public_key()
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    return certificate.file(chain, key, name, _now()) if chain else []


def client_certificates(verifier: ClientVerifier) -> list[Finding]:
    """Judge the files with which certificates of clients are verified."""
    found = client_certificate_files.warnings(verifier, time.time())
    return [
        Finding("certificate.clients", "fault", f"{printable(each.problem, 300)}.", f"{each.remedy.capitalize()}.")
        for each in found
    ]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def disks(paths: Iterable[str]) -> list[Finding]:
    """Judge the file systems of some directories, each once. A directory that is missing is left out."""
    found: list[Finding] = []
    devices: set[int] = set()
    for path in paths:
        try:
            device = os.stat(path).st_dev
            if device in devices:
                continue
            space, kind = os.statvfs(path), type_of(device)
        except OSError:
            continue
        devices.add(device)
        found += host.disk(path, (space.f_bavail, space.f_blocks), (space.f_favail, space.f_files))
        found += host.file_system(path, kind)
    return found


def open_files(settings: Settings, limit: int) -> list[Finding]:
    """Judge the limit of open files by the sessions and transfers that may be at the same time; -1: no limit."""
    limits = settings.limits
    range_size = settings.passive.ports.high - settings.passive.ports.low + 1
    ports = range_size if settings.passive.shared is None else limits.sessions
    transfers = min(limits.sessions, ports, limits.transfers or limits.sessions)
    return host.descriptors(limit, limits.sessions, transfers)


def clock(settings: Settings, configuration: Path, synchronized: bool | None) -> list[Finding]:
    """Judge the clock: it must be later than the times of the files. `synchronized`: None if nobody knows."""
    read = [configuration, *(pair.certificate for _, pair in settings.tls.pairs)]
    changed = [os.stat(each).st_mtime for each in read if os.path.exists(each)]
    return host.clock(synchronized, time.time(), max(changed, default=0.0))


def text_of(path: str) -> str:
    """Return the text of a file; an empty one if it cannot be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""
