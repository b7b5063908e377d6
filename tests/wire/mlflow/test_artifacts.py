"""Files by the stock client: logged, listed, fetched, deleted; and the answers that no client shows."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from andon.store import open_store
from tests.wire.mlflow.servers import AndonServer

pytestmark = pytest.mark.filterwarnings("ignore")  # the client's own
ROOT = "/api/2.0/mlflow-artifacts/artifacts"
Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture
def mlflow(andon_server: AndonServer, client: Any) -> Iterator[Any]:
    """The fluent client in a run of its own."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(andon_server.url)
    with mlflow.start_run():
        yield mlflow
    mlflow.set_tracking_uri(before)


@pytest.fixture
def run(client: Any) -> str:
    return client.create_run("0").info.run_id


def ask(server: AndonServer, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **more: Any) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, headers or {}, **more)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def _names(found: Any) -> list[tuple[str, bool, int | None]]:
    return [(item.path, item.is_dir, item.file_size) for item in found]


def test_files_and_folders_come_back(mlflow: Any, client: Any, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    (folder / "deep" / "er").mkdir(parents=True)
    content = {"a.txt": b"hello", "empty": b"", "deep/er/b.bin": os.urandom(300_000), "deep/ü ñ.json": b"{}", "deep/100%.txt": b"%"}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    mlflow.log_artifacts(str(folder), "given")
    mlflow.log_artifact(str(folder / "a.txt"))
    run = mlflow.active_run().info.run_id
    assert _names(client.list_artifacts(run)) == [("a.txt", False, 5), ("given", True, None)]
    assert _names(client.list_artifacts(run, "given/deep")) == [
        ("given/deep/100%.txt", False, 1),
        ("given/deep/er", True, None),
        ("given/deep/ü ñ.json", False, 2),
    ]
    assert client.list_artifacts(run, "a.txt") == client.list_artifacts(run, "nope") == []
    got = Path(mlflow.artifacts.download_artifacts(run_id=run, artifact_path="given", dst_path=str(tmp_path / "got")))
    assert {path.relative_to(got).as_posix(): path.read_bytes() for path in got.rglob("*") if path.is_file()} == content
    uri = mlflow.get_artifact_uri("given/a.txt")
    assert mlflow.artifacts.load_text(uri) == "hello"
    found = mlflow.artifacts.list_artifacts(mlflow.get_artifact_uri("given/deep/er"))
    assert [(Path(item.path).name, item.file_size) for item in found] == [("b.bin", 300_000)]


def test_what_the_client_draws_and_writes(mlflow: Any, client: Any) -> None:
    import matplotlib as mpl
    import numpy as np

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    run = mlflow.active_run().info.run_id
    mlflow.log_text("grüezi", "notes/a.txt")
    mlflow.log_dict({"a": [1, 2]}, "a.json")
    mlflow.log_dict({"a": [1, 2]}, "a.yaml")
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    mlflow.log_figure(figure, "plots/line.png")
    plt.close(figure)
    mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), "black.png")
    mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), key="steps", step=3, synchronous=True)
    mlflow.log_table({"q": ["x"], "n": [1]}, "table.json")
    mlflow.log_table({"q": ["y"], "n": [2]}, "table.json")  # the client reads, adds, and writes again
    table = mlflow.load_table("table.json", run_ids=[run])
    assert table[["q", "n"]].values.tolist() == [["x", 1], ["y", 2]]
    assert mlflow.artifacts.load_text(f"runs:/{run}/notes/a.txt") == "grüezi"
    assert mlflow.artifacts.load_dict(f"runs:/{run}/a.json") == {"a": [1, 2]}
    assert mlflow.artifacts.load_image(f"runs:/{run}/black.png").size == (4, 4)
    assert {item.path for item in client.list_artifacts(run)} == {"notes", "a.json", "a.yaml", "plots", "black.png", "images", "table.json"}
    assert client.list_artifacts(run, "images")


def test_files_are_deleted(mlflow: Any, client: Any) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    run = mlflow.active_run().info.run_id
    for path in ("a/x", "a/y/z", "b", "c"):
        mlflow.log_text(path, path)
    repository = get_artifact_repository(mlflow.get_artifact_uri())
    repository.delete_artifacts("a")
    repository.delete_artifacts("b")
    assert [item.path for item in client.list_artifacts(run)] == ["c"]
    repository.delete_artifacts()
    assert client.list_artifacts(run) == []


def test_a_second_file_takes_the_place_of_the_first(mlflow: Any) -> None:
    for text in ("one", "two, longer", ""):
        mlflow.log_text(text, "a.txt")
        assert mlflow.artifacts.load_text(mlflow.get_artifact_uri("a.txt")) == text


