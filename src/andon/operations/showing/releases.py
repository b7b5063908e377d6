"""A release as a page: everything pinned, what was judged, what may be done with it, and how it differs from the last good one."""

from __future__ import annotations

from typing import Any

import msgspec

from andon.core.addresses import Address
from andon.core.digests import digest_json
from andon.core.errors import AndonError
from andon.core.verdicts import Answer
from andon.operations.showing.entries import lineage_view
from andon.operations.showing.incidents import incidents_view
from andon.operations.showing.judgements import blocking
from andon.operations.showing.records import JudgedRow, Light, PinRow, ReleaseRow, ReleaseView
from andon.registry import Version, aliases_of, diff_values, get, get_verdict, manifest_of, versions
from andon.releases import PRODUCTION, Pin, ReleaseManifest, ServiceState, service_state
from andon.store import Store

PLURAL = ("data", "features", "prompts", "indexes", "policies")


class Standing(msgspec.Struct, frozen=True):
    """What a release may do now, by the same rules as ``deploy``."""

    light: Light
    state: str
    deployable: bool
    why_not: str


def standing(state: ServiceState, release: str, channels: tuple[str, ...], now_us: int) -> Standing:
    """Where a release stands: which channels it holds, what the gate said, and whether production would take it."""
    judgement, rejection, waiver = state.judgements.get(release), state.rejections.get(release), state.waived(release, now_us)
    answer = None if judgement is None else judgement.answer
    held = release in state.held(PRODUCTION)
    holds = " and ".join(channels)
    if waiver is not None:
        why = f"runs under a waiver by {waiver.person}" if holds else f"may be deployed under a waiver by {waiver.person}"
        return Standing("yellow", f"holds {holds}; {why}" if holds else why, True, "")
    if rejection is not None:
        return Standing("red", f"rejected: {rejection.why}", False, f"it was rejected by {rejection.actor}: {rejection.why}")
    if answer == Answer.NO:
        return Standing("red", f"holds {holds}; the gate refused it" if holds else "the gate refused it", False, "the gate refused it")
    if answer != Answer.GO:
        said = "the gate could not decide" if judgement is not None and judgement.verdicts else "no gate has judged it"
        return Standing("grey", f"holds {holds}; {said}" if holds else said, False, said)
    if holds:
        return Standing("green", f"holds {holds}", True, "")
    return Standing("grey" if held else "green", "held production before" if held else "the gate let it through", True, "")


def compared_with(state: ServiceState, release: str) -> str | None:
    """The last good release beside this one: what it replaced, or would replace."""
    held = state.held(PRODUCTION)
    before = held[: held.index(release)] if release in held else held
    for other in reversed(before):
        judgement = state.judgements.get(other)
        if other != release and other not in state.rejections and judgement is not None and judgement.answer == Answer.GO:
            return other
    return None


def release_rows(store: Store, state: ServiceState, limit: int = 60) -> tuple[ReleaseRow, ...]:
    """A service's releases, newest first, deleted ones left out."""
    try:
        found = versions(store, Address("release", state.name), limit=limit)
    except AndonError:
        return ()
    now_us = store.clock.now_us()
    held = channels_by_release(store, state.name)
    rows = []
    for version in found:
        if version.deleted_us is not None:
            continue
        address = str(version.address)
        judgement = state.judgements.get(address)
        at = standing(state, address, held.get(address, ()), now_us)
        rows.append(
            ReleaseRow(
                address=address,
                version=version.address.version or 0,
                digest=version.digest,
                created_us=version.created_us,
                actor=version.actor,
                reason=version.reason,
                light=at.light,
                state=at.state,
                deployable=at.deployable,
                answer=None if judgement is None else judgement.answer,
                channels=held.get(address, ()),
            )
        )
    return tuple(rows)


def channels_by_release(store: Store, service: str) -> dict[str, tuple[str, ...]]:
    """Release -> the channels it holds."""
    found: dict[str, tuple[str, ...]] = {}
    for alias, target in aliases_of(store, Address("service", service)).items():
        found[target] = (*found.get(target, ()), alias)
    return found


