"""The schemas of what the API answers with, for the OpenAPI document. The tests check all answers against them."""

from __future__ import annotations

from typing import cast, get_args

from ftpsd.accounts.chain.counts import RESULTS, State
from ftpsd.admin.api.arguments import Schema
from ftpsd.events.types import BanKind
from ftpsd.figures.figures import WorkerState
from ftpsd.limits.session_registry import SessionState
from ftpsd.storage.stores import State as StoreState

TIME: Schema = {"type": "string", "format": "date-time"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
STRING: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
STRINGS: Schema = {"type": "array", "items": STRING}


#: A member that an answer has if the state file cannot be read or written.
_NOT_STORED: Schema = {
    "const": False,
    "description": "Only if the state file cannot be read or written now. It is changed when that is possible, unless "
    "the daemon ends before.",
}


def to(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(**members: Schema) -> Schema:
    """Return the schema of an object that has exactly these members."""
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


def array(items: Schema) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


def listed(name: str, item: str, total: bool = True) -> Schema:
    """Return the schema of a list, and how many there are on all its pages."""
    return record(**{name: array(to(item))}, **({"total": COUNT} if total else {}))


def listed_sessions(name: str) -> Schema:
    """Return the schema of a list of sessions. It says if some are missing."""
    return _unless_missing(listed(name, "Session"), "The list does not have their sessions.")


def _unless_missing(schema: Schema, consequence: str) -> Schema:
    text = f"If worker processes do not answer: their indexes. {consequence}"
    missing: Schema = {"type": "array", "items": COUNT, "minItems": 1, "description": text}
    return {**schema, "properties": {**cast(Schema, schema["properties"]), "missing_workers": missing}}


def unless_stored(schema: Schema) -> Schema:
    """Return the schema of an answer to a change of bans. It says if the state file does not have the change."""
    return {**schema, "properties": {**cast(Schema, schema["properties"]), "stored": _NOT_STORED}}


def maybe(schema: Schema) -> Schema:
    """Return a schema that admits null, too."""
    return {"anyOf": [schema, {"type": "null"}]}


DISMISSED = _unless_missing(record(dismissed=COUNT), "Their sessions may continue.")
FINDINGS = record(
    findings=array(
        record(code=STRING, level={"enum": ["fault", "warning", "note"]}, problem=STRING, cure=STRING, paste=STRING)
    )
)
LIFTED = unless_stored(record(lifted=COUNT))

LIMIT = record(name=STRING, used=NUMBER, limit=maybe(NUMBER))
GROUP_LIMIT = record(
    name={"enum": ["sessions", "transfers", "upload_rate", "download_rate", "quota_bytes", "quota_files"]},
    used=maybe({"type": "number", "description": "Null for rates, and until the homes of all members are counted."}),
    limit=NUMBER,
)

COMPONENTS: Schema = {
    "Session": record(
        number=COUNT,
        user=maybe(STRING),
        address=STRING,
        since=TIME,
        idle=maybe({"type": "number", "minimum": 0, "description": "Seconds; null while a command runs."}),
        tls=maybe(STRING),
        certificate=maybe(STRING),
        client=maybe(STRING),
        command=maybe(STRING),
        path=maybe(STRING),
        direction={"enum": ["upload", "download", None]},
        bytes=maybe(COUNT),
        size=maybe(COUNT),
        rate=maybe({"type": "number", "description": "Bytes per second in the last seconds."}),
        state={"enum": list(get_args(SessionState))},
    ),
    "Ban": record(
        kind={"enum": list(get_args(BanKind))},
        subject=STRING,
        until=maybe({"type": "number", "description": "Seconds since 1970; null: for ever."}),
    ),
    "NewBan": unless_stored(record(kind={"enum": list(get_args(BanKind))}, subject=STRING, until=maybe(NUMBER))),
    "User": record(
        name=STRING,
        settings={"type": "object", "description": "The keys of docs/configuration.md, without the password."},
        usage=maybe(record(bytes=COUNT, files=COUNT)),
        quota=record(bytes=maybe(COUNT), files=maybe(COUNT)),
        folders=array(
            record(
                path=STRING,
                usage=maybe(record(bytes=COUNT, files=COUNT)),
                quota=record(bytes=maybe(COUNT), files=maybe(COUNT)),
            )
        ),
        groups=array(
            record(
                name=STRING,
                sessions=COUNT,
                transfers=COUNT,
                limits=record(
                    sessions=maybe(COUNT), transfers=maybe(COUNT), upload_rate=maybe(COUNT), download_rate=maybe(COUNT)
                ),
                usage=maybe(record(bytes=COUNT, files=COUNT)),
                quota=record(bytes=maybe(COUNT), files=maybe(COUNT)),
            )
        ),
        bans=array(to("Ban")),
        last_login=maybe(TIME),
        sessions=COUNT,
    ),
    "Reload": record(time=TIME, ok=FLAG, faults=STRINGS, last_good=TIME),
    "Certificate": record(file=STRING, expires=maybe(TIME)),
    "Status": record(
        version=STRING,
        started=TIME,
        uptime=NUMBER,
        listeners=array(record(address=STRING, port=COUNT, tls={"enum": ["explicit", "implicit"]})),
        sessions=record(used=COUNT, limit=COUNT),
        transfers=record(uploads=COUNT, downloads=COUNT, upload_rate=NUMBER, download_rate=NUMBER),
        limits=array(LIMIT),
        groups=array(record(name=STRING, limits=array(GROUP_LIMIT))),
        bans=COUNT,
        certificate=to("Certificate"),
        certificates=array(to("Certificate")),
        reload=to("Reload"),
        threads=record(size=COUNT, busy=COUNT, stuck=COUNT),
        passive_ports=record(
            first=COUNT,
            last=COUNT,
            used={**COUNT, "description": "0 if all sessions share them: none is ever used up."},
            shared=FLAG,
        ),
        sources=array(to("Source")),
        stores=array(to("Store")),
        workers=array(to("Worker")),
        worker_restarts={**COUNT, "description": "Workers that were started in place of one that had failed."},
        sandbox=maybe(
            {**STRINGS, "description": "Where the daemon may write until a restart; null if there is no such bound."}
        ),
    ),
    "Health": record(ready=FLAG, reasons={**STRINGS, "description": "Why the daemon cannot serve clients."}),
    "Worker": record(
        index=COUNT,
        process=COUNT,
        state={"enum": [*get_args(WorkerState), "silent"], "description": "silent: it does not answer."},
        since=TIME,
        sessions=maybe(COUNT),
        cpu=maybe({"type": "number", "description": "Seconds of processor time."}),
        memory=maybe({**COUNT, "description": "Bytes; what workers share counts in parts."}),
    ),
    "Store": record(
        name={"type": "string", "description": "The name in the section storage."},
        bucket=STRING,
        state={"enum": list(get_args(StoreState))},
        error=maybe({"type": "string", "description": "Why it is down; null if it is not."}),
    ),
    "Source": record(
        name={"type": "string", "description": "The type and the index in users.sources, as ldap[1]."},
        state={"enum": list(get_args(State))},
        error=maybe({"type": "string", "description": "The last failure; null if there was none."}),
        questions=record(**dict.fromkeys(RESULTS, COUNT)),
        waiting=COUNT,
        running=COUNT,
        hanging=COUNT,
        remembered={"type": "integer", "minimum": 0, "description": "Users who get in while the source is down."},
    ),
    "Reloaded": record(ok={"const": True}, warnings=STRINGS),
    "Problem": {
        "type": "object",
        "properties": {"type": STRING, "title": STRING, "status": COUNT, "detail": STRING, "faults": STRINGS},
        "required": ["type", "title", "status", "detail"],
    },
}
