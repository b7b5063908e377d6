"""How complete a run is: what belongs in it, what is missing, and what to do about each. The score is the weight of what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, select

from andon.core.addresses import Address
from andon.models import ModelManifest
from andon.registry import get, manifest_of, tags_of
from andon.store import Store
from andon.store import schema as s
from andon.tracking.artifacts import artifacts_of
from andon.tracking.inputs import DescribedInput, described_inputs_in
from andon.tracking.records import Artifact, Metric, RunInput, RunRecord
from andon.tracking.runs import get_run, inputs_of, metrics_of, params_of

COMMIT_TAG, ENTRY_TAG = "mlflow.source.git.commit", "mlflow.source.name"
"""In which the most usual of other clients say where their code is."""
WRAP = "start it with `andon run -- CMD`, or the run with andon.run: then it is captured"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that belongs in a run. ``weight`` is its share of the score; ``advice`` says what to do when it is missing."""

    name: str
    present: bool
    weight: float
    found: str
    advice: str = ""


class Completeness(msgspec.Struct, frozen=True, kw_only=True):
    """``score`` from 0 to 1; ``parts`` in the order a person would check them."""

    score: float
    parts: tuple[Part, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of what is missing."""
        return tuple(part.name for part in self.parts if not part.present)


def completeness_of(store: Store, run: str) -> Completeness:
    """The completeness of a run. Raises ``NotFound``."""
    record = get_run(store, run)
    registered = _registered_by(store, record)
    return judge_completeness(
        record,
        params=params_of(store, record.id),
        metrics=metrics_of(store, record.id),
        inputs=inputs_of(store, record.id),
        artifacts=artifacts_of(store, record.id),
        models={address: manifest_of(get(store, address), ModelManifest) for address in registered if address.startswith("model:")},
        registered=registered,
        described=_described(store, record),
        said=_said(store, record),
    )


def judge_completeness(
    record: RunRecord,
    *,
    params: Mapping[str, str],
    metrics: Mapping[str, Metric],
    inputs: Sequence[RunInput],
    artifacts: Sequence[Artifact],
    models: Mapping[str, ModelManifest],
    registered: Sequence[str] = (),
    described: Sequence[DescribedInput] = (),
    said: Mapping[str, str] | None = None,
) -> Completeness:
    """The judgement itself, on what was read. ``registered`` are addresses of what the run made besides files. Pure.

    ``said`` are the tags in which a client of another tool says what it knows of its code; nothing else was captured then.
    """
    code = _code(record) if record.facts is not None or not said else _code_as_said(said)
    parts = (*code, *_environment(record), *_logged(record, params, metrics, inputs, described), *_made(models, artifacts, registered))
    total = sum(part.weight for part in parts)
    return Completeness(score=round(sum(part.weight for part in parts if part.present) / total, 3), parts=parts)


def _code(record: RunRecord) -> list[Part]:
    code = record.facts.code if record.facts is not None else None
    problems = list(record.facts.extra.get("code_missing", ())) if record.facts is not None else []
    commit = code.commit if code is not None else None
    diff = code.dirty_diff if code is not None else None
    whole = commit is not None and not problems
    found = "clean" if diff is None else "uncommitted changes, kept as code/uncommitted.diff"
    entry = code.entry_point if code is not None else None
    return [
        Part(
            name="commit",
            present=commit is not None,
            weight=3,
            found=f"{commit[:10]} on {code.branch or 'no branch'}" if commit and code else "; ".join(problems) or "not captured",
            advice="run it inside a git repository that has a commit",
        ),
        Part(
            name="code changes",
            present=whole,
            weight=1,
            found=found if whole else "; ".join(problems) or "not captured",
            advice="commit, or add what should not be kept to .gitignore",
        ),
        Part(
            name="entry point",
            present=entry is not None,
            weight=1,
            found=entry or "interactive",
            advice="run a script, a module or `andon run -- CMD`",
        ),
    ]


def _code_as_said(said: Mapping[str, str]) -> list[Part]:
    commit, entry = said.get(COMMIT_TAG), said.get(ENTRY_TAG)
    return [
        Part(
            name="commit",
            present=bool(commit),
            weight=3,
            found=f"{commit[:10]}, as its client says" if commit else "its client does not say",
            advice="run it inside a git repository, with GitPython installed",
        ),
        Part(
            name="code changes",
            present=False,
            weight=1,
            found="its client does not say whether anything was uncommitted",
            advice=WRAP,
        ),
        Part(name="entry point", present=bool(entry), weight=1, found=entry or "its client does not say", advice=WRAP),
    ]


def _environment(record: RunRecord) -> list[Part]:
    facts = record.facts
    notes = facts.extra.get("not_from_index", {}) if facts is not None else {}
    others = [name for name in notes if name != "andon"]
    count = len(facts.environment.requirements) if facts is not None else 0
    return [
        Part(
            name="environment lock",
            present=count > 0,
            weight=2,
            found=f"Python {facts.environment.python}, {count} distributions" if facts is not None else "not captured",
            advice=WRAP,
        ),
        Part(
            name="installable environment",
            present=count > 0 and not others,
            weight=1,
            found="all by version" if count and not others else f"not from an index: {', '.join(others[:5])}" if others else "not captured",
            advice="build wheels of these and install those, so that the lock alone brings them back",
        ),
        Part(
            name="hardware",
            present=facts is not None,
            weight=1,
            found=f"{facts.hardware.cores} cores of {facts.hardware.cpu}" if facts is not None else "not captured",
            advice=WRAP,
        ),
        Part(
            name="seeds",
            present=facts is not None and bool(facts.seeds),
            weight=1,
            found=", ".join(f"{library} {value}" for library, value in facts.seeds.items()) if facts is not None else "",
            advice="call andon.seed(7) before anything random",
        ),
    ]


def _logged(
    record: RunRecord,
    params: Mapping[str, str],
    metrics: Mapping[str, Metric],
    inputs: Sequence[RunInput],
    described: Sequence[DescribedInput],
) -> list[Part]:
    named = [item.address for item in inputs] or [f"{item.name} {item.digest}, described and not kept here" for item in described]
    return [
        Part(
            name="data",
            present=bool(named),
            weight=3,
            found=", ".join(named[:3]) or "none",
            advice="read data with andon.dataset('dataset:NAME@VERSION') inside the run",
        ),
        Part(name="params", present=bool(params), weight=2, found=f"{len(params)}", advice="pass params={…} or call run.log_params"),
        Part(name="metrics", present=bool(metrics), weight=2, found=f"{len(metrics)}", advice="call run.log({'mae': …})"),
        Part(
            name="an end",
            present=record.status == "finished",
            weight=1,
            found=record.status,
            advice="let the run finish: failed and killed runs are not a result",
        ),
    ]


def _made(models: Mapping[str, ModelManifest], artifacts: Sequence[Artifact], registered: Sequence[str]) -> list[Part]:
    outputs = [item.path for item in artifacts if not item.path.startswith(("code/", "logs/"))]
    products = list(dict.fromkeys([*models, *registered, *outputs]))
    unsigned = [address for address, manifest in models.items() if not manifest.signature.inputs or not manifest.signature.outputs]
    flagged = [address for address, manifest in models.items() if manifest.flags]
    parts = [
        Part(
            name="a product",
            present=bool(products),
            weight=1,
            found=", ".join(products[:3]) or "none",
            advice="call run.log_model or run.log_artifact",
        )
    ]
    if models:
        parts += [
            Part(
                name="model signature",
                present=not unsigned,
                weight=1,
                found="all signed" if not unsigned else ", ".join(unsigned[:3]),
                advice="pass input_example to run.log_model",
            ),
            Part(
                name="safe model format",
                present=not flagged,
                weight=1,
                found="no pickle" if not flagged else ", ".join(flagged[:3]),
                advice="save it without format='pickle'",
            ),
        ]
    return parts


def _described(store: Store, record: RunRecord) -> list[DescribedInput]:
    with store.ledger.read() as connection:
        return described_inputs_in(connection, [record.id]).get(record.id, [])


def _said(store: Store, record: RunRecord) -> dict[str, str]:
    tags = tags_of(store, record.address)
    return {key: tags[key] for key in (COMMIT_TAG, ENTRY_TAG) if key in tags}


def _registered_by(store: Store, record: RunRecord) -> tuple[str, ...]:
    """Versions that this run registered and that still live: models, datasets, and whatever else has versions."""
    with store.ledger.read() as connection:
        made = select(s.edges.c.child).where(
            s.edges.c.parent == record.address, s.edges.c.role == "run", ~s.edges.c.child.startswith("run:")
        )
        found = [Address.parse(child) for child in connection.execute(made.order_by(s.edges.c.child).limit(100)).scalars()]
        return tuple(str(address) for address in found if address.version is not None and _lives(connection, address))


def _lives(connection: Connection, address: Address) -> bool:
    v = s.versions
    query = select(v.c.version).where(
        v.c.kind == address.kind, v.c.name == address.name, v.c.version == address.version, v.c.deleted_us.is_(None)
    )
    return connection.execute(query).first() is not None