def release_view(store: Store, address: str | Address) -> ReleaseView:
    """One release, whole. Raises ``NotFound``, ``Gone`` or ``InvalidInput``."""
    version = get(store, Address.parse(address, kind="release"))
    manifest = manifest_of(version, ReleaseManifest)
    at, service = str(version.address), version.address.name
    state = service_state(store, service)
    channels = channels_by_release(store, service).get(at, ())
    stands = standing(state, at, channels, store.clock.now_us())
    judgement = state.judgements.get(at)
    good = _manifest_or_none(store, compared_with(state, at))
    incidents = tuple(row for row in incidents_view(store, service=service) if row.release == at)
    if PRODUCTION in channels and any(row.closed_us is None for row in incidents):
        stands = msgspec.structs.replace(stands, light="red", state=f"{stands.state}; an incident is open")
    return ReleaseView(
        address=at,
        service=service,
        version=version.address.version or 0,
        digest=version.digest,
        created_us=version.created_us,
        actor=version.actor,
        reason=version.reason,
        light=stands.light,
        state=stands.state,
        deployable=stands.deployable,
        why_not=stands.why_not,
        channels=channels,
        pins=pins(manifest, None if good is None else good[1]),
        environment=manifest.environment.requirements,
        signature=msgspec.to_builtins(manifest.signature),
        answer=None if judgement is None else judgement.answer,
        policy=None if judgement is None else judgement.policy,
        judged=_judged(store, state, at, manifest),
        waiver=state.waivers.get(at),
        rejection=state.rejections.get(at),
        turns=tuple(turn for turn in state.turns if turn.release == at or turn.previous == at),
        incidents=incidents,
        compared_with=None if good is None else str(good[0].address),
        changes=()
        if good is None
        else tuple(change for change in diff_values(good[0].manifest, version.manifest) if _telling(change.path)),
        lineage=lineage_view(store, at, "up"),
    )


def _telling(path: str) -> bool:
    """Whether a difference says something: every release has verdicts, waivers and scored examples of its own."""
    return not path.startswith(("verdicts", "waivers", "scored"))


def _manifest_or_none(store: Store, address: str | None) -> tuple[Version, ReleaseManifest] | None:
    if address is None:
        return None
    try:
        version = get(store, address)
        return version, manifest_of(version, ReleaseManifest)
    except AndonError:  # deleted since, or written to another schema: nothing to compare with
        return None


def _judged(store: Store, state: ServiceState, release: str, manifest: ReleaseManifest) -> tuple[JudgedRow, ...]:
    judgement = state.judgements.get(release)
    blocks = blocking(store, judgement)
    found = []
    for name in judgement.verdicts if judgement is not None else manifest.verdicts:
        try:
            verdict = get_verdict(store, name)
        except AndonError:  # a verdict that cannot be read leaves a gap, not an error page
            continue
        found.append(JudgedRow(verdict=verdict, blocks=blocks.get(verdict.check)))
    return tuple(found)


def pins(manifest: ReleaseManifest, good: ReleaseManifest | None) -> tuple[PinRow, ...]:
    """Every component, in the order in which a request meets them."""
    code, environment = manifest.code, manifest.environment
    rows = [
        PinRow(
            component="code",
            address=None,
            digest=code.tree or code.dirty_diff,
            detail=_code_says(manifest),
            changed=good is not None and good.code != code,
        ),
        PinRow(
            component="environment",
            address=None,
            digest=digest_json(environment),
            detail=f"Python {environment.python} on {environment.platform}, {len(environment.requirements)} packages",
            changed=good is not None and good.environment != environment,
        ),
    ]
    for component in ("features", "model", "data", "evaluation", "prompts", "indexes", "policies"):
        ours = _pins_of(manifest, component)
        theirs = None if good is None else _pins_of(good, component)
        rows += [
            PinRow(component=component, address=pin.address, digest=pin.digest, detail="", changed=theirs is not None and pin not in theirs)
            for pin in ours
        ]
        if theirs and not ours:
            rows.append(PinRow(component=component, address=None, digest=None, detail="nothing is pinned any more", changed=True))
    return tuple(rows)


def _pins_of(manifest: ReleaseManifest, component: str) -> tuple[Pin, ...]:
    held: Any = getattr(manifest, component)
    if component in PLURAL:
        return tuple(held)
    return () if held is None else (held,)


def _code_says(manifest: ReleaseManifest) -> str:
    code = manifest.code
    parts = [f"commit {code.commit[:12]}" if code.commit else "no commit"]
    if code.dirty_diff:
        parts.append("with uncommitted changes")
    parts.append(f"transform {code.transform}" if code.transform else "no transform")
    return ", ".join(parts)
