"""The floor: uvicorn (uvloop, httptools), msgspec and the model with what is queued in one batch, and nothing else.

No validation, no log, no metrics, no releases. A cheap model runs on the event loop itself, a dear one on a thread.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Any

import msgspec
import numpy as np
import uvicorn
import uvloop
from model import load

predict = load()
inline = os.environ["BENCH_MODEL"].endswith(".onnx")
queue: list[tuple[list[dict[str, float]], asyncio.Future[list[float]]]] = []
busy = False


async def work() -> None:
    global busy
    loop = asyncio.get_running_loop()
    while queue:
        batch = queue[:]
        queue.clear()
        rows = np.array([list(row.values()) for item in batch for row in item[0]])
        made = (predict(rows) if inline else await loop.run_in_executor(None, predict, rows)).tolist()
        at = 0
        for part, future in batch:
            future.set_result(made[at : at + len(part)])
            at += len(part)
    busy = False


async def app(scope: Any, receive: Any, send: Any) -> None:
    global busy
    if scope["path"] != "/predict":
        body = b"{}"
    else:
        rows = msgspec.json.decode((await receive())["body"])["rows"]
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[float]] = loop.create_future()
        queue.append((rows, future))
        if not busy:
            busy = True
            tasks.append(loop.create_task(work()))
            del tasks[:-4]
        body = msgspec.json.encode({"outputs": [{"y": y} for y in await future]})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


tasks: list[asyncio.Task[None]] = []

if __name__ == "__main__":
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1])))
    listener.listen(1024)
    for _ in range(int(os.environ.get("BENCH_WORKERS", "1")) - 1):
        if os.fork() == 0:
            break
    config = uvicorn.Config(app, http="httptools", loop="uvloop", access_log=False, log_config=None, lifespan="off", proxy_headers=False)
    uvloop.run(uvicorn.Server(config).serve(sockets=[listener]))
