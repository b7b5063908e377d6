"""Ensembles and cascades: several model versions registered as one model, which is released, served and rolled back as one.

The composed model's files are its members' files, each in a folder of its own, and ``composition.json``. So it is served without asking
anybody for its members, their bytes are kept while it lives, and the members are its parents in the lineage. How members are combined is
in ``andon.models.combining``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from andon.core.actors import Actor
from andon.core.addresses import Address, check_name
from andon.core.digests import canonical_json
from andon.core.errors import Forbidden, Incompatible, InvalidInput, LoadFailed
from andon.models.combining import ANSWERED_BY, FILE
from andon.models.records import CODE_FREE, Column, Dtype, Format, ModelManifest, Signature
from andon.registry import Parent, Version, get, manifest_of, register
from andon.store import Store

How = Literal["mean", "vote", "stacked"]
Rule = Literal["margin", "max", "output"]
Members = Sequence[str | Address] | Mapping[str, str | Address]
MAX_MEMBERS = 64
_FLOATS: tuple[Dtype, ...] = ("double", "float", "half")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class _Member(msgspec.Struct, frozen=True):
    name: str
    version: Version
    manifest: ModelManifest


def register_ensemble(
    store: Store,
    name: str,
    members: Members,
    *,
    how: How = "mean",
    weights: Sequence[float] | None = None,
    final: str | Address | None = None,
    show_members: bool = False,
    allow_pickle: bool = False,
    actor: Actor,
    reason: str = "",
) -> Version:
    """Register members that all answer, and whose answers are combined, as the next version of ``model:NAME``.

    ``members`` are model versions, by name or in order (then called ``m0``, ``m1``, …). ``how``: ``mean`` (floats are averaged with the
    ``weights``, labels are voted on), ``vote``, or ``stacked``, where ``final`` is a model whose inputs are request columns and members'
    outputs (``MEMBER_OUTPUT``). ``show_members`` adds each member's outputs under those names.

    Raises ``InvalidInput`` or ``Incompatible`` naming what does not fit together; nothing is registered then.
    """
    found = _members(store, members, allow_pickle=allow_pickle)
    if how not in ("mean", "vote", "stacked"):
        raise InvalidInput("an ensemble is combined by mean, vote or stacked", field="how", got=str(how)[:40])
    if (how == "stacked") != (final is not None):
        raise InvalidInput("a stacked ensemble needs a final member, and no other has one", field="final")
    last = None if final is None else _member(store, "final", final, allow_pickle=allow_pickle)
    given = _weights(weights, len(found), how)
    apart = [
        msgspec.structs.replace(column, name=f"{member.name}_{column.name}")
        for member in found
        for column in member.manifest.signature.outputs
    ]
    inputs = _inputs([*found, *([last] if last else [])], {column.name: column for column in apart} if last else {})
    outputs = list(last.manifest.signature.outputs) if last else _combined(found, how)
    if show_members:
        outputs += apart
    composition = {
        "kind": "ensemble",
        "how": how,
        "members": [{**_described(member, f"members/{at}"), "weight": given[at]} for at, member in enumerate(found)],
        "final": None if last is None else _described(last, "final"),
        "show_members": show_members,
    }
    return _register(store, "ensemble", name, found, last, Signature(inputs, _distinct(outputs)), composition, actor, reason)


def register_cascade(
    store: Store,
    name: str,
    members: Members,
    *,
    confidence: str,
    thresholds: float | Sequence[float],
    rule: Rule = "margin",
    allow_pickle: bool = False,
    actor: Actor,
    reason: str = "",
) -> Version:
    """Register members that answer one after the other as the next version of ``model:NAME``: who is sure answers, the rest goes on.

    A member is sure of a row when its confidence reaches the threshold of its step (one for all, or one for each member but the last).
    ``rule``: ``margin`` is ``|p - 0.5|`` of the output ``confidence``; ``max`` the largest output whose name begins with it (such as
    ``probability_``); ``output`` the output itself. The output ``answered_by`` names the member whose answer a row has.

    Raises ``InvalidInput`` or ``Incompatible`` naming what does not fit together; nothing is registered then.
    """
    found = _members(store, members, allow_pickle=allow_pickle)
    if rule not in ("margin", "max", "output"):
        raise InvalidInput("a cascade's rule is margin, max or output", field="rule", got=str(rule)[:40])
    steps = [thresholds] * (len(found) - 1) if isinstance(thresholds, int | float) else list(thresholds)
    if len(steps) != len(found) - 1 or not all(isinstance(step, int | float) and step == step for step in steps):
        raise InvalidInput("a cascade has one threshold, or one for each member but the last", field="thresholds", got=str(steps)[:80])
    for member in found[:-1]:
        names = [column.name for column in member.manifest.signature.outputs if column.dtype in _FLOATS]
        if not (any(output.startswith(confidence) for output in names) if rule == "max" else confidence in names):
            said = "no output of floats whose name begins so" if rule == "max" else "no such output of floats"
            raise InvalidInput(f"the member {member.name!r} has {said}", field="confidence", got=confidence[:80], outputs=", ".join(names))
    outputs = [*_same_outputs(found), Column(ANSWERED_BY, "string")]
    composition = {
        "kind": "cascade",
        "members": [_described(member, f"members/{at}") for at, member in enumerate(found)],
        "confidence": {"column": confidence, "rule": rule, "thresholds": [float(step) for step in steps]},
    }
    return _register(store, "cascade", name, found, None, Signature(_inputs(found, {}), _distinct(outputs)), composition, actor, reason)


def _members(store: Store, members: Members, *, allow_pickle: bool) -> list[_Member]:
    if isinstance(members, str | Address):
        raise InvalidInput("members are a list of models, or a mapping of name -> model", field="members", got=str(members)[:80])
    named = dict(members) if isinstance(members, Mapping) else {f"m{at}": member for at, member in enumerate(members)}
    if not 2 <= len(named) <= MAX_MEMBERS:
        raise InvalidInput(f"there are 2 to {MAX_MEMBERS} members", field="members", got=len(named))
    return [_member(store, name, address, allow_pickle=allow_pickle) for name, address in named.items()]


def _member(store: Store, name: str, address: str | Address, *, allow_pickle: bool) -> _Member:
    if not _NAME.fullmatch(name):
        raise InvalidInput("a member's name has letters, digits and underscores, and begins with a letter", field="members", got=name[:80])
    version = get(store, Address.parse(address, kind="model"))
    manifest = manifest_of(version, ModelManifest)
    at = str(version.address)
    if manifest.files is None:
        raise LoadFailed("this member's files were not here when it was registered", model=at, next_step="register it again")
    if not manifest.signature.inputs or not manifest.signature.outputs:
        raise Incompatible("this member has no signature", model=at, next_step="save it again with an example or a signature")
    if "pickle" in manifest.flags and not allow_pickle:
        raise Forbidden("loading this member runs code from its files", model=at, next_step="pass allow_pickle=True if you trust its maker")
    return _Member(name, version, manifest)


def _weights(weights: Sequence[float] | None, count: int, how: How) -> list[float]:
    if weights is None:
        return [1.0] * count
    if how == "stacked":
        raise InvalidInput("the final member weighs the others itself", field="weights")
    given = [float(weight) for weight in weights]
    if len(given) != count or not all(0 <= weight < float("inf") for weight in given) or not sum(given):
        raise InvalidInput(f"weights are {count} numbers, none below 0, not all 0", field="weights", got=str(given)[:80])
    return given


def _inputs(members: Sequence[_Member], made: Mapping[str, Column]) -> tuple[Column, ...]:
    """The columns that a request holds: what any member takes, but for what the members themselves have ``made``."""
    columns: dict[str, Column] = {}
    for member in members:
        for column in member.manifest.signature.inputs:
            known = made.get(column.name) if member.name == "final" else None
            seen = known or columns.get(column.name)
            if seen is not None and (seen.dtype, seen.shape) != (column.dtype, column.shape):
                why = f"the member {member.name!r} takes {column.dtype} in this column, and another member has {seen.dtype} there"
                raise Incompatible(why, field=column.name)
            if known is None:
                required = column.required or (seen is not None and seen.required)
                columns[column.name] = msgspec.structs.replace(column, required=required)
    return tuple(columns.values())


def _same_outputs(members: Sequence[_Member]) -> list[Column]:
    first = members[0].manifest.signature.outputs
    for member in members[1:]:
        theirs = {column.name: column for column in member.manifest.signature.outputs}
        for column in first:
            other = theirs.get(column.name)
            if other is None or (other.dtype, other.shape) != (column.dtype, column.shape):
                gives = "no such output" if other is None else f"{other.dtype} there"
                raise Incompatible(f"{members[0].name!r} gives {column.dtype} and {member.name!r} gives {gives}", field=column.name)
    return list(first)


def _combined(members: Sequence[_Member], how: How) -> list[Column]:
    outputs = _same_outputs(members)
    voted = [column for column in outputs if how == "vote" or column.dtype not in _FLOATS]
    if how == "mean" and len(voted) == len(outputs):
        raise InvalidInput("no output is a float, so there is nothing to average", field="how", next_step='say how="vote"')
    shaped = next((column for column in voted if column.shape), None)
    if shaped is not None:
        raise InvalidInput("only outputs with one value a row can be voted on", field=shaped.name)
    return [column if column in voted else msgspec.structs.replace(column, dtype="double") for column in outputs]


def _distinct(outputs: Sequence[Column]) -> tuple[Column, ...]:
    names = [column.name for column in outputs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput("two outputs would have this name; call the members otherwise", field="members", got=twice)
    return tuple(outputs)


def _described(member: _Member, folder: str) -> dict[str, Any]:
    signature = member.manifest.signature
    return {
        "name": member.name,
        "address": str(member.version.address),
        "digest": member.version.digest,
        "folder": folder,
        "format": member.manifest.format,
        "entry": member.manifest.entry,
        "inputs": [[column.name, column.dtype] for column in signature.inputs],
        "outputs": [[column.name, column.dtype] for column in signature.outputs],
        "flags": list(member.manifest.flags),
    }


def _register(
    store: Store,
    kind: Format,
    name: str,
    members: Sequence[_Member],
    final: _Member | None,
    signature: Signature,
    composition: dict[str, Any],
    actor: Actor,
    reason: str,
) -> Version:
    check_name(name)
    everyone = [*members, *([final] if final else [])]
    described = [*composition["members"], *([composition["final"]] if final else [])]
    files = {FILE: store.blobs.put(canonical_json(composition))}
    for member, told in zip(everyone, described, strict=True):
        assert member.manifest.files is not None
        files |= {f"{told['folder']}/{path}": digest for path, digest in store.blobs.tree(member.manifest.files).items()}
    tree = store.blobs.put_tree_of(files)
    manifests = [member.manifest for member in everyone]
    flags = [flag for flag in ("pickle",) if any(flag in manifest.flags for manifest in manifests)]
    if all(manifest.format == "onnx" or CODE_FREE in manifest.flags for manifest in manifests):
        flags.append(CODE_FREE)
    manifest = ModelManifest(
        format=kind,
        files=tree,
        entry=FILE,
        signature=signature,
        example=_example(manifests, signature),
        libraries={name: version for manifest in reversed(manifests) for name, version in manifest.libraries.items()},
        flags=tuple(flags),
        facts={"members": {member.name: str(member.version.address) for member in everyone}},
    )
    parents = [Parent(str(member.version.address), "member") for member in members]
    parents += [Parent(str(final.version.address), "final")] if final else []
    return register(store, "model", name, manifest, actor=actor, reason=reason, parents=parents, blobs=[tree])


def _example(manifests: Sequence[ModelManifest], signature: Signature) -> tuple[dict[str, Any], ...]:
    """Rows put together of the members' example rows; none where a required column has no value in them."""
    rows: list[dict[str, Any]] = []
    for at in range(max(len(manifest.example) for manifest in manifests)):
        held: dict[str, Any] = {}
        for manifest in reversed(manifests):
            held |= manifest.example[at] if at < len(manifest.example) else {}
        row = {column.name: held.get(column.name) for column in signature.inputs}
        if all(row[column.name] is not None or not column.required for column in signature.inputs):
            rows.append(row)
    return tuple(rows)
