"""The ledger's tables, in SQLAlchemy Core. Migrations (``store/migrations``) bring an older ledger to this shape; a test proves it.

Instants are microseconds since 1970 UTC (``…_us``); JSON columns hold canonical JSON text; addresses are their text.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, SmallInteger, Table, Text, UniqueConstraint

metadata = MetaData()

# --- registry kernel
entries = Table(
    "entries",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("head", BigInteger, nullable=False),  # newest version ever given, deleted ones included, so that numbers never come back
    Column("created_us", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
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
    Column("value", Text, nullable=False),
)
Index("tags_by_key", tags.c.key, tags.c.value)
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
)
runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("experiment", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),  # scheduled, running, finished, failed, killed
    Column("started_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),
    Column("actor", Text, nullable=False),
    Column("parent", Text),
    Column("facts", LargeBinary, nullable=False),  # code, environment, hardware, seeds, command: canonical JSON
    Column("deleted_us", BigInteger),
)
Index("runs_by_experiment", runs.c.experiment, runs.c.started_us)
Index("runs_by_time", runs.c.started_us)
# Narrow rows are clustered by their key (WITHOUT ROWID on SQLite): one B-tree, no second index.
params = Table(
    "params",
    metadata,
    Column("run", Text, primary_key=True),  # the id of a run, or of a logged model
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)
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
Index("series_by_value", series.c.key, series.c.value)
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
    Column("owner", Text, primary_key=True),  # an address: run:… or logged-model:…
    Column("path", Text, primary_key=True),
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
    Column("context", Text),
    Column("body", LargeBinary, nullable=False),  # source, schema, profile, tags: JSON
)
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
model_metrics = Table(  # points of a run that are about one logged model, and maybe about one dataset
    "model_metrics",
    metadata,
    Column("model", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("run", Text, primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Float(53), nullable=False),
    Column("special", SmallInteger, nullable=False),
    Column("dataset", Text),
    Column("dataset_digest", Text),
)

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
)
Index("replicas_by_service", replicas.c.service)
