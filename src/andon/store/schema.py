"""The ledger's tables, in SQLAlchemy Core. Migrations (``store/migrations``) bring an older ledger to this shape; a test proves it.

Instants are microseconds since 1970 UTC (``…_us``); JSON columns hold canonical JSON text; addresses are their text.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)

metadata = MetaData()
_BYTES = Text().with_variant(Text(collation="C"), "postgresql")
"""Text in order of its bytes on both engines, so that both page alike and an index serves prefixes."""
_SHORT = text("octet_length(key) + octet_length(value) < 2000")
"""An index row of Postgres holds 2,704 bytes; longer texts are left out there."""


def _leave_out_long(table: Table, connection: Connection, **_: Any) -> None:
    # Not said where the index is made: it would import SQLAlchemy's Postgres dialect and its drivers into every process, 30 ms and 2 MB.
    if connection.dialect.name == "postgresql":
        for index in table.indexes:
            if index.name in _PARTIAL:
                index.dialect_kwargs["postgresql_where"] = _SHORT


_PARTIAL = ("tags_by_key", "params_by_value")

# --- registry kernel
entries = Table(
    "entries",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("head", BigInteger, nullable=False),  # newest version ever given, deleted ones included, so that numbers never come back
    Column("created_us", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
    Column("title", Text),  # the name a foreign client calls it by, where it came from one
    Column("description", Text),
    Column("deleted_us", BigInteger),  # the name itself was deleted; its numbers are not given again
    UniqueConstraint("kind", "title"),
)
versions = Table(
    "versions",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("manifest", LargeBinary),  # null once deleted
    Column("idempotency_key", Text),
    Column("created_us", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("deleted_us", BigInteger),  # the tombstone
    Column("deleted_by", Text),
    Column("deleted_why", Text),
    UniqueConstraint("kind", "name", "idempotency_key"),
)
Index("versions_by_digest", versions.c.digest)
Index("versions_by_time", versions.c.created_us)
version_sources = Table(  # what a foreign client says of a version: where its bytes are, and what may change, so is in no digest
    "version_sources",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("source", Text, nullable=False),  # in the client's words
    Column("location", Text, nullable=False),  # where a client downloads it from
    Column("run", Text, nullable=False),  # an id, known here or not; empty: none
    Column("link", Text, nullable=False),
    Column("logged_model", Text),  # its id
    Column("description", Text),
    Column("changed_us", BigInteger, nullable=False),
)
Index("version_sources_by_run", version_sources.c.run)
Index("version_sources_by_time", version_sources.c.changed_us)
aliases = Table(
    "aliases",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("target", Text),  # a versioned address; null after removal
    Column("revision", BigInteger, nullable=False),  # counts moves: compare-and-swap compares it
    Column("moved_us", BigInteger, nullable=False),
)
alias_moves = Table(
    "alias_moves",
    metadata,
    Column("seq", Integer().with_variant(BigInteger, "postgresql"), primary_key=True, autoincrement=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("source", Text),
    Column("target", Text),
    Column("at_us", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    UniqueConstraint("kind", "name", "alias", "revision"),
)
tags = Table(
    "tags",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", _BYTES, nullable=False),
)
Index("tags_by_key", tags.c.key, tags.c.value, tags.c.subject)
event.listen(tags, "before_create", _leave_out_long)
tag_changes = Table(
    "tag_changes",
    metadata,
    Column("seq", Integer().with_variant(BigInteger, "postgresql"), primary_key=True, autoincrement=True),
    Column("subject", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Text),  # null: removed
    Column("at_us", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
)
Index("tag_changes_by_subject", tag_changes.c.subject, tag_changes.c.key)
tombstones = Table(  # what was deleted for good and had no versions: runs, logged models, experiments
    "tombstones",
    metadata,
    Column("address", Text, primary_key=True),
    Column("title", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
)
edges = Table(
    "edges",
    metadata,
    Column("child", Text, primary_key=True),
    Column("parent", Text, primary_key=True),
    Column("role", Text, primary_key=True),  # "data", "model", "code", "run", …
    Column("at_us", BigInteger, nullable=False),
)
Index("edges_by_parent", edges.c.parent)
blob_refs = Table(  # which versions and runs need which bytes: the roots of gc
    "blob_refs",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
)
Index("blob_refs_by_digest", blob_refs.c.digest)

# --- event streams (runs' lifecycle, services, rollouts, incidents): state is a fold
events = Table(
    "events",
    metadata,
    Column("stream", Text, primary_key=True),  # an address, such as service:bikes or incident:01J…
    Column("n", BigInteger, primary_key=True),  # 1, 2, 3, … within the stream
    Column("type", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("at_us", BigInteger, nullable=False),  # wall clock
    Column("event_us", BigInteger),  # event time, where the event is about one
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
)
Index("events_by_time", events.c.at_us)
leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),  # grows with every new holder
    Column("expires_us", BigInteger, nullable=False),
)
cursors = Table(  # where a controller is: small JSON states with compare-and-swap by revision
    "cursors",
    metadata,
    Column("name", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("moved_us", BigInteger, nullable=False),
)

# --- experiments and runs
experiments = Table(
    "experiments",
    metadata,
    Column("id", Integer().with_variant(BigInteger, "postgresql"), primary_key=True, autoincrement=True),
    Column("name", Text, nullable=False, unique=True),  # also while deleted
    Column("location", Text),  # where a client keeps its artifacts itself; null: in this store
    Column("created_us", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
    Column("deleted_us", BigInteger),
    sqlite_autoincrement=True,  # the number of one that is gone for good is not given again
)
runs = Table(
    "runs",
    metadata,
    Column("id", _BYTES, primary_key=True),
    Column("experiment", BigInteger, nullable=False),
    Column("name", _BYTES, nullable=False),
    Column("status", Text, nullable=False),  # scheduled, running, finished, failed, killed
    Column("started_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),
    Column("actor", Text, nullable=False),
    Column("parent", Text),
    Column("deleted_us", BigInteger),
    Column("facts", LargeBinary, nullable=False),  # code, environment, hardware, seeds, command: canonical JSON
)
Index("runs_by_experiment", runs.c.experiment, runs.c.started_us.desc(), runs.c.id, runs.c.deleted_us, runs.c.status)
Index("runs_by_time", runs.c.started_us.desc(), runs.c.id, runs.c.experiment, runs.c.deleted_us, runs.c.status)
Index("runs_by_id", runs.c.id, runs.c.experiment, runs.c.deleted_us, runs.c.started_us)  # all that most searches ask of a run
Index("runs_by_parent", runs.c.parent)
Index("runs_by_name", runs.c.name)
# Narrow rows are clustered by their key (WITHOUT ROWID on SQLite): one B-tree, no second index.
params = Table(
    "params",
    metadata,
    Column("run", Text, primary_key=True),  # the id of a run, or of a logged model
    Column("key", Text, primary_key=True),
    Column("value", _BYTES, nullable=False),
    sqlite_with_rowid=False,
)
Index("params_by_value", params.c.key, params.c.value, params.c.run)
event.listen(params, "before_create", _leave_out_long)
series = Table(  # one row a metric of a run, with its newest point and extremes: what search reads
    "series",
    metadata,
    Column("id", Integer().with_variant(BigInteger, "postgresql"), primary_key=True, autoincrement=True),
    Column("run", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("value", Float(53), nullable=False),
    Column("special", SmallInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("min", Float(53)),
    Column("max", Float(53)),
    UniqueConstraint("run", "key"),
)
Index("series_by_value", series.c.key, series.c.special, series.c.value, series.c.run)  # to walk
Index("series_by_key", series.c.key, series.c.run, series.c.special, series.c.value)  # to test: of one metric, many runs lie together
points = Table(
    "points",
    metadata,
    Column("series", BigInteger, primary_key=True, autoincrement=False),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Float(53), primary_key=True),
    # 0: value is finite; 1: NaN, 2: +inf, 3: -inf, and value is 0, since NaN has no place in a key and SQLite stores it as null
    Column("special", SmallInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)
artifacts = Table(  # of runs and of logged models
    "artifacts",
    metadata,
    Column("owner", Text, primary_key=True),  # an address: run:…, logged-model:… or trace:…; files:shared for what is nobody's
    # by code point, so that what is below a folder is one range of the key
    Column("path", Text().with_variant(Text(collation="C"), "postgresql"), primary_key=True),
    Column("digest", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)
run_inputs = Table(
    "run_inputs",
    metadata,
    Column("run", Text, primary_key=True),
    Column("address", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("context", Text, nullable=False),  # training, evaluation, …
)
described_inputs = Table(  # data that a run names without handing it over: a name, a digest of the client's own, and where it says it is
    "described_inputs",
    metadata,
    Column("run", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),  # 0, 1, 2, … in the order that the run named them
    Column("context", Text),
    Column("body", LargeBinary, nullable=False),  # source, schema, profile, tags: JSON
)
Index("described_inputs_by_name", described_inputs.c.name, described_inputs.c.digest, described_inputs.c.run)
logged_models = Table(  # what a run made and may be registered; its params are in params, its tags in tags, its files in artifacts
    "logged_models",
    metadata,
    Column("id", Text, primary_key=True),  # m-…
    Column("experiment", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("model_type", Text),
    Column("run", Text),  # the one that made it
    Column("status", Text, nullable=False),  # pending, ready, failed
    Column("message", Text),
    Column("created_us", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
    Column("deleted_us", BigInteger),
)
Index("logged_models_by_experiment", logged_models.c.experiment, logged_models.c.created_us)
Index("logged_models_by_run", logged_models.c.run)
run_models = Table(  # the logged models that went into a run or came out of it
    "run_models",
    metadata,
    Column("run", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("role", Text, primary_key=True),  # input, output
    Column("step", BigInteger, nullable=False),
)
Index("run_models_by_model", run_models.c.model)
model_metrics = Table(  # points of a run that are about a logged model, and maybe about a dataset; keyed by all they hold, as points are
    "model_metrics",
    metadata,
    Column("model", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("run", Text, primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Float(53), primary_key=True),
    Column("special", SmallInteger, primary_key=True, autoincrement=False),
    Column("dataset", Text, primary_key=True),  # as the run described it; empty: about none
    Column("dataset_digest", Text, primary_key=True),
    sqlite_with_rowid=False,
)

# --- traces: what search reads; the spans themselves are in the table spans
traces = Table(
    "traces",
    metadata,
    Column("id", Text, primary_key=True),  # tr- and 32 hex digits, or a client's own
    Column("experiment", BigInteger, nullable=False),
    Column("state", Text, nullable=False),  # unspecified, in-progress, ok, error
    Column("requested_us", BigInteger, nullable=False),
    Column("execution_us", BigInteger),
    Column("name", Text),
    Column("session", Text),
    Column("client_request_id", Text),
    Column("request_preview", Text),
    Column("response_preview", Text),
    Column("facts", Text, nullable=False),  # JSON: what does not change (the protocols' metadata), texts by name
    Column("tags", Text, nullable=False),  # JSON: what does, texts by name
    Column("usage", Text),  # JSON: span id -> parent and tokens, of spans that say them
    Column("told", SmallInteger, nullable=False),  # 1: the client told the record itself; spans no longer change it
    Column("first_us", BigInteger),  # event times of its spans, inclusive; null: none has come
    Column("last_us", BigInteger),
)
Index("traces_by_experiment", traces.c.experiment, traces.c.requested_us)
Index("traces_by_session", traces.c.session)
trace_links = Table(
    "trace_links",
    metadata,
    Column("trace", Text, primary_key=True),
    Column("target", Text, primary_key=True),  # an address: run:ID, prompt:NAME@VERSION
)
Index("trace_links_by_target", trace_links.c.target)
deleted_traces = Table(  # spans that arrived up to then are hidden, until upkeep has removed their rows
    "deleted_traces",
    metadata,
    Column("trace", Text, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("first_us", BigInteger),
    Column("last_us", BigInteger),
)
assessments = Table(  # what a person, a judge or code says of a trace
    "assessments",
    metadata,
    Column("id", Text, primary_key=True),  # a-…
    Column("trace", Text, nullable=False),
    Column("kind", Text, nullable=False),  # feedback, expectation, issue
    Column("name", Text, nullable=False),
    Column("value", Text, nullable=False),  # JSON
    Column("number", Float(53)),  # the value, where it is a finite number
    Column("error", Text),  # JSON
    Column("source_type", Text, nullable=False),
    Column("source_id", Text),
    Column("run", Text),
    Column("span", Text),
    Column("rationale", Text),
    Column("overrides", Text),  # the assessment that this one replaces
    Column("valid", SmallInteger, nullable=False),  # 0: replaced
    Column("facts", Text),  # JSON: the protocols' metadata
    Column("created_us", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
)
Index("assessments_by_trace", assessments.c.trace, assessments.c.created_us)
Index("assessments_by_name", assessments.c.name, assessments.c.kind)

# --- evaluation datasets: examples that people and programs collect one by one, for judging language models
evaluation_datasets = Table(
    "evaluation_datasets",
    metadata,
    Column("id", Text, primary_key=True),  # d-…
    Column("name", _BYTES, nullable=False),  # not unique
    Column("digest", Text, nullable=False),  # changes with every change
    Column("fields", LargeBinary),  # what records hold, by name, with types: JSON; null before there is one
    Column("records", BigInteger, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
    Column("created_by", Text),  # as the client said it
    Column("changed_by", Text),
)
Index("evaluation_datasets_by_name", evaluation_datasets.c.name)
evaluation_records = Table(
    "evaluation_records",
    metadata,
    Column("dataset", Text, primary_key=True),
    Column("id", _BYTES, primary_key=True),  # dr-…, in order of creation
    Column("inputs_digest", Text, nullable=False),  # of the inputs: the same inputs again are the same record
    Column("body", LargeBinary, nullable=False),  # inputs, outputs, expectations, tags, source: JSON
    Column("created_us", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
    Column("created_by", Text),
    Column("changed_by", Text),
    UniqueConstraint("dataset", "inputs_digest"),
)
evaluation_experiments = Table(
    "evaluation_experiments",
    metadata,
    Column("dataset", Text, primary_key=True),
    Column("experiment", BigInteger, primary_key=True),
)
Index("evaluation_experiments_by_experiment", evaluation_experiments.c.experiment)

# --- verdicts
verdicts = Table(
    "verdicts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("subject", Text, nullable=False),  # an address
    Column("check_name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("value", Float(53)),
    Column("body", LargeBinary, nullable=False),  # the whole Verdict
    Column("at_us", BigInteger, nullable=False),
    Column("window_start_us", BigInteger),
    Column("window_end_us", BigInteger),
)
Index("verdicts_by_subject", verdicts.c.subject, verdicts.c.at_us)
Index("verdicts_by_status", verdicts.c.status, verdicts.c.at_us)

# --- columnar tables: parts and what has been sealed
table_versions = Table(
    "table_versions",
    metadata,
    Column("version", BigInteger, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
)
parts = Table(
    "parts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("table_name", Text, nullable=False),
    Column("path", Text, nullable=False),  # relative to the tables' root
    Column("digest", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("min_event_us", BigInteger, nullable=False),
    Column("max_event_us", BigInteger, nullable=False),
    Column("added_version", BigInteger, nullable=False),
    Column("removed_version", BigInteger),
)
Index("parts_by_table", parts.c.table_name, parts.c.min_event_us)
sealed = Table(
    "sealed",
    metadata,
    Column("writer", Text, primary_key=True),
    Column("segment", BigInteger, primary_key=True),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("at_version", BigInteger, nullable=False),
    Column("cleared_us", BigInteger),  # when its file was durably deleted; some time later this row may go too
)

# --- what runs where
replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("service", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("release", Text),
    Column("status", Text, nullable=False),  # starting, ready, draining, gone
    Column("note", Text, nullable=False),  # why a deploy could not load, for one
    Column("started_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
    Column("load", Text),  # what it measures of its own work, for scaling and the board
)
Index("replicas_by_service", replicas.c.service)
splits = Table(
    "splits",
    metadata,
    Column("service", Text, primary_key=True),
    Column("rollout", Text, nullable=False),
    Column("body", Text, nullable=False),  # which releases answer which share of the requests; see releases/splits.py
    Column("revision", BigInteger, nullable=False),
    Column("renewed", BigInteger, nullable=False),  # counts up while a controller looks after it: a replica that sees it stop falls back
    Column("changed_us", BigInteger, nullable=False),
)
stream_records = Table(  # the embedded log of streams: records of a topic in order; positions of its readers are cursors
    "stream_records",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("n", BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3, … within the topic, never given twice
    Column("id", Text, nullable=False),  # the producer's: the same one again is not kept again
    Column("key", Text),
    Column("value", LargeBinary, nullable=False),
    Column("headers", Text),  # JSON: texts by name
    Column("at_us", BigInteger, nullable=False),
    UniqueConstraint("topic", "id"),
)
