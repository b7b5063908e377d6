"""The note of who serves, and the port that a service keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from andon.api.handover import HANDOVER, Handover, ReplicaLeft, handed_over, note_holder, note_path, read_note, upgrade, write_note
from andon.api.serving_server import listen, open_listener
from andon.core.errors import NotFound, PortTaken
from andon.core.settings import Settings

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are told apart by their start, which /proc says")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=str(tmp_path))


def test_a_note_says_who_and_where_until_its_process_ends(settings: Settings) -> None:
    assert read_note(settings, "a/b") is None
    with listen("127.0.0.1", 0) as listener:
        write_note(settings, "a/b", listener, generation=3)
        note = read_note(settings, "a/b")
        assert note is not None
        assert (note.host, note.port, note.generation) == (*listener.getsockname(), 3)
        assert note_holder(note) == os.getpid()
    another = msgspec.structs.replace(note, process=f"{os.getpid()}:1")  # the same number, another process
    assert note_holder(another) is None


def test_the_note_of_a_living_process_is_left_alone(settings: Settings) -> None:
    code = (
        "import sys; from andon.api.handover import process_mark; import os; print(process_mark(os.getpid()), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        mark = other.stdout.readline().strip()
        note_path(settings, "s").parent.mkdir(parents=True)
        note_path(settings, "s").write_text(f'{{"process":"{mark}","host":"127.0.0.1","port":1}}')
        with listen("127.0.0.1", 0) as listener:
            write_note(settings, "s", listener)
            assert read_note(settings, "s").port == 1  # type: ignore[union-attr]
            other.communicate("")
            write_note(settings, "s", listener)
            assert read_note(settings, "s").port == listener.getsockname()[1]  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"process": 1}'])
def test_a_note_that_cannot_be_read_is_none(settings: Settings, text: str) -> None:
    note_path(settings, "s").parent.mkdir(parents=True)
    note_path(settings, "s").write_text(text)
    assert read_note(settings, "s") is None
    open_listener(settings, "s", "127.0.0.1", None).close()


def test_the_last_port_is_taken_again_when_it_is_free_and_only_when_none_is_asked_for(settings: Settings) -> None:
    with open_listener(settings, "s", "127.0.0.1", None) as first:
        port = first.getsockname()[1]
        write_note(settings, "s", first)
        with open_listener(settings, "s", "127.0.0.1", None) as second:  # somebody has it: any other
            assert second.getsockname()[1] != port
        with pytest.raises(PortTaken):
            open_listener(settings, "s", "127.0.0.1", port)
    with open_listener(settings, "s", "127.0.0.1", None) as again:
        assert again.getsockname()[1] == port


def test_a_handover_goes_through_the_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left = ReplicaLeft(number=2, slot=0, pid=7, channel=5, generation=1, state="ready")
    given = Handover(listener=3, generation=1, supervised=True, board=4, wanted=1, numbers=2, zygote=(6, 8), replicas=(left,))
    monkeypatch.setenv(HANDOVER, msgspec.json.encode(given).decode())
    assert handed_over() == given
    assert handed_over() is None


def test_an_upgrade_of_what_nobody_serves_says_how_to_start_it(settings: Settings) -> None:
    with pytest.raises(NotFound, match="nobody on this machine") as refused:
        upgrade(settings, "s", timeout_s=1.0)
    assert refused.value.next_step == "start it: andon serve s"
