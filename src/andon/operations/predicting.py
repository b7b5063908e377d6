"""Predicting offline, as every face offers it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from andon.core.actors import Actor, current_actor
from andon.core.addresses import Address
from andon.core.errors import InvalidInput
from andon.operations.session import current_store
from andon.store import Store

if TYPE_CHECKING:
    from andon.serving.offline import Progress, Summary


def predict(
    release: str | Address,
    input: str | os.PathLike[str],  # noqa: A002  # the word that callers will look for
    output: str | os.PathLike[str],
    *,
    keep: Sequence[str] | None = None,
    format: str | None = None,  # noqa: A002
    part_rows: int = 250_000,
    max_errors: int | None = None,
    memory_bytes: int = 64 << 20,
    resume: bool = False,
    overwrite: bool = False,
    register: str | None = None,
    tell: Callable[[Progress], None] | None = None,
    store: Store | None = None,
    actor: Actor | None = None,
) -> Summary:
    """Answer every row of ``input`` with ``release`` (``release:NAME@N``, or ``service:NAME@production``) into the folder ``output``.

    ``input`` is a Parquet, CSV or Arrow file, a folder of such parts, a glob, ``dataset:NAME@V`` or ``table:NAME``. The output is a folder
    of parts with the columns in ``keep`` (None: all) and the release's outputs, in the input's order; rows that fail are in ``_errors``
    with the reason. The rows go through the release's own environment, transform and model, as requests do, and are not logged as
    predictions. A job that was stopped at any point goes on when called again; each input row is in the output exactly once.

    ``format`` is ``parquet`` (default) or ``csv``; ``tell`` hears of the progress about once a second. Raises what
    ``andon.serving.offline.predict`` does.
    """
    from andon.serving.offline import Options
    from andon.serving.offline import predict as run

    if format not in (None, "parquet", "csv"):
        raise InvalidInput("the output is parquet or csv", field="format", got=format)
    if resume and overwrite:
        raise InvalidInput("an output is either gone on with or thrown away", field="overwrite")
    options = Options(
        keep=None if keep is None else tuple(keep),
        format="csv" if format == "csv" else "parquet",
        part_rows=part_rows,
        max_errors=max_errors,
        memory_bytes=memory_bytes,
        resume=resume,
        overwrite=overwrite,
        register=register,
    )
    store, actor = store or current_store(), actor or current_actor()
    return run(store, str(release), os.fspath(input), Path(output), options, actor=actor, tell=tell or (lambda _: None))
