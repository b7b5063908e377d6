"""The exposure log of a front: gathered, written beside the requests, and kept while it cannot be written."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from andon.logs.exposures import Exposure
from andon.serving import exposing
from andon.serving.exposing import Exposer
from andon.serving.metrics import Metrics


def exposure(name: str) -> Exposure:
    return Exposure(
        event_us=1,
        arrival_us=1,
        request_id=name,
        unit=name,
        rollout="rollout:1",
        stage=2,
        channel="candidate",
        release="release:bikes@2",
        status="ok",
        latency_ms=1.5,
        rows=3,
    )


class Tables:
    """Takes batches, or refuses them."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.broken = False

    def append(self, table: str, batch: Any, *, durable: bool = True) -> None:
        if self.broken:
            raise OSError(28, "No space left on device")
        assert (table, durable) == ("exposures/bikes", False)
        self.batches.append(batch.column("request_id").to_pylist())


def test_rows_are_written_together_and_soon() -> None:
    async def main() -> None:
        tables = Tables()
        exposer = Exposer(tables, "bikes", Metrics("bikes"))  # type: ignore[arg-type]
        for at in range(5):
            exposer.add(exposure(str(at)))
        assert tables.batches == []
        while not tables.batches:
            await asyncio.sleep(0.005)
        exposer.add(exposure("last"))
        await exposer.close()
        assert tables.batches == [["0", "1", "2", "3", "4"], ["last"]]

    asyncio.run(main())


def test_a_log_that_refuses_is_tried_again_and_only_so_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposing, "RETRY_S", 0.01)
    monkeypatch.setattr(exposing, "MOST_KEPT", 3)

    async def main() -> None:
        tables, metrics = Tables(), Metrics("bikes")
        tables.broken = True
        exposer = Exposer(tables, "bikes", metrics)  # type: ignore[arg-type]
        for at in range(5):
            exposer.add(exposure(str(at)))
        while exposer.problem is None:
            await asyncio.sleep(0.005)
        assert "No space left" in exposer.problem
        tables.broken = False
        while not tables.batches:
            await asyncio.sleep(0.005)
        assert tables.batches == [["2", "3", "4"]]
        assert metrics.exposures_dropped == 2
        assert exposer.problem is None
        await exposer.close()

    asyncio.run(main())
