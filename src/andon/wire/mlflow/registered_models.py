"""Registered models: made, named, described, tagged, aliased, deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.addresses import Address
from andon.core.errors import Conflict
from andon.registry import (
    Entry,
    create_entry_in,
    delete_entry_in,
    describe_entry_in,
    entry_titled_in,
    move_alias_in,
    read_alias_in,
    remove_alias_in,
    retitle_in,
    set_tag_in,
)
from andon.store.statements import rows_of
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid, missing
from andon.wire.mlflow.limits import check_key, too_long
from andon.wire.mlflow.messages import required
from andon.wire.mlflow.prompts import IS_PROMPT, is_prompt
from andon.wire.mlflow.registry_rendering import (
    KINDS,
    LATEST,
    STAGE_TAG,
    Row,
    check_client_alias,
    check_free_alias,
    check_name,
    entry_of,
    latest_in,
    models_json,
    our_alias,
    row_at,
    row_of,
    stage_of,
    title_of,
    version_json,
    version_number,
    versions_json,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

MAX_TAG_VALUE = 100_000
WHY = "asked for over the MLflow protocol"


class Tag(msgspec.Struct):
    """A tag as clients send it."""

    key: str = ""
    value: str = ""


class _Create(msgspec.Struct):
    name: str | None = None
    tags: list[Tag] | None = None
    description: str | None = None


class _Named(msgspec.Struct):
    name: str | None = None


class _Rename(msgspec.Struct):
    name: str | None = None
    new_name: str | None = None


class _Latest(msgspec.Struct):
    name: str | None = None
    stages: list[str] | None = None


class _Tag(msgspec.Struct):
    name: str | None = None
    key: str | None = None
    value: str | None = None


class _Alias(msgspec.Struct):
    name: str | None = None
    alias: str | None = None
    version: str | None = None


async def create(call: Call) -> dict[str, Any]:
    """A new name with no version yet."""
    asked = call.read(_Create)
    required(asked, "name")
    name = asked.name or ""
    check_name(name)
    tags = checked_tags(asked.tags)
    prompt = is_prompt(tags)
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> dict[str, Any]:
        known = entry_titled_in(connection, KINDS, name)
        if known is not None:
            raise _taken(name, known, prompt)
        try:
            kind = "prompt" if prompt else "model"
            made = create_entry_in(connection, kind, name, now_us=now_us, actor=call.actor, description=asked.description or None)
        except Conflict:
            raise WireError("RESOURCE_ALREADY_EXISTS", f"Registered Model (name={name}) already exists.") from None
        for key, value in tags.items():
            set_tag_in(connection, Address(made.kind, made.name), key, value, now_us=now_us, actor=call.actor)
        return {"registered_model": models_json(connection, [made])[0]}

    return await call.write(work)


def _taken(name: str, known: Entry, prompt: bool) -> WireError:
    if (known.kind == "prompt") == prompt:
        return WireError("RESOURCE_ALREADY_EXISTS", f"{'Prompt' if prompt else 'Registered Model'} (name={name}) already exists.")
    wanted, there = ("prompt", "registered model") if prompt else ("registered model", "prompt")
    return WireError(
        "RESOURCE_ALREADY_EXISTS",
        f"Tried to create a {wanted} with name '{name}', but the name is already taken by a {there}. MLflow does not allow creating a model"
        " and a prompt with the same name.",
    )


async def get(call: Call) -> dict[str, Any]:
    """One registered model."""
    asked = call.read(_Named)
    required(asked, "name")
    return await call.look(lambda c: {"registered_model": models_json(c, [entry_of(c, asked.name or "")])[0]})


async def update(call: Call) -> dict[str, Any]:
    """Another description; none takes it away."""
    asked = call.read(_Create)
    required(asked, "name")
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> dict[str, Any]:
        entry = entry_of(connection, asked.name or "")
        describe_entry_in(connection, Address(entry.kind, entry.name), asked.description or None, now_us=now_us)
        return {"registered_model": models_json(connection, [entry_of(connection, asked.name or "")])[0]}

    return await call.write(work)


async def rename(call: Call) -> dict[str, Any]:
    """The client's name moves; the address that releases pin stays."""
    asked = call.read(_Rename)
    required(asked, "name", "new_name")
    name, new = asked.name or "", asked.new_name or ""
    check_name(new)
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> dict[str, Any]:
        entry = entry_of(connection, name)
        other = entry_titled_in(connection, KINDS, new)
        if other is not None and (other.kind, other.name) != (entry.kind, entry.name):
            raise WireError("RESOURCE_ALREADY_EXISTS", f"Registered Model (name={new}) already exists.")
        retitle_in(connection, Address(entry.kind, entry.name), new, now_us=now_us)
        return {"registered_model": models_json(connection, [entry_of(connection, new)])[0]}

    return await call.write(work)


async def delete(call: Call) -> None:
    """The name with its versions, aliases and tags; refused while a release needs one of them."""
    asked = call.read(_Named)
    required(asked, "name")
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> None:
        entry = entry_of(connection, asked.name or "")
        delete_entry_in(connection, Address(entry.kind, entry.name), now_us=now_us, actor=call.actor, reason=WHY)

    await call.write(work)


async def latest_versions(call: Call) -> dict[str, Any]:
    """The newest version in each stage, or in some."""
    asked = call.read(_Latest)
    required(asked, "name")

    def work(connection: Connection) -> dict[str, Any]:
        entry = entry_of(connection, asked.name or "")
        wanted = {stage_of(stage) for stage in asked.stages or ()}
        rows = latest_in(connection, [entry]).get((entry.kind, entry.name), [])
        shown = [version_json(connection, entry, row) for row in rows]
        found = [item for item in shown if not wanted or item["current_stage"] in wanted]
        return {"model_versions": found} if found else {}

    return await call.look(work)


