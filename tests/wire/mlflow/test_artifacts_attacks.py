"""Paths that try to lead elsewhere, in every form known: refused in the protocol's words, by raw bytes that no client library mends."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from andon.store import open_store
from andon.store.schema import artifacts
from andon.tracking.artifacts import SHARED
from tests.wire.mlflow.servers import AndonServer

pytestmark = pytest.mark.filterwarnings("ignore")  # the client's own
ROOT = "/api/2.0/mlflow-artifacts"
SECRET = "the secret of the machine"

HOSTILE = [
    "..",
    "../..",
    "../../../../../../../../etc/passwd",
    "a/../../b",
    "a/..",
    "./a",
    "a/./b",
    "%2e%2e/secret",
    "%2E%2E%2Fsecret",
    "..%2fsecret",
    "..%2Fsecret",
    "%252e%252e/secret",
    "%25252e%25252e%25252fsecret",
    "%2525252525252525252525252525252e./x",
    "..%5csecret",
    "..\\secret",
    "a\\b",
    "a%255cb",
    "C:%5Cwindows%5Cwin.ini",
    "C:/windows/win.ini",
    "c:",
    "C:%2Fx",
    "%5C%5Chost%5Cshare",
    "/etc/passwd",
    "//proc/self/environ",
    "%2Fetc%2Fpasswd",
    "%2f%2fproc/self/environ",
    "a//b",
    "a///",
    "file:/etc/passwd",
    "file:///etc/passwd",
    "file:etc/passwd",
    "FILE:%2Fetc%2Fpasswd",
    "s3:/bucket/key",
    "http:/127.0.0.1/x",
    "http://127.0.0.1:1/x",
    "mlflow-artifacts:/0/x",
    "a%23b",
    "%23/../../secret",
    "a%00b",
    "..%00/secret",
    "a%00/../../secret",
    "a%0Ab",
    "a%0D%0AX-Injected: 1".replace(" ", "%20"),
    "a%1bb",
    "a%7fb",
    "%ff%fe",
    "%c0%ae%c0%ae/secret",  # '..' in an encoding that is too long
    "%c0%af",
    "%ed%a0%80",  # a lone surrogate
    "%ef%bc%8e%ef%bc%8e/secret",  # full-width dots
    "%e2%80%a5/secret",  # a two dot leader
    "a%ef%bc%8fb",  # a full-width slash
    "a%ef%bc%bcb",  # a full-width backslash
    "a%e2%80%aeb",  # what turns the direction of writing
    "a%e2%80%8bb",  # a space of no width
    "x" * 256,
    "a/" * 520 + "x",
    "%c3%a9" * 200,
]
HARMLESS = ["~/x", "~root", "a.", "a...", "...", "a%3Fb", "a%20b", "%C3%A9", "e%CC%81", "a&b=c;d", "CON", "a:b", "$HOME", "`id`", "%25"]


def raw(server: AndonServer, method: str, path: str, body: bytes = b"", headers: bytes = b"") -> tuple[int, bytes, bytes]:
    """Status, head and body of one request, of which every byte is ours."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n".encode(
        "latin-1"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head + headers + b"\r\n" + body)
        said = b""
        while piece := connection.recv(65536):
            said += piece
    head, _, rest = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, rest


def _world(home: Path) -> dict[str, bytes]:
    """Everything around the home, and in it but for what is kept under digests."""
    kept = ("blobs", "ledger.db", "server.err", "inbox", "tables")
    return {
        str(path): path.read_bytes()
        for path in sorted(home.parent.rglob("*"))
        if path.is_file() and not str(path.relative_to(home.parent)).startswith(tuple(f"{home.name}/{name}" for name in kept))
    }