@pytest.mark.parametrize("size", [12_000_001, 5 << 20])
def test_large_files_in_parts(mlflow: Any, andon_server: AndonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(5 << 20))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(5 << 20))
    sent: list[str] = []
    import requests

    put = requests.put

    def watched(url: str, *given: Any, **named: Any) -> Any:
        sent.append(url)
        return put(url, *given, **named)

    monkeypatch.setattr(requests, "put", watched)
    file = tmp_path / "weights é.bin"
    file.write_bytes(os.urandom(size))
    mlflow.log_artifact(str(file), "model/data")
    assert len(sent) == -(-size // (5 << 20))
    got = mlflow.artifacts.download_artifacts(mlflow.get_artifact_uri("model/data/weights é.bin"), dst_path=str(tmp_path / "got"))
    assert Path(got).read_bytes() == file.read_bytes()
    assert list((andon_server.home / "blobs" / "uploads").iterdir()) == []


def test_a_100_mb_file_never_fills_the_memory(andon_server: AndonServer, run: str) -> None:
    """Up and down, by a client that sends no length, while the server's memory is watched."""
    import blake3

    block = os.urandom(1 << 20)
    peak_before = _peak_kb(andon_server)
    path = f"{ROOT}/0/{run}/artifacts/big.bin"
    assert (
        ask(andon_server, "PUT", path, (block for _ in range(100)), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})[0] == 200
    )
    status, headers, body = ask(andon_server, "GET", path)
    assert (status, len(body)) == (200, 100 << 20)
    assert headers["etag"] == f'"{blake3.blake3(block * 100).hexdigest()}"'
    assert _peak_kb(andon_server) - peak_before < 60_000


