"""Who may talk to this server at all, how much they may say, and what every answer carries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from andon.api.guard import check_binding
from andon.core.errors import InvalidSettings
from tests.unit.api.conftest import Client

TAG = {"address": "model:bikes@1", "key": "a", "value": "b"}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::2]:4700", ""])
def test_a_forged_host_is_refused(client: Client, host: str) -> None:
    for path in ("/", "/api/v1/line", "/no/such/page"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 403
        assert answer.json()["error"]["fields"]["field"] == "host"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:4700", "[::1]:4700", "127.0.0.1:1"])
def test_loopback_by_any_name_is_answered(client: Client, host: str) -> None:
    assert client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8080"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_sites_page_may_not_write(client: Client, headers: dict[str, str]) -> None:
    assert client.post("/api/v1/tags", json=TAG, headers=headers).status_code == 403
    assert client.post("/services/bikes/rollback", data={"reason": "x"}, headers=headers).status_code == 403
    assert client.delete("/api/v1/versions?address=prompt:answer@1&reason=x", headers=headers).status_code == 403
    assert client.get("/api/v1/line", headers=headers).status_code == 200


def test_our_own_pages_may(client: Client) -> None:
    own = {"origin": "http://127.0.0.1:4700", "sec-fetch-site": "same-origin"}
    assert client.post("/api/v1/tags", json=TAG, headers=own).status_code == 200


def test_a_body_of_100_mb_is_refused(client: Client) -> None:
    declared = client.post("/api/v1/tags", content=b"x" * 100, headers={"content-length": "104857600"})
    assert declared.status_code == 413
    assert declared.json()["error"]["code"] == "too-large"

    def stream() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1_048_576

    streamed = client.post("/api/v1/tags", content=stream(), headers={"content-type": "application/json"})
    assert streamed.status_code == 413
    assert streamed.json()["error"]["code"] == "too-large"


@pytest.mark.parametrize("path", ["/", "/api/v1/line", "/no/such/page", "/static/board.css"])
def test_every_answer_carries_the_security_headers(client: Client, path: str) -> None:
    headers = client.get(path).headers
    assert "script-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_errors_speak_the_callers_language(client: Client) -> None:
    page = client.get("/services/bike", headers={"accept": "text/html"})
    assert page.status_code == 404
    assert "did you mean service:bikes?" in page.text
    assert client.get("/services/bike").json()["error"]["code"] == "not-found"
    assert client.get("/api/v1/services/bike", headers={"accept": "text/html"}).json()["error"]["code"] == "not-found"
    assert client.post("/api/v1/line").json()["error"]["code"] == "method-not-allowed"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "localhost", "::1", "[::1]"])
def test_loopback_is_bound(host: str) -> None:
    check_binding(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.4", "example.org", ""])
def test_beyond_loopback_it_refuses_to_start(host: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        check_binding(host)
    assert caught.value.fields["field"] == "host"


@pytest.mark.parametrize(
    "path", ["/static/../pages.py", "/static/%2e%2e%2fpages.py", "/static/..%2F..%2Fapi%2Fapp.py", "/static/board.css%00"]
)
def test_static_files_are_a_fixed_set(client: Client, path: str) -> None:
    assert client.get(path).status_code in (400, 404)