async def set_tag(call: Call) -> None:
    """A tag of the name."""
    asked = call.read(_Tag)
    required(asked, "name", "key")
    tags = checked_tags([Tag(asked.key or "", asked.value or "")])
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> None:
        entry = entry_of(connection, asked.name or "")
        if IS_PROMPT in tags and is_prompt(tags) != (entry.kind == "prompt"):
            raise invalid(f"'{title_of(entry)}' is registered as a {entry.kind} and stays one: the tag '{IS_PROMPT}' cannot change that.")
        for key, value in tags.items():
            set_tag_in(connection, Address(entry.kind, entry.name), key, value, now_us=now_us, actor=call.actor)

    await call.write(work)


async def delete_tag(call: Call) -> None:
    """No such tag any more; there need not have been one."""
    asked = call.read(_Tag)
    required(asked, "name", "key")
    key = asked.key or ""
    check_key(key, "key", "key")
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> None:
        entry = entry_of(connection, asked.name or "")
        if key == IS_PROMPT and entry.kind == "prompt":
            raise invalid(f"'{title_of(entry)}' is registered as a prompt and stays one: the tag '{IS_PROMPT}' cannot be deleted.")
        drop_tag(connection, Address(entry.kind, entry.name), key, call, now_us)

    await call.write(work)


def drop_tag(connection: Connection, at: Address, key: str, call: Call, now_us: int) -> None:
    """Remove a tag if it is there and the client's."""
    if key != STAGE_TAG and rows_of(connection, "select 1 from tags where subject = ? and key = ?", (str(at), key)):
        set_tag_in(connection, at, key, None, now_us=now_us, actor=call.actor)


def checked_tags(tags: list[Tag] | None) -> dict[str, str]:
    """Tags by key, the last of each. Raises ``WireError`` naming what is wrong."""
    for tag in tags or ():
        check_key(tag.key, "key", "key")
        if len(tag.value) > MAX_TAG_VALUE:
            raise too_long("value", MAX_TAG_VALUE)
        if tag.key == STAGE_TAG:
            raise invalid(f"The tag '{STAGE_TAG}' is the version's stage; use the stage transition instead.")
    return {tag.key: tag.value for tag in tags or ()}


async def set_alias(call: Call) -> None:
    """Point an alias to a version."""
    asked = call.read(_Alias)
    required(asked, "name", "alias", "version")
    alias, number = asked.alias or "", version_number(asked.version)
    check_free_alias(alias)
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> None:
        entry, row = row_of(connection, asked.name or "", number)
        at = Address(entry.kind, entry.name, None, our_alias(alias))
        move_alias_in(connection, at, row.address, now_us=now_us, actor=call.actor, reason=WHY)

    await call.write(work)


async def delete_alias(call: Call) -> None:
    """An alias that points nowhere; it need not have pointed anywhere before."""
    asked = call.read(_Alias)
    required(asked, "name", "alias")
    alias = asked.alias or ""
    check_client_alias(alias)
    now_us = call.store.clock.now_us()

    def work(connection: Connection) -> None:
        entry = entry_of(connection, asked.name or "")
        if alias.lower() == LATEST:
            return
        at = Address(entry.kind, entry.name, None, our_alias(alias))
        if read_alias_in(connection, at) is not None:
            remove_alias_in(connection, at, now_us=now_us, actor=call.actor, reason=WHY)

    await call.write(work)


async def get_by_alias(call: Call) -> dict[str, Any]:
    """The version that an alias points to."""
    asked = call.read(_Alias)
    required(asked, "name", "alias")
    return await call.look(lambda c: {"model_version": _aliased(c, asked.name or "", asked.alias or "")})


def _aliased(connection: Connection, name: str, alias: str) -> dict[str, Any]:
    check_client_alias(alias)
    entry = entry_of(connection, name)
    if alias.lower() == LATEST:
        rows = latest_in(connection, [entry]).get((entry.kind, entry.name), [])
        if not rows:
            raise missing(f"Latest version not found for model {name}.")
        newest = max(rows, key=lambda row: row.version)
        # The protocol's server leaves the aliases out of this one answer.
        return versions_json(connection, [newest], {(entry.kind, entry.name): title_of(entry)})[0]
    return version_json(connection, entry, aliased_row(connection, entry, alias))


def aliased_row(connection: Connection, entry: Entry, alias: str) -> Row:
    """The version that a client's alias points to. Raises ``WireError``."""
    query = "select target from aliases where kind = ? and name = ? and alias = ? and target is not null"
    rows = rows_of(connection, query, (entry.kind, entry.name, our_alias(alias)))
    if not rows:
        raise invalid(f"Registered model alias {alias} not found.")
    return row_at(connection, entry, int(rows[0][0].rpartition("@")[2]))


_AT = "2.0/mlflow/registered-models"
ROUTES = [
    Route("POST", f"{_AT}/create", create, "inline"),
    Route("GET", f"{_AT}/get", get, "inline"),
    Route("PATCH", f"{_AT}/update", update, "inline"),
    Route("POST", f"{_AT}/rename", rename, "inline"),
    Route("DELETE", f"{_AT}/delete", delete, "inline"),
    Route("GET", f"{_AT}/get-latest-versions", latest_versions, "inline"),
    Route("POST", f"{_AT}/get-latest-versions", latest_versions, "inline"),
    Route("POST", f"{_AT}/set-tag", set_tag, "inline"),
    Route("DELETE", f"{_AT}/delete-tag", delete_tag, "inline"),
    Route("POST", f"{_AT}/alias", set_alias, "inline"),
    Route("DELETE", f"{_AT}/alias", delete_alias, "inline"),
    Route("GET", f"{_AT}/alias", get_by_alias, "inline"),
]
