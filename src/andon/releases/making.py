"""Making a release: pin everything, let the release answer the evaluation examples itself, judge, and register it with what was judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from numpy.typing import NDArray

from andon.core.actors import Actor
from andon.core.addresses import Address
from andon.core.errors import Incompatible, InvalidInput
from andon.core.verdicts import Answer, Judged, Status, Verdict, gate_answer
from andon.gates import GateEvidence, judge, policy_at
from andon.models.records import ModelManifest, Signature
from andon.models.servable import check_servable
from andon.registry import Parent, get_in, manifest_of, parents_in, record_verdicts_in, register_in
from andon.releases.records import CodePin, Pin, ReleaseManifest
from andon.releases.scored import Examples, keep_scored
from andon.releases.services import service_state_in, stream_of
from andon.store import Store, streams
from andon.tracking.records import EnvironmentLock

Columns = Mapping[str, NDArray[Any]]
DAY_US = 86_400_000_000


class Scorer(Protocol):
    """Answers examples exactly as production would: the release's own environment, transform and model. Handed in from above."""

    def __call__(self, manifest: ReleaseManifest, columns: Columns) -> NDArray[Any]:
        """Predictions, float64 (n,), for columns of length n. Raises ``BuildFailed``, ``LoadFailed`` or ``ModelFailed``."""
        ...


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A registered release and what the gate said of it."""

    address: Address
    digest: str
    answer: Answer
    judged: tuple[Judged, ...]
    manifest: ReleaseManifest


def assemble(
    store: Store,
    service: str,
    *,
    model: str | Address,
    environment: EnvironmentLock,
    code: CodePin | None = None,
    signature: Signature | None = None,
    data: tuple[str, ...] = (),
    evaluation: str | None = None,
    features: tuple[str, ...] = (),
    prompts: tuple[str, ...] = (),
    indexes: tuple[str, ...] = (),
    policies: tuple[str, ...] = (),
    example: tuple[dict[str, Any], ...] | None = None,
    settings: dict[str, Any] | None = None,
) -> ReleaseManifest:
    """Pin every component by digest. Raises ``NotFound``, ``InvalidInput`` or ``Incompatible`` naming the component."""
    with store.ledger.read() as connection:

        def pin(text: str | Address, kind: str) -> Pin:
            version = get_in(connection, Address.parse(text, kind=kind))
            return Pin(str(version.address), version.digest)

        model_version = get_in(connection, Address.parse(model, kind="model"))
        made = manifest_of(model_version, ModelManifest)
        check_servable(made, str(model_version.address))
        code = code or CodePin()
        if signature is not None and code.transform is None and signature != made.signature:
            raise Incompatible("without a transform, requests hold exactly the model's columns", field="signature")
        return ReleaseManifest(
            service=service,
            model=Pin(str(model_version.address), model_version.digest),
            code=code,
            environment=environment,
            signature=signature or made.signature,
            data=tuple(pin(item, "dataset") for item in data),
            evaluation=None if evaluation is None else pin(evaluation, "dataset"),
            features=tuple(pin(item, "features") for item in features),
            prompts=tuple(pin(item, "prompt") for item in prompts),
            indexes=tuple(pin(item, "index") for item in indexes),
            policies=tuple(pin(item, "policy") for item in policies),
            example=made.example if example is None else example,
            settings=settings or {},
        )


def make(
    store: Store,
    manifest: ReleaseManifest,
    *,
    examples: Examples | None,
    score: Scorer,
    gate: str = "policy:gate/default",
    actor: Actor,
    reason: str = "",
    waive: str | None = None,
    waiver_s: float = 14 * 86_400.0,
) -> Made:
    """Judge a release and register it, whatever the answer: a refused one is kept with its verdicts, and cannot be deployed.

    ``waive`` is a person's reason to let a refused release through for ``waiver_s`` seconds. Raises what ``score`` raises when the
    candidate cannot even answer; nothing is registered then.
    """
    policy_version, policy = policy_at(store, gate, actor=actor)
    policy_pin = Pin(str(policy_version.address), policy_version.digest)
    if policy_pin not in manifest.policies:
        manifest = msgspec.structs.replace(manifest, policies=(*manifest.policies, policy_pin))
    judged: list[Judged] = []
    if examples is not None:
        evidence, manifest = _evidence(store, manifest, examples, score)
        judged = [*_unseen(store, manifest), *judge(policy, evidence)]
    now_us = store.clock.now_us()
    judged = [msgspec.structs.replace(item, verdict=_stamp(item.verdict, store.ids.new(), now_us)) for item in judged]
    answer = gate_answer(judged) if examples is not None else Answer.UNDECIDED
    waiver = {"id": store.ids.new(), "expires_us": now_us + int(waiver_s * 1e6)} if waive is not None and answer != Answer.GO else None
    manifest = msgspec.structs.replace(
        manifest,
        verdicts=tuple(f"verdict:{item.verdict.id}" for item in judged),
        waivers=() if waiver is None else (str(waiver["id"]),),
    )
    return store.ledger.write(
        lambda connection: _register(connection, manifest, judged, answer, policy_pin, waiver, now_us, actor, reason, waive)
    )


def _evidence(store: Store, manifest: ReleaseManifest, examples: Examples, score: Scorer) -> tuple[GateEvidence, ReleaseManifest]:
    columns = {column.name: examples.columns[column.name] for column in manifest.signature.inputs if column.name in examples.columns}
    missing = [column.name for column in manifest.signature.inputs if column.required and column.name not in columns]
    if missing:
        raise InvalidInput(f"the evaluation examples lack {', '.join(missing)}", field="evaluation")
    prediction = score(manifest, columns)
    champion, champion_name = _champion(store, manifest, columns, score)
    digest = keep_scored(store, examples, columns, prediction)
    evidence = GateEvidence(
        subject=str(Address("release", manifest.service)),
        event_us=examples.event_us,
        inputs=columns,
        label=examples.label,
        prediction=prediction,
        champion=champion,
        champion_name=champion_name,
        baseline=examples.baseline,
        baseline_name=examples.baseline_name,
        training=examples.training,
    )
    return evidence, msgspec.structs.replace(manifest, scored=digest)


def _unseen(store: Store, manifest: ReleaseManifest) -> list[Judged]:
    """Whether the evaluation examples are not what the model was trained on, by digest: whatever else a policy says, that blocks."""
    if manifest.evaluation is None:
        return []
    with store.ledger.read() as connection:
        model = Address.parse(manifest.model.address)
        used = [parent for parent, role in parents_in(connection, model) if role == "data"]
        trained_on = {pin.digest: pin.address for pin in manifest.data} | {get_in(connection, item).digest: item for item in used}
    same = trained_on.get(manifest.evaluation.digest)
    message = f"{manifest.evaluation.address} is not among what the model was trained on"
    if same is not None:
        message = f"the model was trained on these very examples ({same}); judge it on data it has not seen"
    subject = str(Address("release", manifest.service))
    status: Status = "pass" if same is None else "fail"
    return [Judged(Verdict(subject=subject, check="unseen-examples", status=status, message=message, n=len(trained_on)), blocks=True)]


def _champion(store: Store, manifest: ReleaseManifest, columns: Columns, score: Scorer) -> tuple[NDArray[Any] | None, str]:
    with store.ledger.read() as connection:
        current = service_state_in(connection, manifest.service).current()
        if current is None:
            return None, ""
        version = get_in(connection, current)
    other = manifest_of(version, ReleaseManifest)
    if [c.name for c in other.signature.inputs] != [c.name for c in manifest.signature.inputs]:
        raise Incompatible(
            "the champion takes other columns, so the two cannot answer the same examples", field="signature", champion=current
        )
    return score(other, columns), current


def _stamp(verdict: Verdict, id_: str, now_us: int) -> Verdict:
    return msgspec.structs.replace(verdict, id=id_, at_us=now_us)


def _register(
    connection: Any,
    manifest: ReleaseManifest,
    judged: list[Judged],
    answer: Answer,
    policy: Pin,
    waiver: dict[str, Any] | None,
    now_us: int,
    actor: Actor,
    reason: str,
    waive: str | None,
) -> Made:
    blobs = [digest for digest in (manifest.code.tree, manifest.code.dirty_diff, manifest.scored, manifest.environment.wheels) if digest]
    version = register_in(
        connection,
        "release",
        manifest.service,
        manifest,
        now_us=now_us,
        actor=actor,
        reason=reason,
        parents=parents_of(manifest),
        blobs=blobs,
    )
    address = str(version.address)
    judged = [msgspec.structs.replace(item, verdict=msgspec.structs.replace(item.verdict, subject=address)) for item in judged]
    record_verdicts_in(connection, [item.verdict for item in judged])
    stream = stream_of(manifest.service)
    body = {"release": address, "answer": int(answer), "verdicts": manifest.verdicts, "policy": policy.address}
    streams.append(connection, stream, "judged", body, at_us=now_us, actor=actor, reason=reason)
    if waiver is not None:
        streams.append(connection, stream, "waived", {"release": address, **waiver}, at_us=now_us, actor=actor, reason=waive or "")
    return Made(address=version.address, digest=version.digest, answer=answer, judged=tuple(judged), manifest=manifest)


def parents_of(manifest: ReleaseManifest) -> list[Parent]:
    """The lineage of a release: everything it pins that has an address."""
    groups = {
        "model": (manifest.model,),
        "data": manifest.data,
        "evaluation": () if manifest.evaluation is None else (manifest.evaluation,),
        "features": manifest.features,
        "prompt": manifest.prompts,
        "index": manifest.indexes,
        "policy": manifest.policies,
    }
    return [Parent(pin.address, role) for role, pins in groups.items() for pin in pins]
