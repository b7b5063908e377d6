"""The error tree: drawn once, true to the classes, and every error says what, where and what next in one shape."""

from __future__ import annotations

import json
import pickle
import re

import pytest

from andon.core import errors
from andon.core.errors import AndonError, DiskFull, NotFound


def _tree(kind: type[AndonError]) -> list[type[AndonError]]:
    own = [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return [kind, *(deeper for sub in own for deeper in _tree(sub))]


CLASSES = _tree(AndonError)


def _drawn() -> dict[str, tuple[str, str, int, int]]:
    """Name -> (parent, code, status, exit code), read from the drawing."""
    found: dict[str, tuple[str, str, int, int]] = {}
    above: list[str] = ["AndonError"]
    for line in (errors.__doc__ or "").splitlines():
        row = re.fullmatch(r"    ((?:│   |    )*)(?:├── |└── )(\w+) +([a-z-]+) +(\d+) +(\d+)", line)
        if row:
            depth = len(row[1]) // 4 + 1
            del above[depth:]
            found[row[2]] = (above[depth - 1], row[3], int(row[4]), int(row[5]))
            above.append(row[2])
    return found


def test_the_drawing_is_the_tree() -> None:
    classes = {kind.__name__: (kind.__mro__[1].__name__, kind.code, kind.status, kind.exit_code) for kind in CLASSES[1:]}
    assert _drawn() == classes


@pytest.mark.parametrize("kind", CLASSES)
def test_each_error_says_what_it_is(kind: type[AndonError]) -> None:
    error = kind(field="port")
    assert error.message == (kind.__doc__ or "").splitlines()[0]
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code)
    assert 400 <= kind.status < 600
    assert kind.exit_code in {1, 2} or 64 <= kind.exit_code <= 78
    envelope = json.loads(json.dumps(error.envelope()))
    assert envelope == {"error": {"code": kind.code, "message": error.message, "next_step": error.next_step, "fields": {"field": "port"}}}


def test_codes_are_unique() -> None:
    assert len({kind.code for kind in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_travels_between_processes(kind: type[AndonError]) -> None:
    error = pickle.loads(pickle.dumps(kind("no", next_step="run `andon ls`", n=3)))
    assert (type(error), error.message, error.next_step, error.fields) == (kind, "no", "run `andon ls`", {"n": 3})


def test_what_a_person_reads_has_message_fields_and_next_step() -> None:
    assert (
        str(NotFound("nothing there", address="model:x")) == "nothing there (address: model:x)\n  next: run `andon ls` to see what there is"
    )
    assert DiskFull().next_step == "free some space, or run `andon gc`; then try again"


def test_fields_of_any_kind_have_a_json_form() -> None:
    assert AndonError("x", path=errors, n=1, share=0.5, flag=True, none=None).envelope()["error"]["fields"] == {
        "path": str(errors),
        "n": 1,
        "share": 0.5,
        "flag": True,
        "none": None,
    }


def test_an_error_without_a_docstring_still_has_a_message() -> None:
    class Undocumented(NotFound):
        pass

    assert Undocumented().message == "not-found"