@pytest.fixture
def run(andon_server: AndonServer, client: Any) -> str:
    (andon_server.home.parent / "secret").write_text(SECRET)
    (andon_server.home / "secret").write_text(SECRET)
    return str(client.create_run("0").info.run_id)


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_path_reaches_nothing(andon_server: AndonServer, run: str, path: str) -> None:
    before = _world(andon_server.home)
    query = path.replace("#", "%23").replace("&", "%26").replace("\\", "%5C")
    for root in (f"0/{run}/artifacts", "shared/folder"):
        whole = f"{ROOT}/artifacts/{root}/{path}"
        for method, where in (
            ("PUT", whole),
            ("GET", whole),
            ("HEAD", whole),
            ("DELETE", whole + "/x"),
            ("GET", f"{ROOT}/presigned/{root}/{path}"),
            ("GET", f"/ajax-api/2.0/mlflow-artifacts/artifacts/{root}/{path}"),
        ):
            status, _, said = raw(andon_server, method, where, b"evil" if method == "PUT" else b"")
            assert status in (400, 404, 501), (method, where, said)
            assert SECRET.encode() not in said
            assert b"X-Injected" not in said
            if method != "HEAD":
                assert json.loads(said)["error_code"] in (
                    "INVALID_PARAMETER_VALUE",
                    "RESOURCE_DOES_NOT_EXIST",
                    "ENDPOINT_NOT_FOUND",
                    "NOT_IMPLEMENTED",
                )
    for where in (
        f"/get-artifact?run_id={run}&path={query}",
        f"/api/2.0/mlflow/artifacts/list?run_id={run}&path={query}x",
        f"{ROOT}/artifacts?path={query}x",
        f"/model-versions/get-artifact?name=m&version=1&path={query}",
        f"/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/files?artifact_file_path={query}",
        f"/ajax-api/2.0/mlflow/logged-models/..%2f..%2fx/artifacts/files?artifact_file_path={query}",
    ):
        status, _, said = raw(andon_server, "GET", where)
        assert status in (400, 404) or json.loads(said).get("files", []) == [], (where, said)
        assert status < 500
        assert SECRET.encode() not in said
    status, _, said = raw(andon_server, "POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path={query}", b"evil")
    assert status in (400, 404), said
    name = json.dumps({"path": "weights.bin", "num_parts": 1}).encode()
    status, _, said = raw(andon_server, "POST", f"{ROOT}/mpu/create/0/{run}/artifacts/{path}/x", name)
    assert status in (400, 404), said
    assert _world(andon_server.home) == before
    with open_store(andon_server.home) as store, store.ledger.read() as connection:
        assert not connection.execute(artifacts.select().where(artifacts.c.owner.in_([f"run:{run}", SHARED]))).all()
    assert "Traceback" not in andon_server.errors()


@pytest.mark.parametrize("path", HARMLESS)
def test_odd_names_are_names_and_nothing_more(andon_server: AndonServer, run: str, path: str) -> None:
    before = _world(andon_server.home)
    whole = f"{ROOT}/artifacts/0/{run}/artifacts/{path}"
    assert raw(andon_server, "PUT", whole, b"data")[0] == 200
    status, _, said = raw(andon_server, "GET", whole)
    assert (status, said) == (200, b"data")
    assert _world(andon_server.home) == before


@pytest.mark.parametrize("name", ["/etc/passwd", "../../x/passwd", "C:\\Users\\ana\\passwd", "..\\passwd", "passwd"])
def test_of_a_clients_own_path_only_the_name_counts(andon_server: AndonServer, run: str, name: str) -> None:
    asked = json.dumps({"path": name, "num_parts": 1}).encode()
    folder = f"{ROOT}/mpu/{{}}/0/{run}/artifacts/d"
    made = json.loads(raw(andon_server, "POST", folder.format("create"), asked)[2])
    status, head, _ = raw(andon_server, "PUT", made["credentials"][0]["url"].partition(f":{andon_server.port}")[2], b"data")
    assert status == 200
    etag = head.lower().partition(b'etag: "')[2].partition(b'"')[0].decode()
    finish = {"path": name, "upload_id": made["upload_id"], "parts": [{"part_number": 1, "etag": etag}]}
    assert raw(andon_server, "POST", folder.format("complete"), json.dumps(finish).encode())[0] == 200
    assert raw(andon_server, "GET", f"{ROOT}/artifacts/0/{run}/artifacts/d/passwd")[2] == b"data"


