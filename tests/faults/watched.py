"""A home with a service whose model is real (a small ONNX), with days of traffic in its log: sound ones, a broken input, a bad release.

Quick enough to be judged by processes that are killed again and again. ``told`` is what must come out the same every time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from andon import datasets, registry, releases
from andon.core.clocks import DAY_US, HOUR_US
from andon.incidents.journal import journal_stream
from andon.logs import Label, Served, log_predictions, record_labels
from andon.releases import Examples, ReleaseManifest
from andon.serving.environments import current_lock
from andon.serving.replaying import Replayer
from andon.store import Store, streams
from tests.conftest import ANA, START_US
from tests.unit.serving.line import EXAMPLE, Line

SERVICE = "bikes"
BROKEN_DAY, BAD_RELEASE_DAY, DAYS = 3, 6, 16
STEP_US = HOUR_US // 2


def instants(first_day: int, days: int) -> Any:
    return np.arange(START_US + first_day * DAY_US, START_US + (first_day + days) * DAY_US, STEP_US, dtype=np.int64)


def inputs(event_us: Any) -> dict[str, Any]:
    x = np.random.default_rng(int(event_us[0]) // STEP_US).normal(0, 3, len(event_us))
    return {"x": x, "k": event_us // HOUR_US % 24}


def truth(event_us: Any) -> Any:
    columns = inputs(event_us)
    noise = np.random.default_rng(int(event_us[0]) // STEP_US + 1).normal(0, 1, len(event_us))
    return 100 + 2 * columns["x"] + columns["k"] + noise


def make_home(store: Store, scratch: Path) -> None:
    """Two releases; the first goes live, the second (off by 4, which its gate refuses) is waived. Then all the days' traffic and labels."""
    import pyarrow as pa

    line = Line(store, scratch, SERVICE)
    training = instants(-49, 35)
    table = pa.table({"at": pa.array(training, type=pa.timestamp("us", tz="UTC")), **inputs(training), "y": truth(training)})
    data = str(datasets.register(store, "bikes-training", table, event_time="at", actor=ANA).address)
    gate = instants(-14, 14)
    label = truth(gate)
    examples = Examples(columns=inputs(gate), label=label, event_us=gate, baseline=np.full(len(label), label.mean()), baseline_name="mean")
    with Replayer(store) as replay:
        for bias in (100.0, 104.0):
            model = line.model({"model.onnx": _onnx(bias)}, "onnx", "model.onnx")
            manifest = releases.assemble(
                store,
                SERVICE,
                model=model.address,
                environment=current_lock(),
                data=(data,),
                example=EXAMPLE,
                settings={"label": "y", "event_time": "at"},
            )
            made = releases.make(store, manifest, examples=examples, score=replay, actor=ANA, waive="a test", waiver_s=9e6)
            day = 0 if bias == 100.0 else BAD_RELEASE_DAY
            releases.deploy(store, made.address, actor=ANA, reason="a test", event_us=START_US + day * DAY_US)
        for day in range(DAYS):
            _live(store, replay, day)


def _onnx(bias: float) -> bytes:
    from tests.unit.serving.line import linear_onnx

    return linear_onnx((2.0, 1.0), bias)


def _live(store: Store, replay: Replayer, day: int) -> None:
    event_us = instants(day, 1)
    sent = inputs(event_us)
    if day == BROKEN_DAY:
        sent["k"] = np.zeros_like(sent["k"])
    address = f"release:{SERVICE}@{1 if day < BAD_RELEASE_DAY else 2}"
    version = registry.get(store, address)
    n = len(event_us)
    answered = replay(registry.manifest_of(version, ReleaseManifest), sent)
    log_predictions(
        store.tables,
        Served(
            service=SERVICE,
            release=address,
            release_digest=version.digest,
            channel="production",
            request_ids=[str(int(at)) for at in event_us],
            row=[0] * n,
            event_us=[int(at) for at in event_us],
            arrival_us=[store.clock.now_us()] * n,
            latency_ms=[1.0] * n,
            inputs=sent,
            outputs={"y": answered},
        ),
    )
    labels = [
        Label(request_id=str(int(at)), label=float(y), event_us=int(at) + DAY_US) for at, y in zip(event_us, truth(event_us), strict=True)
    ]
    record_labels(store, SERVICE, labels, actor=ANA)


def told(store: Store) -> list[tuple[Any, ...]]:
    """Every verdict and every decision, without ids and wall times; and every move of the channel."""
    verdicts = [
        (v.at_us, v.check, v.status, v.value, v.message, v.n) for v in registry.verdicts_on(store, f"service:{SERVICE}", limit=100_000)
    ]
    with store.ledger.read() as connection:
        events = streams.read(connection, journal_stream(SERVICE))
        moves = streams.read(connection, releases.stream_of(SERVICE))
    return [
        *sorted(verdicts, key=str),
        *((event.event_us, event.type, str(event.body)) for event in events),
        *((move.event_us, move.type, str(move.body)) for move in moves if move.actor.startswith("controller")),
    ]


def andon(home: Path, *arguments: str, environ: dict[str, str] | None = None, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """The command, as a person runs it."""
    environment = {**os.environ, "ANDON_ACTOR": "person:ana", "OMP_NUM_THREADS": "1", **(environ or {})}
    command = [sys.executable, "-m", "andon", *arguments, "--home", str(home)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)


UP = """
import sys
from andon.api import controlling
controlling.LEASE_S = 2.0
controlling.Controllers.__init__.__kwdefaults__["wait_s"] = 0.2
from andon.cli.main import main
main(["up", "--home", sys.argv[1], *sys.argv[2:]])
"""


class Plane:
    """``andon up`` in a process of its own, with a lease of two seconds so that a test need not wait half a minute for a successor."""

    def __init__(self, home: Path, *options: str, environ: dict[str, str] | None = None) -> None:
        environment = {**os.environ, "ANDON_ACTOR": "person:ana", "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1", **(environ or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-c", UP, str(home), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "http://" not in line:
            raise RuntimeError(f"the control plane did not start: {line}{self.process.communicate()[1]}")
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """SIGKILL, as a power switch would."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def terminate(self) -> tuple[int, str]:
        """SIGTERM, then the exit code and what it said on stderr."""
        self.process.terminate()
        _, errors = self.process.communicate(timeout=40)
        return self.process.returncode, errors

    def __enter__(self) -> Plane:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
