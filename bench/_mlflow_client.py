"""What an unmodified MLflow client gets from one server: ``python bench/_mlflow_client.py URL WORK…`` prints one JSON object.

Run as a process of its own for each server, so that no server profits from another's warm client.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

SMOKE = bool(os.environ.get("ANDON_BENCH_SMOKE"))
COMMIT = "8f2c1d94be03a7715c20ffac91b4b2f0c6d3e582"
TAGS = {"mlflow.user": "ana", "mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL", "mlflow.source.git.commit": COMMIT}
SEARCH = {"filter_string": "metrics.m3 > 0.5 and params.p1 = 'v3'", "order_by": ["metrics.m5 DESC"], "max_results": 50}


def per_s(work: Callable[[int], Any], seconds: float = 0.2 if SMOKE else 3.0) -> float:
    """Calls a second, one after the other, after a few that warm up."""
    for n in range(3):
        work(-1 - n)
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        work(n)
        n += 1
    return n / (time.perf_counter() - began)


def median_ms(work: Callable[[], Any], repeats: int = 9) -> float:
    work()
    spent = []
    for _ in range(1 if SMOKE else repeats):
        began = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began) * 1e3)
        if sum(spent) > 20_000:
            break
    return sorted(spent)[len(spent) // 2]


class Work:
    """Each method is one measurement, by name."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = MlflowClient(url, url)
        self.experiment = self.client.create_experiment(f"bench {time.time_ns()}")
        self.run = self.client.create_run(self.experiment).info.run_id

    def create_run(self) -> float:
        return per_s(lambda n: self.client.create_run(self.experiment, tags=TAGS, run_name=f"run {n}"))

    def log_metric(self) -> float:
        return per_s(lambda n: self.client.log_metric(self.run, "loss", n / 7, step=n, synchronous=True))

    def log_param(self) -> float:
        return per_s(lambda n: self.client.log_param(self.run, f"p{n}", n))

    def _batches(self, run: str, seconds: float) -> int:
        began, step, now = time.perf_counter(), 0, time.time_ns() // 1_000_000
        while time.perf_counter() - began < seconds:
            self.client.log_batch(run, metrics=[Metric("loss", (step + n) / 7, now, step + n) for n in range(1_000)])
            step += 1_000
        return step

    def log_batch_1(self) -> float:
        seconds, began = (0.2 if SMOKE else 4.0), time.perf_counter()
        return self._batches(self.client.create_run(self.experiment).info.run_id, seconds) / (time.perf_counter() - began)

    def log_batch_4(self) -> float:
        runs, done = [self.client.create_run(self.experiment).info.run_id for _ in range(4)], []
        began = time.perf_counter()
        threads = [threading.Thread(target=lambda run=run: done.append(self._batches(run, 0.2 if SMOKE else 4.0))) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / (time.perf_counter() - began)

    def history(self) -> float:
        run, now = self.client.create_run(self.experiment).info.run_id, time.time_ns() // 1_000_000
        total = 2_000 if SMOKE else 100_000
        for start in range(0, total, 1_000):
            self.client.log_batch(run, metrics=[Metric("h", n / 7, now, n) for n in range(start, start + 1_000)])
        got: list[Any] = []
        spent = median_ms(lambda: got.append(len(self.client.get_metric_history(run, "h"))), 3)
        assert set(got) in ({total}, {25_000}), got  # the client's own pages
        return spent

    def search(self) -> float:
        found = self.client.search_experiments(filter_string="name = 'many'")[0].experiment_id
        sizes: set[int] = set()
        spent = median_ms(lambda: sizes.add(len(self.client.search_runs([found], **SEARCH))), 15)
        assert len(sizes) == 1, sizes
        return spent

    def search_newest(self) -> float:
        found = self.client.search_experiments(filter_string="name = 'many'")[0].experiment_id
        return median_ms(lambda: self.client.search_runs([found], max_results=50), 15)

    def registry_write(self) -> float:
        name = f"m{time.time_ns()}"
        self.client.create_registered_model(name)
        return per_s(lambda _: self.client.create_model_version(name, source="s3://bucket/model"))

    def alias_read(self) -> float:
        name = f"a{time.time_ns()}"
        self.client.create_registered_model(name)
        self.client.create_model_version(name, source="s3://bucket/model")
        self.client.set_registered_model_alias(name, "champion", "1")
        return per_s(lambda _: self.client.get_model_version_by_alias(name, "champion"))

    def artifact(self) -> list[float]:
        megabytes = 2 if SMOKE else 100
        up, down = [], []
        with tempfile.TemporaryDirectory() as folder:
            for n in range(1 if SMOKE else 3):
                file = Path(folder, f"big{n}.bin")
                file.write_bytes(os.urandom(megabytes * 1_000_000))
                began = time.perf_counter()
                self.client.log_artifact(self.run, str(file))
                up.append(megabytes / (time.perf_counter() - began))
                began = time.perf_counter()
                got = self.client.download_artifacts(self.run, file.name, str(Path(folder, "down").absolute()) if _made(folder) else None)
                down.append(megabytes / (time.perf_counter() - began))
                assert Path(got).stat().st_size == megabytes * 1_000_000
        return [sorted(up)[len(up) // 2], sorted(down)[len(down) // 2]]

    def spans(self) -> float:
        """Spans a second as an exporter sends them: 100 of about 2.5 KB in a request, of 10 traces."""
        import requests
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        session = requests.Session()
        headers = {"content-type": "application/x-protobuf", "x-mlflow-experiment-id": self.experiment}

        def body() -> bytes:
            message = ExportTraceServiceRequest()
            scope = message.resource_spans.add().scope_spans.add()
            for n in range(100):
                span = scope.spans.add()
                span.trace_id, span.span_id = traces[n // 10], os.urandom(8)
                span.parent_span_id = b"" if n % 10 == 0 else first[n // 10]
                span.name = "chat"
                if n % 10 == 0:
                    first[n // 10] = span.span_id
                span.start_time_unix_nano = time.time_ns()
                span.end_time_unix_nano = span.start_time_unix_nano + 1_000_000
                pair = span.attributes.add()
                pair.key, pair.value.string_value = "input.value", os.urandom(1_150).hex()
            return bytes(message.SerializeToString())

        made = []
        for _ in range(3 if SMOKE else 200):
            traces, first = [os.urandom(16) for _ in range(10)], [b""] * 10
            made.append(body())
        session.post(self.url + "/v1/traces", made.pop(), headers=headers).raise_for_status()
        began, sent = time.perf_counter(), 0
        for one in made:
            session.post(self.url + "/v1/traces", one, headers=headers).raise_for_status()
            sent += 100
            if time.perf_counter() - began > 10:
                break
        return sent / (time.perf_counter() - began)

    def params_and_metrics(self) -> float:
        """A run as training scripts make it: 20 params and 20 metrics in one call."""
        now = time.time_ns() // 1_000_000

        def one(n: int) -> None:
            run = self.client.create_run(self.experiment, tags=TAGS, run_name=f"r{n}").info.run_id
            metrics = [Metric(f"m{k}", n / (k + 1), now, 0) for k in range(20)]
            self.client.log_batch(run, metrics=metrics, params=[Param(f"p{k}", f"v{n % 10}") for k in range(20)])
            self.client.set_terminated(run)

        return per_s(one)


def _made(folder: str) -> bool:
    Path(folder, "down").mkdir(exist_ok=True)
    return True


def main() -> None:
    url, *names = sys.argv[1:]
    work = Work(url)
    print(json.dumps({name: getattr(work, name)() for name in names}))


if __name__ == "__main__":
    main()
