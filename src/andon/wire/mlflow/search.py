"""Searches: runs, experiments and logged models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from andon.core.errors import InvalidInput
from andon.tracking.logged_models import get_logged_models_in
from andon.tracking.search import MAX_RESULTS, ModelOrder, experiments_in, search_experiments, search_logged_models, search_runs
from andon.wire.mlflow.calls import Call, Route
from andon.wire.mlflow.errors import WireError, invalid
from andon.wire.mlflow.experiments import experiments_json
from andon.wire.mlflow.logged_models import logged_model_json
from andon.wire.mlflow.messages import missing_field
from andon.wire.mlflow.rendering_runs import runs_json

View = Literal["active", "deleted", "all"]
_VIEWS: dict[int | str, View] = {
    1: "active",
    2: "deleted",
    3: "all",
    "1": "active",
    "2": "deleted",
    "3": "all",
    "ACTIVE_ONLY": "active",
    "DELETED_ONLY": "deleted",
    "ALL": "all",
}


class _Runs(msgspec.Struct):
    experiment_ids: list[str] | None = None
    filter: str | None = None
    run_view_type: int | str | None = None
    max_results: int | None = None
    order_by: list[str] | None = None
    page_token: str | None = None


class _Experiments(msgspec.Struct):
    max_results: int | None = None
    page_token: str | None = None
    filter: str | None = None
    order_by: list[str] | None = None
    view_type: int | str | None = None


class _Dataset(msgspec.Struct):
    dataset_name: str | None = None
    dataset_digest: str | None = None


class _Order(msgspec.Struct):
    field_name: str | None = None
    ascending: bool | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class _Models(msgspec.Struct):
    experiment_ids: list[str] | None = None
    filter: str | None = None
    datasets: list[_Dataset] | None = None
    max_results: int | None = None
    order_by: list[_Order] | None = None
    page_token: str | None = None


def runs(call: Call) -> dict[str, Any]:
    """A page of runs."""
    asked = call.read(_Runs)
    most = 1_000 if asked.max_results is None else asked.max_results
    if most > MAX_RESULTS:
        raise invalid(f"Invalid value {most} for parameter 'max_results' supplied. It must be at most {MAX_RESULTS}")
    with call.store.ledger.read() as connection:
        try:
            page = search_runs(
                connection,
                experiment_numbers(asked.experiment_ids or ()),
                asked.filter,
                asked.order_by,
                view=_view(asked.run_view_type, "run_view_type"),
                max_results=most,
                page_token=asked.page_token or None,
            )
        except InvalidInput as error:
            raise invalid(error.message) from None
        shown = runs_json(connection, page.ids)
    return _page("runs", [shown[run] for run in page.ids if run in shown], page.next_page_token)


def experiments(call: Call) -> dict[str, Any]:
    """A page of experiments."""
    asked = call.read(_Experiments)
    with call.store.ledger.read() as connection:
        try:
            numbers, token = search_experiments(
                connection,
                asked.filter,
                asked.order_by,
                view=_view(asked.view_type, "view_type"),
                max_results=asked.max_results or 0,
                page_token=asked.page_token or None,
            )
        except InvalidInput as error:
            raise invalid(error.message) from None
        shown = experiments_json(connection, experiments_in(connection, numbers))
    return _page("experiments", shown, token)


def logged_models(call: Call) -> dict[str, Any]:
    """A page of logged models."""
    asked = call.read(_Models)
    if asked.experiment_ids is None:
        raise missing_field("experiment_ids")
    if not all(item.dataset_name for item in asked.datasets or ()):
        raise invalid("`dataset_name` in the `datasets` clause must be specified.")
    orders = []
    for item in asked.order_by or ():
        if item.field_name is None:
            raise invalid("`field_name` in the `order_by` clause must be specified.")
        orders.append(
            ModelOrder(
                field=item.field_name,
                ascending=item.ascending is not False,
                dataset=item.dataset_name or None,
                dataset_digest=item.dataset_digest or None,
            )
        )
    with call.store.ledger.read() as connection:
        try:
            page = search_logged_models(
                connection,
                experiment_numbers(asked.experiment_ids),
                asked.filter,
                orders,
                datasets=[(item.dataset_name or "", item.dataset_digest or None) for item in asked.datasets or ()],
                max_results=asked.max_results or 100,
                page_token=asked.page_token or None,
            )
        except InvalidInput as error:
            raise invalid(error.message) from None
        shown = [logged_model_json(model) for model in get_logged_models_in(connection, page.ids)]
    return _page("models", shown, page.next_page_token)


def _page(name: str, shown: Sequence[Any], token: str | None) -> dict[str, Any]:
    made: dict[str, Any] = {name: shown} if shown else {}
    return made | ({"next_page_token": token} if token is not None else {})


def experiment_numbers(texts: Sequence[str]) -> list[int]:
    """Experiments' ids as numbers. Raises ``WireError`` for one that is none."""
    numbers = []
    for text in texts:
        try:
            number = int(text)
        except ValueError:
            raise invalid(f"Invalid experiment ID '{text[:200]}'. Experiment ID must be a valid integer.") from None
        if abs(number) < 2**63:
            numbers.append(number)
    return numbers


def _view(given: int | str | None, field: str) -> View:
    try:
        return "active" if given is None else _VIEWS[given]
    except KeyError:
        raise WireError("INVALID_PARAMETER_VALUE", f"Invalid value {given!r} for parameter '{field}' supplied") from None


ROUTES = [
    Route("POST", "2.0/mlflow/runs/search", runs),
    Route("POST", "2.0/mlflow/experiments/search", experiments),
    Route("GET", "2.0/mlflow/experiments/search", experiments),
    Route("POST", "2.0/mlflow/logged-models/search", logged_models),
]
