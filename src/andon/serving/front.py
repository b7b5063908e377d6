"""The front of one service: it follows the channels and the split, routes, batches, and answers.

Requests never wait for the ledger: a thread polls it. What is loaded here is ``holding``'s, who answers is ``routing``'s, in which batch
``batching``'s, and what is written down ``recording``'s and ``exposing``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.core.errors import AndonError, Busy, ModelFailed, Unavailable
from andon.logs.policies import LoggingPolicy, needs_key
from andon.releases.splits import WHOLE, assign
from andon.serving.asking import Answer, Asked, Query
from andon.serving.batching import Batcher, Reply, Work
from andon.serving.callers import ClientGone
from andon.serving.exposing import Exposer
from andon.serving.exposition import Family, counter, gauge, labels, text
from andon.serving.following import POLL_S, Follower
from andon.serving.gauging import Gauge
from andon.serving.holding import Channel, Holder
from andon.serving.loading import Loaded, Loader
from andon.serving.metrics import Metrics, process_families
from andon.serving.presence import Load, Presence, State, Status
from andon.serving.recording import Recorder, logging_key
from andon.serving.routing import LOADING_HERE, UNAVAILABLE_HERE, Adaptation, Choice, Router, adaptation, slices_of, unit_of
from andon.serving.scattering import Scatterer
from andon.serving.shadowing import Shadows
from andon.serving.source import ReleaseSource, StoreSource, View, releases_of
from andon.serving.tracing import Tracer
from andon.serving.validation import check_request_id
from andon.store import Store

if TYPE_CHECKING:
    import numpy as np

    from andon.serving.siblings import Siblings

    Columns = dict[str, np.ndarray[Any, Any]]

__all__ = ["Answer", "Asked", "Choice", "Front", "Query"]
log = logging.getLogger("andon.serving")
PRODUCTION = "production"
ARMS_GRACE_S = 10.0
"""How long a starting replica waits for the split's other releases before it says that it is ready without them."""