def test_uploads_in_parts_belong_to_their_file(andon_server: AndonServer, client: Any, run: str) -> None:
    other = client.create_run("0").info.run_id
    folder = f"{ROOT}/mpu/{{}}/0/{{}}/artifacts"
    made = json.loads(raw(andon_server, "POST", folder.format("create", run), b'{"path": "a", "num_parts": 3}')[2])
    url = made["credentials"][0]["url"].partition(f":{andon_server.port}")[2]
    assert [credential["part_number"] for credential in made["credentials"]] == [1, 2, 3]
    status, head, _ = raw(andon_server, "PUT", url, b"data")
    etag = head.lower().partition(b'etag: "')[2].partition(b'"')[0].decode()
    parts = [{"part_number": 1, "etag": f'"{etag}"'}]

    def finish(run: str = run, **changed: Any) -> tuple[int, bytes]:
        asked = {"path": "a", "upload_id": made["upload_id"], "parts": parts} | changed
        return raw(andon_server, "POST", folder.format("complete", run), json.dumps(asked).encode())[::2]

    for status, _ in (
        finish(run=other),
        finish(path="b"),
        finish(upload_id="x" * 32),
        finish(upload_id="../../../etc"),
        finish(parts=[]),
        finish(parts=[{"part_number": 1, "etag": "0" * 64}]),
        finish(parts=[{"part_number": 1, "etag": "../../facts"}]),
        finish(parts=[{"part_number": 2, "etag": etag}]),
        finish(parts=[*parts, *parts]),
        finish(parts=[{"part_number": 0, "etag": etag}]),
    ):
        assert status in (400, 404)
    for number in ("0", "-1", "99999", "1e3", "..", "x", "%31%32%33%34%35%36"):
        assert raw(andon_server, "PUT", url.rpartition("/")[0] + "/" + number, b"x")[0] in (400, 404)
    for identity in ("x" * 32, "..", "..%2f..%2f..%2fx", "a" * 31):
        assert raw(andon_server, "PUT", f"{ROOT}/mpu/part/{identity}/1", b"x")[0] in (400, 404)
    for count in (0, -1, 10_001, 10**12):
        assert raw(andon_server, "POST", folder.format("create", run), json.dumps({"path": "a", "num_parts": count}).encode())[0] == 400
    assert (
        raw(andon_server, "POST", folder.format("abort", other), json.dumps({"path": "a", "upload_id": made["upload_id"]}).encode())[0]
        == 400
    )
    assert finish()[0] == 200
    assert raw(andon_server, "GET", f"{ROOT}/artifacts/0/{run}/artifacts/a")[2] == b"data"
    assert finish()[0] == 404
    assert raw(andon_server, "PUT", url, b"late")[0] == 404


def test_an_aborted_upload_leaves_nothing(andon_server: AndonServer, run: str) -> None:
    folder = f"{ROOT}/mpu/{{}}/0/{run}/artifacts"
    made = json.loads(raw(andon_server, "POST", folder.format("create"), b'{"path": "a", "num_parts": 1}')[2])
    url = made["credentials"][0]["url"].partition(f":{andon_server.port}")[2]
    assert raw(andon_server, "PUT", url, b"data")[0] == 200
    assert (andon_server.home / "blobs" / "uploads" / made["upload_id"]).is_dir()
    asked = json.dumps({"path": "a", "upload_id": made["upload_id"]}).encode()
    assert raw(andon_server, "POST", folder.format("abort"), asked)[0] == 200
    assert not (andon_server.home / "blobs" / "uploads" / made["upload_id"]).exists()
    assert raw(andon_server, "GET", f"{ROOT}/artifacts/0/{run}/artifacts/a")[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "169.254.169.254", ""])
