"""Labels as every face takes them: of a service that is there, for a request that may have been."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import insert

from andon.core.errors import InvalidInput, NotFound
from andon.operations.labelling import labels, labels_from_lines
from andon.store import Store
from andon.store import schema as s
from tests.conftest import ANA


@pytest.fixture
def served(store: Store) -> Store:
    row = {"id": "r1", "service": "bikes", "url": "http://127.0.0.1:1", "pid": 1, "release": None, "status": "ready", "note": ""}
    store.ledger.write(lambda c: c.execute(insert(s.replicas).values(**row, started_us=1, seen_us=1)))
    return store


def test_labels_of_no_service_are_refused_with_close_names(served: Store) -> None:
    item = {"request_id": "a", "label": 1.0}
    assert labels("bikes", [item], store=served, actor=ANA) == 1
    with pytest.raises(NotFound) as caught:
        labels("bike", [item], store=served, actor=ANA)
    assert "service:bikes" in str(caught.value.next_step)
    with pytest.raises(NotFound):
        labels_from_lines("bike", [json.dumps(item).encode()], store=served, actor=ANA)
    assert labels_from_lines("service:bikes", [json.dumps(item).encode()], store=served, actor=ANA) == 1


@pytest.mark.parametrize("request_id", ["", " ", "a b", "a\n", "\x00", "\u00e9", "x" * 201])
def test_a_request_id_that_no_prediction_can_have_is_refused(served: Store, request_id: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        labels("bikes", [{"request_id": "a", "label": 1}, {"request_id": request_id, "label": 1}], store=served, actor=ANA)
    assert caught.value.fields["field"] == "labels[1].request_id"