def _peak_kb(server: AndonServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def test_ranges(andon_server: AndonServer, run: str) -> None:
    small, large = b"0123456789", os.urandom(2_500_000)
    for name, data in (("small", small), ("large", large)):
        path = f"{ROOT}/0/{run}/artifacts/{name}"
        assert ask(andon_server, "PUT", path, data)[0] == 200
        n = len(data)
        for asked, part in (("2-4", data[2:5]), ("-3", data[-3:]), ("5-", data[5:]), ("0-0", data[:1]), (f"7-{n + 9}", data[7:])):
            status, headers, body = ask(andon_server, "GET", path, headers={"Range": f"bytes={asked}"})
            assert (status, body) == (206, part)
            start = n - 3 if asked == "-3" else int(asked.split("-")[0])
            assert headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/{n}"
            assert headers["content-length"] == str(len(part))
        for asked in (f"{n}-", f"{n + 5}-{n + 9}", "-0"):
            status, headers, body = ask(andon_server, "GET", path, headers={"Range": f"bytes={asked}"})
            assert (status, body, headers["content-range"]) == (416, b"", f"bytes */{n}")
        for asked in ("bytes=0-1,3-4", "lines=1-2", "bytes=x", "bytes=5-2", "bytes=-"):
            status, headers, body = ask(andon_server, "GET", path, headers={"Range": asked})
            assert (status, body) == (200, data)
        etag = headers["etag"]
        status, headers, body = ask(andon_server, "HEAD", path)
        assert (status, headers["content-length"], headers["accept-ranges"], headers["etag"], body) == (200, str(n), "bytes", etag, b"")
        assert ask(andon_server, "GET", path, headers={"If-None-Match": etag})[0] == 304
        assert ask(andon_server, "GET", path, headers={"Range": "bytes=0-1", "If-Range": '"other"'})[0] == 200
        assert ask(andon_server, "GET", path, headers={"Range": "bytes=0-1", "If-Range": etag})[0] == 206


@pytest.mark.parametrize("name", ["x.html", "x.svg", "x.js", "x.xhtml", "x", "é.html", 'a"b.html', "a;b.html"])
def test_nothing_runs_in_a_browser(andon_server: AndonServer, run: str, name: str) -> None:
    from urllib.parse import quote

    path = f"{ROOT}/0/{run}/artifacts/{quote(name)}"
    assert ask(andon_server, "PUT", path, b"<script>alert(1)</script>", {"Content-Type": "text/html"})[0] == 200
    for where in (path, path.replace("/api/", "/ajax-api/"), f"/get-artifact?run_id={run}&path={quote(name)}"):
        status, headers, _ = ask(andon_server, "GET", where)
        assert status == 200
        assert headers["content-disposition"].startswith("attachment; filename=")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox;")
        assert "\n" not in headers["content-disposition"]


def test_lists_as_the_protocol_says_them(andon_server: AndonServer, run: str) -> None:
    for path in ("d/a.txt", "e"):
        assert ask(andon_server, "PUT", f"{ROOT}/0/{run}/artifacts/{path}", b"" if path == "e" else b"hello")[::2] == (200, b"")

    def said(path: str) -> Any:
        status, _, body = ask(andon_server, "GET", path)
        assert status == 200
        return json.loads(body)

    listed = [{"path": "d", "is_dir": True}, {"path": "e", "is_dir": False}]
    inside = {"path": "a.txt", "is_dir": False, "file_size": 5}
    assert said(f"{ROOT}?path=0/{run}/artifacts") == said(f"{ROOT}?path=0%2F{run}%2Fartifacts%2F") == {"files": listed}
    assert said(f"{ROOT}?path=0/{run}/artifacts/d") == {"files": [inside]}
    assert said(f"{ROOT}?path=0/{run}/artifacts/d/a.txt") == said(f"{ROOT}?path=0/nope/artifacts") == {}
    uri = f"mlflow-artifacts:/0/{run}/artifacts"
    assert said(f"/api/2.0/mlflow/artifacts/list?run_id={run}") == {"root_uri": uri, "files": listed}
    assert said(f"/ajax-api/2.0/mlflow/artifacts/list?run_uuid={run}&path=d") == {"root_uri": uri, "files": [inside | {"path": "d/a.txt"}]}
    assert said(f"/api/2.0/mlflow/artifacts/list?run_id={run}&path=nope") == {"root_uri": uri}
    assert ask(andon_server, "GET", f"/get-artifact?run_uuid={run}&path=d/a.txt")[2] == b"hello"


def test_what_is_not_there_is_said(andon_server: AndonServer, run: str) -> None:
    place = f"0/{run}/artifacts"
    assert ask(andon_server, "PUT", f"{ROOT}/{place}/d/a", b"x")[0] == 200
    for method, path, status, code, words in (
        ("GET", f"{ROOT}/{place}/nope", 404, "RESOURCE_DOES_NOT_EXIST", f"No such artifact: '{place}/nope'"),
        ("GET", f"{ROOT}/{place}/d", 400, "INVALID_PARAMETER_VALUE", f"Artifact path refers to a directory, not a file: '{place}/d'"),
        ("GET", f"/get-artifact?run_id={run}&path=nope", 404, "RESOURCE_DOES_NOT_EXIST", f"No such artifact: '{place}/nope'"),
        ("GET", "/get-artifact?run_id=nope&path=a", 404, "RESOURCE_DOES_NOT_EXIST", "Run with id=nope not found"),
        ("GET", "/api/2.0/mlflow/artifacts/list?run_id=nope", 404, "RESOURCE_DOES_NOT_EXIST", "Run with id=nope not found"),
        ("PUT", f"{ROOT}/{place}/d", 400, "INVALID_PARAMETER_VALUE", "folder"),
        ("PUT", f"{ROOT}/{place}/d/a/b", 400, "INVALID_PARAMETER_VALUE", "through a file"),
        ("PUT", f"{ROOT}/{place}/d/", 400, "INVALID_PARAMETER_VALUE", "Invalid path"),
        ("PUT", f"{ROOT}/{place}", 400, "INVALID_PARAMETER_VALUE", "Invalid path"),
        ("PUT", f"{ROOT}/99/{run}/artifacts/a", 404, "RESOURCE_DOES_NOT_EXIST", "99"),
        ("PUT", f"{ROOT}/0/nope/artifacts/a", 404, "RESOURCE_DOES_NOT_EXIST", "Run with id=nope not found"),
        ("PUT", f"{ROOT}/0/models/m-nope/artifacts/a", 404, "RESOURCE_DOES_NOT_EXIST", "m-nope"),
        ("PUT", f"{ROOT}/0/traces/tr-nope/artifacts/a", 404, "RESOURCE_DOES_NOT_EXIST", "tr-nope"),
        ("PUT", f"{ROOT}/99/a", 404, "RESOURCE_DOES_NOT_EXIST", "99"),
        ("GET", f"/api/2.0/mlflow-artifacts/presigned/{place}/d/a", 501, "NOT_IMPLEMENTED", "not supported"),
        ("GET", "/model-versions/get-artifact?name=nope&version=1&path=a", 404, "RESOURCE_DOES_NOT_EXIST", "nope"),
    ):
        found, _, body = ask(andon_server, method, path, b"x" if method == "PUT" else None)
        said = json.loads(body)
        assert (found, said["error_code"]) == (status, code), (path, said)
        assert words in said["message"]


def test_files_of_a_deleted_run_wait_for_it(andon_server: AndonServer, client: Any, run: str) -> None:
    path = f"{ROOT}/0/{run}/artifacts/a"
    assert ask(andon_server, "PUT", path, b"x")[0] == 200
    client.delete_run(run)
    assert [ask(andon_server, method, path, body)[0] for method, body in (("GET", None), ("PUT", b"y"), ("DELETE", None))] == [404] * 3
    client.restore_run(run)
    assert ask(andon_server, "GET", path)[2] == b"x"


def test_files_where_an_experiment_says_they_are(andon_server: AndonServer, client: Any, tmp_path: Path) -> None:
    experiment = client.create_experiment(f"placed-{run_number()}", artifact_location="mlflow-artifacts:/team/files")
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "hello", "a/b.txt")
    assert _names(client.list_artifacts(run, "a")) == [("a/b.txt", False, 5)]
    assert Path(client.download_artifacts(run, "a/b.txt", str(tmp_path))).read_text() == "hello"
    assert ask(andon_server, "GET", f"/get-artifact?run_id={run}&path=a/b.txt")[2] == b"hello"
    assert ask(andon_server, "PUT", f"{ROOT}/team/files/readme.txt", b"shared")[0] == 200
    assert ask(andon_server, "GET", f"{ROOT}/team/files/readme.txt")[2] == b"shared"