def test_a_forged_host_is_refused_on_the_wire(andon_server: AndonServer, run: str, host: str) -> None:
    for method, path in (
        ("PUT", f"{ROOT}/artifacts/0/{run}/artifacts/a"),
        ("GET", f"{ROOT}/artifacts?path=0/{run}/artifacts"),
        ("POST", f"{ROOT}/mpu/create/0/{run}/artifacts"),
        ("PUT", f"{ROOT}/mpu/part/{'x' * 32}/1"),
        ("GET", f"/get-artifact?run_id={run}&path=a"),
        ("GET", "/model-versions/get-artifact?name=m&version=1&path=a"),
    ):
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", andon_server.port), timeout=20) as connection:
            connection.sendall(head)
            assert b" 403 " in connection.recv(65536).split(b"\r\n")[0]


@pytest.mark.parametrize("header", [b"Origin: http://evil.example\r\n", b"Origin: null\r\n", b"Sec-Fetch-Site: cross-site\r\n"])
def test_another_sites_page_may_not_upload(andon_server: AndonServer, run: str, header: bytes) -> None:
    whole = f"{ROOT}/artifacts/0/{run}/artifacts/a"
    for method, path in (("PUT", whole), ("DELETE", whole), ("POST", f"{ROOT}/mpu/create/0/{run}/artifacts")):
        assert raw(andon_server, method, path, b"x", header)[0] == 403
    assert raw(andon_server, "GET", whole)[0] == 404


def test_links_in_the_store_lead_nowhere(andon_server: AndonServer, run: str) -> None:
    """Whoever may plant a link there may read the machine anyway; but bytes that are not the digest's are never sent."""
    whole = f"{ROOT}/artifacts/0/{run}/artifacts/a"
    data = os.urandom(200_000)
    assert raw(andon_server, "PUT", whole, data)[0] == 200
    with open_store(andon_server.home) as store:
        with store.ledger.read() as connection:
            digest = connection.execute(artifacts.select().where(artifacts.c.owner == f"run:{run}")).one().digest
        blob = store.blobs.local_path(digest)
    blob.unlink()
    blob.symlink_to(andon_server.home.parent / "secret")
    status, _, said = raw(andon_server, "GET", whole)
    assert status == 500
    assert SECRET.encode() not in said
    assert json.loads(said)["error_code"] == "INTERNAL_ERROR"
    assert raw(andon_server, "PUT", whole, data)[0] == 200  # and putting them again heals it
    assert raw(andon_server, "GET", whole)[2] == data


SOURCES = [
    "file:///etc",
    "file:/etc",
    "/etc",
    "../../..",
    "http://127.0.0.1:1/x",
    "https://169.254.169.254/latest/meta-data",
    "s3://bucket/key",
    "mlflow-artifacts:/../../etc",
    "mlflow-artifacts://host/../../etc",
    "mlflow-artifacts:/0/%2e%2e/x",
    "mlflow-artifacts:/a#/../../etc",
    "mlflow-artifacts:/a?/../../etc",
    "mlflow-artifacts:",
    "runs:/nope/x",
    "runs:/../x",
    "runs://x/y",
    "models:/nope/1",
    "models:/m-nope",
    "dbfs:/x",
    "\0",
    "",
]


@pytest.mark.parametrize("source", SOURCES)
def test_a_versions_source_leads_nowhere_else(andon_server: AndonServer, source: str) -> None:
    from andon.wire.mlflow.errors import WireError
    from andon.wire.mlflow.version_files import source_place_in

    with open_store(andon_server.home) as store, store.ledger.read() as connection, pytest.raises(WireError) as caught:
        source_place_in(connection, source)
    assert caught.value.status in (400, 404)
