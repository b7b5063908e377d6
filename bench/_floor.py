"""A server that answers the MLflow client with canned bodies and does nothing else: what is left is the client's own cost."""

from __future__ import annotations

import json
import socket
from typing import Any

import uvicorn
import uvloop

INFO = {
    "run_uuid": "01",
    "run_id": "01",
    "experiment_id": "1",
    "user_id": "ana",
    "status": "RUNNING",
    "start_time": 1,
    "run_name": "r",
    "artifact_uri": "mlflow-artifacts:/1/01/artifacts",
    "lifecycle_stage": "active",
}
TAGS = ("mlflow.runName", "mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
RUN = {"run": {"info": INFO, "data": {"tags": [{"key": key, "value": "ana"} for key in TAGS]}, "inputs": {}}}
VERSION = {
    "model_version": {
        "name": "m",
        "version": "1",
        "creation_timestamp": 1,
        "last_updated_timestamp": 1,
        "current_stage": "None",
        "source": "s3://b/m",
        "status": "READY",
        "aliases": ["champion"],
    }
}
ANSWERS = {
    "runs/create": RUN,
    "runs/get": RUN,
    "experiments/create": {"experiment_id": "1"},
    "registered-models/create": {"registered_model": {"name": "m"}},
    "model-versions/create": VERSION,
    "registered-models/alias": VERSION,
    "server-info": {"store_type": "SqlStore", "workspaces_enabled": False},
}
BODIES = {key: json.dumps(value).encode() for key, value in ANSWERS.items()}


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    body = BODIES.get(scope["path"].partition("/mlflow/")[2], b"{}")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    print(f"floor: http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, http="httptools", loop="uvloop", access_log=False, log_config=None, lifespan="off", proxy_headers=False)
    uvloop.run(uvicorn.Server(config).serve(sockets=[listener]))