_numbers = iter(range(1_000_000))


def run_number() -> int:
    """A number that no other call got, so that names are new on a server that several tests share."""
    return next(_numbers) + 1_000 * os.getpid()


def test_files_of_logged_models(andon_server: AndonServer, mlflow: Any, client: Any, tmp_path: Path) -> None:
    model = mlflow.initialize_logged_model(name="m")
    file = tmp_path / "MLmodel"
    file.write_text("flavors: {}")
    client.log_model_artifact(model.model_id, str(file))
    assert [item.path for item in client.list_logged_model_artifacts(model.model_id)] == ["MLmodel"]
    assert Path(mlflow.artifacts.download_artifacts(f"models:/{model.model_id}", dst_path=str(tmp_path / "got")), "MLmodel").is_file()
    where = f"/ajax-api/2.0/mlflow/logged-models/{model.model_id}/artifacts/files?artifact_file_path=MLmodel"
    assert ask(andon_server, "GET", where)[2] == b"flavors: {}"


def test_small_files_as_the_pages_send_them(andon_server: AndonServer, run: str) -> None:
    where = f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path=u/v.txt"
    assert ask(andon_server, "POST", where, b"data")[0] == 200
    assert ask(andon_server, "GET", f"{ROOT}/0/{run}/artifacts/u/v.txt")[2] == b"data"
    for query, body, words in (
        (f"run_uuid={run}", b"x", "path"),
        ("path=a", b"x", "run_uuid"),
        (f"run_uuid={run}&path=a", b"", "data"),
        (f"run_uuid={run}&path=../a", b"x", "Invalid path"),
        (f"run_uuid={run}&path=a", b"x" * (10 * 1024 * 1024 + 1), "10MB"),
    ):
        status, _, said = ask(andon_server, "POST", f"/ajax-api/2.0/mlflow/upload-artifact?{query}", body)
        assert status == 400
        assert words in json.loads(said)["message"]


def test_many_at_once_all_arrive(andon_server: AndonServer, run: str) -> None:
    """Eight clients, some with the same bytes, some with the same name."""
    failures: list[Any] = []

    def work(worker: int) -> None:
        for n in range(15):
            data = bytes([n]) * (n * 9_000)
            for name in (f"own/{worker}/{n}", f"shared/{n}"):
                status = ask(andon_server, "PUT", f"{ROOT}/0/{run}/artifacts/{name}", data)[0]
                if status != 200 or ask(andon_server, "GET", f"{ROOT}/0/{run}/artifacts/{name}")[2] != data:
                    failures.append((worker, n, status))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with open_store(andon_server.home) as store:
        from andon.tracking import artifacts_of

        assert len(artifacts_of(store, run)) == 8 * 15 + 15


def test_files_of_a_registered_version(andon_server: AndonServer, client: Any, run: str) -> None:
    name = f"m-{run_number()}"
    client.log_text(run, "flavors: {}", "model/MLmodel")
    client.log_text(run, "elsewhere", "MLmodel")
    client.create_registered_model(name)
    version = client.create_model_version(name, f"mlflow-artifacts:/0/{run}/artifacts/model", run).version
    where = f"/model-versions/get-artifact?name={name}&version={version}&path="
    assert ask(andon_server, "GET", where + "MLmodel")[2] == b"flavors: {}"
    for path, status in (("nope", 404), ("../MLmodel", 400), ("..%252fMLmodel", 400), ("/etc/passwd", 400), ("", 400)):
        assert ask(andon_server, "GET", where + path)[0] == status
    assert ask(andon_server, "GET", where.replace(f"version={version}", "version=99") + "MLmodel")[0] == 404
    elsewhere = client.create_model_version(name, "s3://bucket/model").version
    status, _, said = ask(andon_server, "GET", where.replace(f"version={version}", f"version={elsewhere}") + "MLmodel")
    assert (status, json.loads(said)["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
