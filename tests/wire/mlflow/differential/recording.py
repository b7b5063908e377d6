"""Records what the stock client sends: ``python -m tests.wire.mlflow.differential.recording URL SCENARIO``.

It writes ``recorded/SCENARIO.json``. URL is a fresh ``mlflow server``'s. What the server made up and the client sends back later becomes a
placeholder, uploads become bytes of the same size, and what tells of the machine is replaced. Run it again when the client is upgraded.
"""

from __future__ import annotations

import base64
import json
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from tests.wire.mlflow.differential.cases import Case, Step
from tests.wire.mlflow.differential.comparing import EXPERIMENT_KEYS, ID

HERE = Path(__file__).parent
MACHINE = {"mlflow.user": "ana", "mlflow.source.name": "train.py", "user_id": "ana", "mlflow.source.git.commit": "0" * 40}
KEPT_HEADERS = ("x-mlflow-experiment-id",)


class Exchange(msgspec.Struct):
    """A request and the JSON that answered it, if it was JSON."""

    step: Step
    said: Any = None


class Recorder:
    """Between the client and its connections; keeps every exchange."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []

    def install(self) -> None:
        """Wrap what ``requests`` sends with."""
        from requests.adapters import HTTPAdapter

        plain = HTTPAdapter.send

        def send(adapter: Any, request: Any, *args: Any, **options: Any) -> Any:
            body = request.body
            if hasattr(body, "read"):
                body = body.read()
                request.body = body
            answer = plain(adapter, request, *args, **options)
            said = answer.json() if "json" in answer.headers.get("content-type", "") else None
            self.exchanges.append(Exchange(_step(request, body), said))
            return answer

        HTTPAdapter.send = send  # type: ignore[method-assign]


def _step(request: Any, body: Any) -> Step:
    parts = urlsplit(request.url)
    headers = {name: value for name, value in request.headers.items() if name.lower() in KEPT_HEADERS}
    common: dict[str, Any] = {
        "method": request.method,
        "path": unquote(parts.path),
        "query": parse_qsl(parts.query, keep_blank_values=True),
    }
    raw = body.encode() if isinstance(body, str) else body or b""
    kind = request.headers.get("content-type", "")
    if "json" in kind:
        return Step(**common, headers=headers, json=json.loads(raw or b"{}"))
    if "protobuf" in kind:
        return Step(**common, headers=headers | {"Content-Type": kind}, base64=base64.b64encode(raw).decode())
    return Step(**common, headers=headers, size=len(raw)) if request.method in ("PUT", "POST") else Step(**common, headers=headers)


def _leaves(value: Any, place: str = "", key: str = "") -> Any:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{place}.{name}" if place else name, name)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{place}.{number}", key)
    elif isinstance(value, str):
        yield place, key, value


def with_places(name: str, exchanges: list[Exchange]) -> Case:
    """The exchanges as a case whose requests hold placeholders for what earlier answers told."""
    ids: dict[str, str] = {}
    experiments: dict[str, str] = {}
    sent = ""
    steps: list[Step] = []
    later = [msgspec.json.encode(exchange.step).decode() for exchange in exchanges]
    for number, exchange in enumerate(exchanges):
        steps.append(_placed(exchange.step, ids, experiments))
        sent += later[number]
        bind: dict[str, str] = {}
        for place, key, text in _leaves(exchange.said):
            if key in EXPERIMENT_KEYS and text not in ("0", *experiments):
                experiments[text] = bind_as = f"exp{len(experiments)}"
                bind[bind_as] = place
            elif ID.fullmatch(text) and text not in ids and text not in sent and any(text in after for after in later[number + 1 :]):
                ids[text] = bind_as = f"id{len(ids)}"
                bind[bind_as] = place
        steps[-1] = msgspec.structs.replace(steps[-1], bind=bind)
    return Case(f"recorded/{name}", steps)


def _placed(step: Step, ids: dict[str, str], experiments: dict[str, str]) -> Step:
    def text(value: str, key: str) -> str:
        if key in EXPERIMENT_KEYS or key == "x-mlflow-experiment-id":
            return f"<<{experiments[value]}>>" if value in experiments else value
        if key in ("path", "artifact_uri", "source", "value", "storage_location", "artifact_location"):
            value = re.sub(
                r"((?:^|artifacts/|mlflow-artifacts:/))(\d+)(?=/)",
                lambda found: found[1] + (f"<<{experiments[found[2]]}>>" if found[2] in experiments else found[2]),
                value,
            )
        return ID.sub(lambda found: f"<<{ids[found[0]]}>>" if found[0] in ids else found[0], value)

    def walk(value: Any, key: str = "", name: str = "") -> Any:
        if isinstance(value, dict):
            said = str(value.get("key", ""))
            return {one: walk(item, one, said) for one, item in value.items()}
        if isinstance(value, list):
            return [walk(item, key, name) for item in value]
        if not isinstance(value, str):
            return value
        if key in MACHINE or (key == "value" and name in MACHINE):
            return MACHINE[key if key in MACHINE else name]
        if value.startswith("{"):  # JSON within text, such as where a data set came from
            value = re.sub(
                r'("(mlflow\.[a-z.]+)": ")[^"]*', lambda found: found[1] + MACHINE[found[2]] if found[2] in MACHINE else found[0], value
            )
        return text(value, key)

    return msgspec.structs.replace(
        step,
        path=text(step.path, "path"),
        query=[(name, text(value, name)) for name, value in step.query],
        json=step.json if step.json is msgspec.UNSET else walk(step.json),
        headers={name: text(value, name.lower()) for name, value in step.headers.items()},
    )


def main(url: str, scenario: str) -> None:
    """Run the scenario with this process's client, recorded."""
    os.environ |= {"MLFLOW_TRACKING_URI": url, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    recorder = Recorder()
    recorder.install()
    runpy.run_path(str(HERE.parent / "scenarios" / f"{scenario}.py"), run_name="__main__")
    case = with_places(scenario, recorder.exchanges)
    kept = HERE / "recorded" / f"{scenario}.json"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(b"[\n" + b",\n".join(msgspec.json.encode(step) for step in case.steps) + b"\n]\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
