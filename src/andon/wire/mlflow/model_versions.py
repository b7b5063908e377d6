"""Model versions: registered from what a run or a logged model holds, described, staged, tagged, deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import insert
from sqlalchemy import update as sql_update

from andon.core.addresses import Address
from andon.core.errors import AndonError
from andon.core.texts import check_text
from andon.models import ModelManifest, Signature, describe_foreign, files_at_in
from andon.models.prompts import PromptManifest
from andon.registry import (
    Entry,
    Parent,
    aliases_of_in,
    delete_in,
    get_in,
    link_in,
    register_in,
    remove_alias_in,
    set_tag_in,
    touch_entry_in,
)
from andon.store import schema as s
from andon.store.statements import rows_of
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid
from andon.wire.mlflow.limits import check_key
from andon.wire.mlflow.messages import required
from andon.wire.mlflow.prompts import FIXED, check_prompt_source, is_prompt, prompt_manifest
from andon.wire.mlflow.registered_models import WHY, Tag, checked_tags, drop_tag
from andon.wire.mlflow.registry_rendering import (
    STAGE_TAG,
    Row,
    check_name,
    entry_of,
    row_at,
    row_of,
    stage_of,
    title_of,
    version_json,
    version_number,
)
from andon.wire.mlflow.registry_sources import Source, resolve_source

if TYPE_CHECKING:
    from sqlalchemy import Connection

ACTIVE = ("Staging", "Production")
MAX_TEXT_BYTES = 400_000


class _Create(msgspec.Struct):
    name: str | None = None
    source: str | None = None
    run_id: str | None = None
    tags: list[Tag] | None = None
    run_link: str | None = None
    description: str | None = None
    model_id: str | None = None


class _At(msgspec.Struct):
    name: str | None = None
    version: str | None = None
    description: str | None = None


class _Stage(msgspec.Struct):
    name: str | None = None
    version: str | None = None
    stage: str | None = None
    archive_existing_versions: bool = False


class _Tag(msgspec.Struct):
    name: str | None = None
    version: str | None = None
    key: str | None = None
    value: str | None = None


def create(call: Call) -> dict[str, Any]:
    """The next version, whatever the one before it was."""
    asked = call.read(_Create)
    required(asked, "name", "source")
    for field in ("source", "run_id", "run_link", "description", "model_id"):
        check_text(getattr(asked, field) or "", field, at_most=MAX_TEXT_BYTES)
    name, tags = asked.name or "", checked_tags(asked.tags)
    prompt = is_prompt(tags)
    source = asked.source or ""
    if prompt:
        check_prompt_source(source)
        found, parents = Source(source, source, asked.run_id or "", None, ""), []
        manifest: PromptManifest | ModelManifest = prompt_manifest(tags)
    else:
        with call.store.ledger.read() as connection:
            found = resolve_source(connection, source, asked.run_id, asked.model_id)
            files = files_at_in(connection, found.origin) if found.origin else {}
            copied = None if found.copied is None else get_in(connection, found.copied.address).manifest
            parents = _parents(connection, found)
        manifest = _described(call, found, files) if copied is None else msgspec.convert(copied, ModelManifest)
        check_name(name)
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> dict[str, Any]:
        entry = entry_of(connection, name)
        if prompt != (entry.kind == "prompt"):
            raise invalid(f"Name `{name}` is registered as a {entry.kind}, so its versions cannot be of another kind.")
        blobs = [tree] if (tree := getattr(manifest, "files", None)) else []
        made = register_in(
            connection,
            entry.kind,
            entry.name,
            manifest,
            now_us=now_us,
            actor=call.actor,
            reason=asked.description.splitlines()[0][:200] if asked.description and asked.description.strip() else "",
            parents=parents,
            blobs=blobs,
            again=True,
        )
        at = made.address
        if found.model is not None and _has(connection, "logged_models", found.model):
            link_in(connection, str(at), f"logged-model:{found.model}", "logged-model", now_us=now_us)
        kept = {
            "source": found.source,
            "location": found.location,
            "run": found.run,
            "link": asked.run_link or "",
            "logged_model": found.model,
            "description": asked.description or "",
            "changed_us": now_us,
        }
        connection.execute(insert(s.version_sources).values(kind=at.kind, name=at.name, version=at.version, **kept))
        for key, value in tags.items():
            set_tag_in(connection, at, key, value, now_us=now_us, actor=call.actor)
        return {"model_version": version_json(connection, entry, row_at(connection, entry, at.version or 0))}

    return call.store.ledger.write(work)


def _described(call: Call, found: Source, files: dict[str, str]) -> ModelManifest:
    """What is known of the files now. A folder that cannot be read is registered all the same, and says so when it is loaded."""
    facts = {"source": found.source}
    try:
        return describe_foreign(call.store.blobs, files, origin=found.origin, facts=facts)
    except AndonError as error:
        told = facts | {"problem": error.message}
        return ModelManifest(format="mlflow", files=None, entry="MLmodel", signature=Signature((), ()), facts=told, origin=found.origin)


def _parents(connection: Connection, found: Source) -> list[Parent]:
    parents = []
    if found.copied is not None:
        parents.append(Parent(found.copied.address, "model"))
    if found.run and _has(connection, "runs", found.run):
        parents.append(Parent(f"run:{found.run}", "run"))
        query = "select distinct address from run_inputs where run = ? and address like 'dataset:%@%'"
        parents += [Parent(address, "data") for (address,) in rows_of(connection, query, (found.run,))]
    return parents


def _has(connection: Connection, table: str, identity: str) -> bool:
    return bool(rows_of(connection, f"select 1 from {table} where id = ?", (identity,)))


async def get(call: Call) -> dict[str, Any]:
    """One version."""
    asked = call.read(_At)
    required(asked, "name", "version")
    number = version_number(asked.version)
    return await call.look(lambda c: {"model_version": version_json(c, *row_of(c, asked.name or "", number))})


async def update(call: Call) -> dict[str, Any]:
    """Another description; none takes it away."""
    asked = call.read(_At)
    required(asked, "name", "version")
    number, now_us = version_number(asked.version), call.store.clock.now_us()
    check_text(asked.description or "", "description", at_most=MAX_TEXT_BYTES)

    def work(connection: Connection) -> dict[str, Any]:
        entry, row = row_of(connection, asked.name or "", number)
        _change(connection, row, now_us, description=asked.description)
        return {"model_version": version_json(connection, entry, row_at(connection, entry, number))}

    return await call.write(work)


def _change(connection: Connection, row: Row, now_us: int, **values: Any) -> None:
    """Set what a client may change of a version, and when it did; what Andon registered by itself gets its own record now."""
    at = s.version_sources.c
    key = (at.kind == row.kind) & (at.name == row.name) & (at.version == row.version)
    if row.source is not None:
        connection.execute(sql_update(s.version_sources).where(key).values(changed_us=now_us, **values))
        return
    runs = rows_of(connection, "select parent from edges where child = ? and role = 'run' and parent like 'run:%'", (row.address,))
    here = f"andon:/{row.address}"
    kept = {"source": here, "location": here, "run": runs[0][0].partition(":")[2] if runs else "", "link": "", "changed_us": now_us}
    connection.execute(insert(s.version_sources).values(kind=row.kind, name=row.name, version=row.version, **kept, **values))


async def transition(call: Call) -> dict[str, Any]:
    """Another stage, and the others in it archived if asked for."""
    asked = call.read(_Stage)
    required(asked, "name", "version", "stage")
    stage, number = stage_of(asked.stage or ""), version_number(asked.version)
    if asked.archive_existing_versions and stage not in ACTIVE:
        raise WireError(
            "INTERNAL_ERROR",
            f"Model version transition cannot archive existing model versions because '{asked.stage}' is not an Active stage."
            f" Valid stages are {list(ACTIVE)}",
        )
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> dict[str, Any]:
        entry, row = row_of(connection, asked.name or "", number)
        if asked.archive_existing_versions:
            query = "select subject from tags where key = ? and value = ? and subject like ?"
            for (subject,) in rows_of(connection, query, (STAGE_TAG, stage, f"{entry.kind}:{entry.name}@%")):
                at = Address.parse(subject)
                if at.entry == Address(entry.kind, entry.name) and at.version != number:
                    _to_stage(connection, row_at(connection, entry, at.version or 0), "Archived", call, now_us)
        _to_stage(connection, row, stage, call, now_us)
        touch_entry_in(connection, Address(entry.kind, entry.name), now_us=now_us)
        return {"model_version": version_json(connection, entry, row_at(connection, entry, number))}

    return await call.write(work)


def _to_stage(connection: Connection, row: Row, stage: str, call: Call, now_us: int) -> None:
    set_tag_in(connection, row.address, STAGE_TAG, stage, now_us=now_us, actor=call.actor, reason=WHY)
    _change(connection, row, now_us)


async def delete(call: Call) -> None:
    """A tombstone; its aliases and tags go with it. Refused while a release needs it."""
    asked = call.read(_At)
    required(asked, "name", "version")
    number, now_us = version_number(asked.version), call.store.clock.now_us()

    def work(connection: Connection) -> None:
        entry, row = row_of(connection, asked.name or "", number)
        drop_version_in(connection, entry, row, call, now_us)

    await call.write(work)


def drop_version_in(connection: Connection, entry: Entry, row: Row, call: Call, now_us: int) -> None:
    """Delete a version with what points to it."""
    at = Address(entry.kind, entry.name)
    for alias, target in aliases_of_in(connection, at).items():
        if target == row.address:
            remove_alias_in(connection, Address(at.kind, at.name, None, alias), now_us=now_us, actor=call.actor, reason=WHY)
    for (key,) in rows_of(connection, "select key from tags where subject = ?", (row.address,)):
        set_tag_in(connection, row.address, key, None, now_us=now_us, actor=call.actor, reason=WHY)
    delete_in(connection, row.address, now_us=now_us, actor=call.actor, reason=WHY)
    touch_entry_in(connection, at, now_us=now_us)


async def download_uri(call: Call) -> dict[str, Any]:
    """Where clients download a version from."""
    asked = call.read(_At)
    required(asked, "name", "version")
    number = version_number(asked.version)

    def work(connection: Connection) -> dict[str, Any]:
        _, row = row_of(connection, asked.name or "", number)
        query = "select location from version_sources where kind = ? and name = ? and version = ?"
        rows = rows_of(connection, query, (row.kind, row.name, row.version))
        return {"artifact_uri": rows[0][0] if rows else f"andon:/{row.address}"}

    return await call.look(work)


async def set_tag(call: Call) -> None:
    """A tag of a version."""
    asked = call.read(_Tag)
    required(asked, "name", "version", "key")
    number, now_us = version_number(asked.version), call.store.clock.now_us()
    tags = checked_tags([Tag(asked.key or "", asked.value or "")])

    def work(connection: Connection) -> None:
        entry, row = row_of(connection, asked.name or "", number)
        for key, value in tags.items():
            _refuse_fixed(entry, key)
            set_tag_in(connection, row.address, key, value, now_us=now_us, actor=call.actor)

    await call.write(work)


async def delete_tag(call: Call) -> None:
    """No such tag any more; there need not have been one."""
    asked = call.read(_Tag)
    required(asked, "name", "version", "key")
    number, now_us = version_number(asked.version), call.store.clock.now_us()
    check_key(asked.key or "", "key", "key")

    def work(connection: Connection) -> None:
        entry, row = row_of(connection, asked.name or "", number)
        _refuse_fixed(entry, asked.key or "")
        drop_tag(connection, Address.parse(row.address), asked.key or "", call, now_us)

    await call.write(work)


def _refuse_fixed(entry: Entry, key: str) -> None:
    if entry.kind == "prompt" and key in FIXED:
        raise invalid(f"The tag '{key}' is part of the version of the prompt '{title_of(entry)}'; register a new version to change it.")


_BASE = "2.0/mlflow/model-versions"
ROUTES = [
    Route("POST", f"{_BASE}/create", create, "thread"),
    Route("GET", f"{_BASE}/get", get, "inline"),
    Route("PATCH", f"{_BASE}/update", update, "inline"),
    Route("POST", f"{_BASE}/transition-stage", transition, "inline"),
    Route("DELETE", f"{_BASE}/delete", delete, "inline"),
    Route("GET", f"{_BASE}/get-download-uri", download_uri, "inline"),
    Route("POST", f"{_BASE}/set-tag", set_tag, "inline"),
    Route("DELETE", f"{_BASE}/delete-tag", delete_tag, "inline"),
]
