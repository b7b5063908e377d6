"""What can be searched by: the grammars of runs, experiments and logged models."""

from __future__ import annotations

from andon.tracking.search.grammar import LISTS, NULLS, NUMERIC, TEXTUAL, Grammar, Key, Kind


def kinds(*given: tuple[str, Kind]) -> dict[str, Kind]:
    """Kinds by each of the words for them, which stand in one text with blanks between."""
    return {word: kind for words, kind in given for word in words.split()}


def keys(texts: str = "", numbers: str = "", *, more: frozenset[str] = frozenset()) -> dict[str, Key]:
    """Keys by name: ``texts`` are compared as text (and by ``more``), ``numbers`` as numbers."""
    made = {name: Key(name=name, operators=TEXTUAL | more) for name in texts.split()}
    return made | {name: Key(name=name, operators=NUMERIC, numeric=True) for name in numbers.split()}


def _run_attributes() -> dict[str, Key]:
    made = keys("status run_name user_id artifact_uri", "start_time end_time")
    made["run_id"] = Key(name="run_id", operators=TEXTUAL | LISTS)
    made |= dict.fromkeys(("created", "Created"), made["start_time"])
    name = Key(name="run_name", operators=TEXTUAL, orders=False)
    return made | dict.fromkeys(("run name", "Run name", "Run Name"), name)


RUNS = Grammar(
    kinds=kinds(
        ("attribute attributes attr run", Kind(name="attribute", keys=_run_attributes())),
        ("metric metrics", Kind(name="metric", operators=NUMERIC, numeric=True)),
        ("parameter parameters param params", Kind(name="parameter", operators=TEXTUAL | NULLS)),
        ("tag tags", Kind(name="tag", operators=TEXTUAL | NULLS)),
        ("dataset datasets", Kind(name="dataset", keys=keys("name digest context", more=LISTS), orders=False)),
    )
)

EXPERIMENTS = Grammar(
    kinds=kinds(
        (
            "attribute",
            Kind(
                name="attribute",
                keys=keys("name", "creation_time last_update_time")
                | {"experiment_id": Key(name="experiment_id", operators=frozenset({"=", "!="}) | LISTS)},
            ),
        ),
        ("tag tags", Kind(name="tag", operators=TEXTUAL | NULLS, orders=False)),
    )
)


def _model_attributes() -> dict[str, Key]:
    made = keys("name model_id model_type status source_run_id", "creation_timestamp last_updated_timestamp", more=LISTS)
    aliases = {
        "creation_time": "creation_timestamp",
        "creation_timestamp_ms": "creation_timestamp",
        "last_updated_time": "last_updated_timestamp",
        "last_updated_timestamp_ms": "last_updated_timestamp",
    }
    return made | {alias: made[name] for alias, name in aliases.items()}


LOGGED_MODELS = Grammar(
    kinds=kinds(
        ("attributes attribute", Kind(name="attribute", keys=_model_attributes())),
        ("metrics", Kind(name="metric", operators=NUMERIC, numeric=True)),
        ("params", Kind(name="parameter", operators=TEXTUAL | LISTS, orders=False)),
        ("tags", Kind(name="tag", operators=TEXTUAL | LISTS, orders=False)),
    )
)
