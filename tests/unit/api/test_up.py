"""``andon up`` as a process: it answers, says where, ends in order, and refuses clearly what it cannot do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from andon.api.server import up
from andon.core.errors import InvalidSettings, PortTaken
from andon.core.settings import load

PROGRAM = "import sys; from andon.core.settings import load; from andon.board.server import up; up(load(sys.argv[1], port=0), serve=False)"


def _get(url: str, accept: str = "application/json") -> tuple[int, bytes]:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"accept": accept}), timeout=20) as answer:
        return answer.status, answer.read()


def test_it_answers_says_where_and_ends_while_a_page_listens(tmp_path: Path) -> None:
    home = tmp_path / ".andon"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(home)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        assert _get(f"{url}/health") == (200, b'{"status":"ready"}')
        assert b"An empty line" in _get(f"{url}/", "text/html")[1]
        with urllib.request.urlopen(f"{url}/api/v1/events", timeout=20) as stream:
            assert stream.readline() == b"retry: 1000\n"
            process.send_signal(signal.SIGTERM)
            stream.read()  # ends with the server, and does not hold it up
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert (home / "ledger.db").exists()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortTaken) as caught:
            up(load(tmp_path / "home", port=other.getsockname()[1]))
        assert caught.value.fields["port"] == other.getsockname()[1]


def test_beyond_loopback_it_refuses_before_it_opens_anything(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings):
        up(load(tmp_path / "home", host="0.0.0.0", port=0))
    assert not (tmp_path / "home").exists()


def test_a_write_by_another_process_reaches_a_page_that_listens(tmp_path: Path) -> None:
    home = tmp_path / ".andon"
    write = (
        "import sys; from andon.store import open_store; from andon.registry import register; from andon.core.actors import Actor; "
        "s = open_store(sys.argv[1]); register(s, 'prompt', 'hi', {'a': 1}, actor=Actor('person', 'ana')); s.close()"
    )
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(home)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{url}/api/v1/events?beat_s=0.2", timeout=20) as stream:
            lines = iter(stream.readline, b"")
            assert next(line for line in lines if b"beat" in line)
            subprocess.run([sys.executable, "-c", write, str(home)], check=True, env=os.environ | {"ANDON_ACTOR": "ana"})
            told = next(line for line in lines if line.startswith(b'data: {"seq'))
            assert "registry" in json.loads(told.removeprefix(b"data: "))["changed"]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