class Front:
    """Serves one service. All methods but ``__init__`` belong to the event loop it was started on."""

    def __init__(
        self,
        store: Store,
        service: str,
        *,
        channels: Sequence[str] = (PRODUCTION,),
        source: ReleaseSource | None = None,
        poll_s: float = POLL_S,
        router: Router | None = None,
    ) -> None:
        self.service = service
        self.metrics = Metrics(service)
        self.draining = False
        self.siblings: Siblings | None = None
        """Who answers from the same socket; set by who starts several."""
        self._store = store
        source = source or StoreSource(store)
        root = store.settings.path(store.settings.environments)
        loader = Loader(source, store.blobs, root, Path(store.settings.home, "logs"))
        self._holder = Holder(service, tuple(channels), loader, self.metrics, self._attach, self._changed)
        self._router = router or Router()
        self._ledger_problem: str | None = None
        self._id_prefix = store.ids.new()
        self._id_numbers = itertools.count(1)
        self._url = ""
        self._started_s = 0.0
        self._recorder = Recorder(store.tables, service, self.metrics)
        self._scatterer = Scatterer(self._recorder)
        self._tracer = Tracer(store, service, endpoint=store.settings.otlp_endpoint, replica=self._id_prefix)
        self._exposer = Exposer(store.tables, service, self.metrics)
        self._shadows = Shadows(self._holder, self.metrics, self._scatterer.scatter, self._exposer.expose)
        self._gauge = Gauge(self.metrics, store.settings.serve_max_memory_mb)
        self._adaptations: dict[tuple[str, str], Adaptation | str | None] = {}
        self._follower = Follower(source, service, tuple(channels), Presence(store, service), self._heard, self._state, poll_s)
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- life

    async def start(self, url: str = "") -> None:
        """Begin to follow the channels. Returns at once; ``wait_ready`` waits for the first release."""
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._started_s = time.monotonic()
        self._follower.start()

    async def wait_ready(self, timeout_s: float) -> bool:
        """Whether every channel that points somewhere is loaded, at the latest after ``timeout_s``."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if self.not_ready() is None:
                return True
            await asyncio.sleep(0.01)
        return False

    async def close(self) -> None:
        """Stop following, write what is to be written, close every runner and mark the replica's row gone."""
        self.draining = True
        self._follower.stop()
        await self._exposer.close()
        await self._holder.close()
        await asyncio.to_thread(self._tracer.close)
        await asyncio.to_thread(self._follower.join, 4.0)

    # --- what the faces ask

    def not_ready(self) -> str | None:
        """Why this front should get no traffic, or None."""
        if self.draining:
            return "this replica is shutting down"
        for name, channel in self._holder.channels.items():
            if channel.current is None:
                return self._why_empty(name, channel)
            if not channel.current.runner.healthy:
                return f"the process that runs {channel.current.address} ended and is being started again"
        if time.monotonic() - self._started_s < ARMS_GRACE_S:  # else a new replica would send its share of an arm to production
            for address in self._holder.extras:
                if self._holder.loading(address):
                    return f"{address} is being loaded"
        return None

    def loaded(self, channel: str = PRODUCTION) -> Loaded:
        """The release that answers a channel now. Raises ``Unavailable`` with the reason when there is none."""
        held = self._holder.channels.get(channel)
        if held is None or held.current is None:
            raise Unavailable(self._why_empty(channel, held) if held else f"this replica does not serve the channel {channel!r}")
        return held.current

    def held(self) -> list[Loaded]:
        """The releases that are loaded here, each once: what channels point to first."""
        current = [channel.current for channel in self._holder.channels.values() if channel.current is not None]
        return list(dict.fromkeys([*current, *list(self._holder.loaded.values())]))

    def version(self, version: str) -> Loaded | None:
        """A release that is loaded here, by its version number."""
        return next((loaded for loaded in self.held() if loaded.version == version), None)

    def choose(
        self,
        request_id: str,
        key: str | None = None,
        *,
        channel: str = PRODUCTION,
        rows: Sequence[tuple[Any, ...]] | None = None,
        columns: Columns | None = None,
    ) -> Choice:
        """The release that answers a request. Raises ``Unavailable`` when there is none.

        ``key`` is what the caller says names its user or session; ``rows`` or ``columns``, as read with production's signature, are where a
        split may find it instead. Read the request with ``Choice.reads``, then call ``answer``, without an ``await`` in between.
        """
        if self._router.live is None or channel != PRODUCTION:
            return Choice(self.loaded(channel), channel)
        return self._assigned(request_id, key, rows, columns)

    def _assigned(self, request_id: str, key: str | None, rows: Sequence[tuple[Any, ...]] | None, columns: Columns | None) -> Choice:
        production = self.loaded()
        split = self._router.split
        if split is None:
            return Choice(production, PRODUCTION)
        unit = unit_of(split, production.signature, key, request_id, rows=rows, columns=columns)
        arm = assign(split, unit)
        if arm is split.arms[0]:
            return Choice(production, arm.channel, unit, split, arm)
        loaded = self._holder.loaded.get(arm.release)
        if loaded is None or not loaded.runner.healthy:
            status = LOADING_HERE if self._holder.loading(arm.release) else UNAVAILABLE_HERE
            return Choice(production, PRODUCTION, unit, split, arm, status)
        made = self._adaptation(production, loaded)
        if isinstance(made, str):
            return Choice(production, PRODUCTION, unit, split, arm, UNAVAILABLE_HERE)
        return Choice(loaded, arm.channel, unit, split, arm, None, made)

    def _adaptation(self, source: Loaded, target: Loaded) -> Adaptation | str | None:
        """How to give the one's requests to the other; the reason when that cannot be."""
        pair = source.address, target.address
        if pair not in self._adaptations:
            try:
                self._adaptations[pair] = adaptation(source, target)
            except ValueError as error:
                self._adaptations[pair] = f"{target.address} cannot take this service's requests: {error}"
        return self._adaptations[pair]

    async def answer(self, query: Query) -> dict[str, Any]:
        """Run a query through its release: the output columns as lists, or with ``raw`` as arrays.

        Raises ``Busy``, ``DeadlineExceeded``, ``ModelFailed``, …. No ``await`` between ``choose`` and this.
        """
        assert self._loop is not None
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        asked = self.begin(query, future)
        try:
            outputs = await future
        except AndonError as error:
            self.end(asked, error)
            raise
        except asyncio.CancelledError:  # the caller's task was; its work is not run
            self.end(asked, ClientGone())
            raise
        self.end(asked, None)
        return outputs

    def begin(self, query: Query, reply: Reply) -> Asked:
        """As ``answer``, for who waits without a coroutine: ``reply`` gets the outcome, and must then call ``end`` once.

        What is raised here has been counted: there is no ``end`` to call then.
        """
        choice, n, rows, columns, caller = query.choice, query.n, query.rows, query.columns, query.caller
        loaded = choice.loaded
        batcher = loaded.batcher
        now_us = self._store.clock.now_us()
        event_us = [now_us] * n if query.event_us is None else query.event_us
        work = Work(n, rows, columns, query.request_id, event_us, now_us, choice.channel, reply)
        work.raw = query.raw
        work.deadline_s = work.started_s + batcher.options.timeout_s if query.deadline_s is None else query.deadline_s
        work.size_bytes = query.size_bytes or (n * loaded.row_bytes if columns is None else sum(v.nbytes for v in columns.values()))
        if query.traceparent is not None or self._tracer.share:
            work.trace = self._tracer.begin(query.traceparent, query.request_id, query.face)
        asked = Asked(choice, work, caller)
        if caller is not None:
            caller.waiting = reply
            work.client = caller.name
        if query.client is not None:
            work.client = query.client
        loaded.in_flight += 1
        try:
            if choice.split is not None:
                if choice.split.slices:
                    work.slices = slices_of(choice.split, choice.reads.signature, rows, columns)
                asked.copied = self._prepare(choice, work)
            if self._gauge.full and loaded.in_flight > 1:
                raise Busy("this replica uses all the memory it may", next_step="try again in a second", retry_after_s=1, reason="memory")
            batcher.submit(work)
        except AndonError as error:
            self.end(asked, error)
            raise
        return asked

    def end(self, asked: Asked, error: AndonError | None) -> None:
        """A request has its outcome: count it, and write down what is written of it."""
        choice, work, caller = asked.choice, asked.work, asked.caller
        loaded = choice.loaded
        loaded.in_flight -= 1
        if not loaded.in_flight:
            loaded.idle.set()
        if caller is not None:
            caller.waiting = None
        status = "ok" if error is None else error.code
        if choice.split is not None:
            self._exposed(choice, work, status, asked.copied)
        now_s = time.monotonic()
        taken_s = now_s - work.started_s
        if error is None:
            self.metrics.answered(loaded.address, work.n, taken_s, work.taken_s - work.started_s)
            loaded.batcher.statistics.answered(int(taken_s * 1e9), work.arrival_us // 1000)
        else:
            self.metrics.refused(loaded.address, status, error.fields.get("reason"))
            loaded.batcher.statistics.failed(int(taken_s * 1e9))
        if work.trace is not None:
            self._traced(loaded, work, now_s, error)

    def _traced(self, loaded: Loaded, work: Work, now_s: float, error: AndonError | None) -> None:
        assert work.trace is not None
        facts = {"andon.service": self.service, "andon.release": loaded.address, "andon.request_id": work.request_id, "andon.rows": work.n}
        facts["andon.channel"] = work.channel
        self._tracer.answered(work.trace, facts, (work.started_s, work.taken_s, now_s), error, at=self._url)

    def _prepare(self, choice: Choice, work: Work) -> Work | None:
        """Make the request what its release takes; returns what mirrors are to see of it, as it came."""
        assert choice.split is not None
        assert choice.unit is not None
        copied = None
        if choice.split.mirrors and choice.arm is choice.split.arms[0] and self._shadows.wants(choice.split, choice.unit):
            columns = None if work.columns is None else {name: values.copy() for name, values in work.columns.items()}
            copied = Work(work.n, work.rows, columns, work.request_id, work.event_us, work.arrival_us, work.channel, work.future)
            copied.size_bytes = work.size_bytes
        if choice.adaptation is not None:
            if work.rows is not None:
                work.rows = choice.adaptation.rows(work.rows)
            if work.columns is not None:
                work.columns = choice.adaptation.columns(work.columns, work.n)
        return copied

    def _exposed(self, choice: Choice, work: Work, status: str, copied: Work | None) -> None:
        """A request under a split has its outcome."""
        split, arm = choice.split, choice.arm
        assert split is not None
        assert arm is not None
        assert choice.unit is not None
        work.channel = arm.channel
        release = choice.loaded.address if arm is split.arms[0] else arm.release
        self._exposer.expose(split, work, choice.unit, release, choice.status or status)
        if copied is not None and status in ("ok", ModelFailed.code):  # it was run
            self._shadows.offer(split, choice.unit, choice.loaded, copied)

    async def predict(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        request_id: str | None = None,
        key: str | None = None,
        event_us: Sequence[int] | None = None,
        channel: str = PRODUCTION,
    ) -> Answer:
        """Rows of JSON values in, an answer out. Raises ``InvalidInput`` (row and field), ``Busy``, ``ModelFailed``, ``Unavailable``."""
        checked = self.loaded(channel).codec.check_rows(rows)
        name = check_request_id(request_id) if request_id is not None else self.new_id()
        choice = self.choose(name, key, channel=channel, rows=checked)
        outputs = await self.answer(Query(choice=choice, n=len(checked), rows=checked, request_id=name, event_us=event_us))
        return Answer(request_id=name, release=choice.loaded.address, digest=choice.loaded.digest, outputs=outputs)

    def new_id(self) -> str:
        """A request id for a caller that gave none: this process's own prefix and a number, which is 20 times cheaper than a fresh id."""
        return f"{self._id_prefix}-{next(self._id_numbers):x}"

    @property
    def store(self) -> Store:
        """The stores that labels go to."""
        return self._store

    def families(self) -> list[Family]:
        """What this process has counted, and what it measures of itself now."""
        held, one = self.held(), labels(service=self.service)
        gauges = (
            ("andon_queued_rows", "Rows that wait for a runner.", sum(loaded.batcher.queued_rows for loaded in held)),
            ("andon_queued_seconds", "Predicted seconds until that is done.", sum(loaded.batcher.backlog_s() for loaded in held)),
            ("andon_in_flight_requests", "Requests that are not answered yet.", sum(loaded.in_flight for loaded in held)),
            ("andon_releases_loaded", "Releases that are loaded here.", len(held)),
            ("andon_ready", "1 when this replica takes traffic.", int(self.not_ready() is None)),
            ("andon_ledger_reachable", "1 when the ledger answered last time.", int(self._ledger_problem is None)),
            ("andon_split_revision", "The split that is followed; 0 for none.", self._revision()),
            ("andon_split_fallback", "1 when the split's lease has run out and production answers all.", int(self._router.fallback)),
        )
        live = self._router.live
        shares = {} if live is None else {(*one, *labels(channel=a.channel, release=a.release)): a.share / WHOLE for a in live.split.arms}
        return [
            *self.metrics.families(),
            counter("andon_trace_spans_dropped_total", "Spans that were not kept.", {one: self._tracer.dropped}),
            *(gauge(name, said, {one: value}) for name, said, value in gauges),
            gauge("andon_split_share_ratio", "Share of the units that the split gives to a channel, 0 to 1.", shares),
            *process_families(),
        ]

    def metrics_text(self) -> str:
        """Prometheus text of this process."""
        return text(self.families())

    async def exposition(self, *, openmetrics: bool) -> str:
        """What a scrape gets: where several replicas share a socket, the sums of all."""
        families = self.families() if self.siblings is None else await self.siblings.whole(self.families)
        return text(families, openmetrics=openmetrics)

    # --- following

    def _heard(self, view: View | None, problem: str | None) -> None:
        """From the follower's thread."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._follow, view, problem)

    def _follow(self, view: View | None, problem: str | None) -> None:
        if problem is not None and self._ledger_problem is None:
            log.warning("the ledger cannot be read; %s goes on with what it has: %s", self.service, problem)
        self._ledger_problem = problem
        if view is None:
            return
        self._obey(view.logging)  # before there is a release that could answer
        moved = self._router.heard(view.live)
        if not self.draining:
            self._holder.want(view.targets, view.releases)
        if moved:
            self._shadows.keep(() if view.live is None else view.live.split.mirrors)
            self._changed()

    def _obey(self, policy: LoggingPolicy) -> None:
        """Write down what the policy says from now on. Without its key nothing is hashed, and what cannot be hidden is not logged."""
        recorder, exposer = self._recorder, self._exposer
        if policy == recorder.policy and (recorder.key or not needs_key(policy)):
            return
        if needs_key(policy) and not recorder.key:
            try:
                recorder.key = exposer.key = logging_key(self._store.settings.home)
            except (AndonError, OSError):  # tried again with the next look at the ledger
                if policy != recorder.policy:
                    log.exception("%s cannot read the key of its hashes: what it is to hash is not logged", self.service)
        recorder.policy = exposer.policy = policy
        self._tracer.share = policy.trace

    def _attach(self, loaded: Loaded) -> None:
        """A release has been loaded: give it its queue."""

        def finish(batch: Sequence[Work], inputs: Columns, outputs: Columns) -> None:
            self.metrics.batches[loaded.address].seen(sum([work.n for work in batch]))
            self._scatterer.scatter(loaded, batch, inputs, outputs)

        loaded.batcher = Batcher(loaded.runner, loaded.merge, finish, options=loaded.options, cost=loaded.cost)

    def _changed(self) -> None:
        """What is held, or what the split wants of it, is another: whether it fits together is known before the first request."""
        self._adaptations = {}
        production = self._holder.channels[PRODUCTION].current if PRODUCTION in self._holder.channels else None
        if production is not None:
            for address in self._holder.extras:
                if (loaded := self._holder.loaded.get(address)) is not None:
                    self._adaptation(production, loaded)
        self._follower.wake()

    def _revision(self) -> int:
        live = self._router.live
        return 0 if live is None else live.revision

    def _failing(self) -> dict[str, str]:
        found = self._holder.failing()
        live = self._router.live
        if live is not None:
            for address in releases_of(live.split):
                if address not in self._holder.extras and address not in found:
                    found[address] = f"there is no {address}"
        for (_, target), made in list(self._adaptations.items()):
            if isinstance(made, str) and target in self._holder.extras:
                found[target] = made
        return found

    def _state(self) -> State:
        """What the replica's row says. Called on the follower's thread."""
        holder, gauge = self._holder, self._gauge
        gauge.look()
        first = next(iter(holder.channels.values())).current
        failing, fallback = self._failing(), self._router.fallback
        notes = [failure.detail for failure in list(holder.failures.values())]
        notes += [reason for address, reason in failing.items() if address not in holder.failures]
        if self._recorder.problem is not None:
            notes.append(f"the prediction log cannot be written: {self._recorder.problem}")
        if self._exposer.problem is not None:
            notes.append(f"the exposure log cannot be written: {self._exposer.problem}")
        if fallback:
            notes.append("nobody has renewed the split for 30 s: production answers everything until somebody does")
        if gauge.full:
            notes.append(f"this replica uses {gauge.rss_mb:g} MB, more than it may: requests are refused while others are under way")
        held = list(holder.loaded.values())
        load = Load(
            holds=tuple(sorted(loaded.address for loaded in held if loaded.address not in failing)),
            failing=failing,
            split_revision=self._revision(),
            fallback=fallback,
            queued_rows=sum(loaded.batcher.queued_rows for loaded in held),
            queued_s=round(sum(loaded.batcher.backlog_s() for loaded in held), 4),
            in_flight=sum(loaded.in_flight for loaded in held),
            rows_s=gauge.rows_s,
            rss_mb=gauge.rss_mb,
        )
        status: Status = "draining" if self.draining else "starting" if first is None else "ready"
        return State(url=self._url, status=status, release=first.address if first else None, note="\n".join(notes), load=load)

    def _why_empty(self, name: str, channel: Channel) -> str:
        wanted = channel.wanted
        if wanted is not None and wanted.address in self._holder.failures:
            return self._holder.failures[wanted.address].reason
        if self._ledger_problem is not None and wanted is None:
            return f"the ledger cannot be read: {self._ledger_problem}"
        if wanted is None:
            return f"service:{self.service}@{name} points to no release yet"
        return f"{wanted.address} is being loaded"
