"""Hostile headers, labels and keys against a real replica under a split, and gRPC with several replicas."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from andon.core.errors import InvalidInput
from andon.logs import Label, record_labels
from andon.models import Column, Signature
from andon.releases.splits import LEASE_S
from andon.serving.front import Front
from andon.serving.routing import Router, unit_of
from andon.store import Store
from tests.conftest import ANA
from tests.faults.test_replicas import Group, children, wait
from tests.unit.serving.clients import Client, Server, run
from tests.unit.serving.line import Line
from tests.unit.serving.splitting import ROW, Source, a_split, exposures, holding, put_split, with_front

BODY = b'{"x":1,"k":1}'
INFER = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[1]},{"name":"k","shape":[1],"datatype":"INT64","data":[1]}]}'


@pytest.fixture
def line(disk_store: Store, tmp_path: Path) -> Line:
    return Line(disk_store, tmp_path / "scratch")


@pytest.fixture
def home(disk_store: Store) -> Path:
    return Path(disk_store.settings.home)


def test_hostile_headers_and_labels_are_refused_by_name(line: Line, home: Path, disk_store: Store) -> None:
    line.point(line.onnx())
    timeouts = ("0", "-1", "1e3", "9" * 12, "000000000001" + "9" * 8, "000000000001" + "9" * 400, "000000000001" + "9" * 5_000)
    numbers = ("9" * 400, "1e400", "NaN")

    async def main() -> None:
        with Server(home) as server:
            await server.wait_ready()
            client = Client(server.port)
            for given in timeouts:
                for path, body in (("/predict", BODY), ("/v2/models/bikes/infer", INFER)):
                    reply = await client.ask("POST", path, body, {"x-request-timeout-ms": given})
                    assert (reply.status, b"x-request-timeout-ms" in reply.body) == (400, True), (given[:30], reply)
            for given in numbers:
                reply = await client.ask("POST", "/labels", b'{"labels":[{"request_id":"a","label":%s}]}' % given.encode())
                assert (reply.status, reply.json["error"]["code"]) == (400, "invalid-input"), given[:30]
            for wrong in ("", "Revenue", "a b", "x" * 101):
                reply = await client.post("/labels", {"labels": [{"request_id": "a", "label": 1, "name": wrong}]})
                assert (reply.status, reply.json["error"]["fields"]["field"]) == (400, "labels[0].name")
            given = [{"request_id": "a", "label": 3.5, "name": "revenue"}, {"request_id": "a", "label": 2}]
            reply = await client.post("/labels", {"labels": given})
            assert (reply.status, reply.json) == (200, {"kept": 2})
            assert (await client.ask("POST", "/predict", BODY)).status == 200
            await client.close()
            code, said = server.terminate()
            assert (code, "a defect" in said) == (0, False), said

    run(main())
    outcomes = disk_store.tables.query('select request_id, "row", name, label from "outcomes/bikes"').to_pylist()
    assert outcomes == [{"request_id": "a", "row": 0, "name": "revenue", "label": 3.5}]
    assert disk_store.tables.query('select label from "labels/bikes"').to_pylist() == [{"label": 2.0}]


def test_a_label_that_no_double_holds_is_refused(disk_store: Store) -> None:
    with pytest.raises(InvalidInput, match="finite"):
        record_labels(disk_store, "bikes", [Label(request_id="a", label=10**5_000)], actor=ANA)


def test_a_defect_before_the_batcher_is_a_500_and_the_connection_says_so(line: Line) -> None:
    """The short way is called by the parser: what it raises would be taken for a request that cannot be read."""
    from andon.api.endpoints import Predict
    from andon.api.exchange import Exchange
    from andon.api.facts import Facts

    line.point(line.onnx())

    class Transport:
        said = b""

        def is_closing(self) -> bool:
            return False

        def write(self, data: bytes) -> None:
            self.said += data

        def close(self) -> None:
            self.said += b"<closed>"

    class Protocol:
        transport = Transport()

        server_state = SimpleNamespace(total_requests=0)

        def default_head(self) -> bytes:
            return b""

    async def use(front: Front, source: Source) -> None:
        assert await front.wait_ready(10)
        front.choose = lambda *_, **__: 1 // 0  # type: ignore[method-assign,assignment]
        exchange = Exchange(Protocol(), front, Predict(front), Facts())  # type: ignore[arg-type]
        exchange.parts = [BODY]
        exchange.run()
        assert b" 500 " in Protocol.transport.said
        assert b"ZeroDivisionError" in Protocol.transport.said
        assert Protocol.transport.said.endswith(b"<closed>")

    with_front(line, use)


SIGNED = Signature((Column("u", "string", required=False),), (Column("y", "double"),))


@pytest.mark.parametrize(
    ("given", "header", "unit"),
    [("", "ana", "ana"), ("", None, "request"), (None, "", "request"), ("é", "x", "é"), ("e\u0301", None, "e\u0301")],
)
def test_a_name_that_is_empty_names_nobody(given: str | None, header: str | None, unit: str) -> None:
    assert unit_of(a_split("release:a@1", key="u"), SIGNED, header, "request", rows=[(given,)]) == unit
    columns = {"u": np.array([given], dtype=object)}
    assert unit_of(a_split("release:a@1", key="u"), SIGNED, header, "request", columns=columns) == unit


def test_long_names_in_the_header_are_told_apart_and_mean_what_the_field_means(line: Line, home: Path) -> None:
    signature = Signature((Column("x", "double"), Column("user", "string", required=False)), (Column("y", "double"),))
    one = line.onnx((2.0,), signature=Signature((Column("x", "double"),), (Column("y", "double"),)), example=({"x": 1.0},))
    line.point(one)
    put_split(line, a_split(one, key="user"))
    split, long = a_split(one, key="user"), "x" * 300

    async def main() -> None:
        with Server(home) as server:
            await server.wait_ready()
            client = Client(server.port)
            for name in (long + "a", long + "b", "é"):
                headers = {"x-andon-key": name.encode().decode("latin-1")}
                assert (await client.ask("POST", "/predict", b'{"x":1}', headers)).status == 200
            await client.close()
            assert server.terminate()[0] == 0

    run(main())
    seen = {row[0] for row in exposures(line, "unit")}
    assert seen == {unit_of(split, signature, None, "r", rows=[(1.0, name)]) for name in (long + "a", long + "b", "é")}
    assert len(seen) == 3


def test_a_replica_whose_lease_is_over_exposes_nobody(line: Line) -> None:
    old, new = line.onnx(), line.onnx(bias=100.0)
    line.point(old)
    put_split(line, a_split(old, new))
    at_s = [1_000.0]

    async def use(front: Front, source: Source) -> None:
        await holding(front, old, new)
        await front.predict([ROW], request_id="before")
        source.down = True
        at_s[0] += LEASE_S + 1
        choice = front.choose("after")
        assert (choice.split, choice.unit, choice.channel, choice.loaded.address) == (None, None, "production", old)
        for number in range(20):
            assert (await front.predict([ROW], request_id=f"after{number}")).release == old

    with_front(line, use, router=Router(lambda: at_s[0]))
    assert [row[0] for row in exposures(line, "request_id")] == ["before"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_grpc_is_answered_by_both_replicas(line: Line, home: Path, disk_store: Store) -> None:
    """The kernel shares the port's connections out; the prediction log says who answered, by the prefix of the ids it made."""
    import tritonclient.grpc as triton

    line.point(line.onnx())
    port = 0

    def ask(x: float) -> tuple[float, str]:
        # a connection of its own each time: grpc shares them between clients of one process otherwise
        with triton.InferenceServerClient(f"127.0.0.1:{port}", channel_args=[("grpc.use_local_subchannel_pool", 1)]) as client:
            given: list[Any] = [triton.InferInput("x", [2], "FP64"), triton.InferInput("k", [2], "INT64")]
            given[0].set_data_from_numpy(np.array([x, -x]))
            given[1].set_data_from_numpy(np.array([1, 2]))
            result = client.infer("bikes", given)
            assert result.as_numpy("y").tolist() == [2 * x + 1, -2 * x + 2]
            return x, result.get_response().id.rpartition("-")[0]

    def ready() -> bool:
        with triton.InferenceServerClient(f"127.0.0.1:{port}", channel_args=[("grpc.use_local_subchannel_pool", 1)]) as client:
            return bool(client.is_server_ready())

    def both_listen() -> bool:
        table = [row for name in ("tcp", "tcp6") for row in Path("/proc/net", name).read_text().splitlines()[1:]]
        return sum(row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A" for row in table) == 2

    with Group(home, "--port", "0", "-n", "2", "--grpc-port", "0") as group:
        assert group.process.stdout is not None
        said = group.process.stdout.readline()
        assert "on gRPC port " in said
        port = int(said.rpartition(" ")[2])
        wait(lambda: len([pid for zygote in children(group.process.pid) for pid in children(zygote)]) == 2, "two replicas")
        wait(both_listen, "two listeners")
        assert all(ready() for _ in range(20)), "a replica takes calls only when it can answer them"
        answered_by = {ask(float(at))[1] for at in range(60)}
        assert group.terminate() == 0
    assert len(answered_by) == 2
