"""Models in the registry: ``model:NAME@VERSION``, its bytes in the artifact store, its lineage to the run and data it came from."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from andon.core.actors import Actor
from andon.core.addresses import Address, check_name
from andon.core.errors import CorruptBytes, LoadFailed
from andon.models.foreign import describe_foreign, files_at_in
from andon.models.loading import Predictor, load
from andon.models.records import Format, ModelManifest, Signature
from andon.models.saved import SavedModel
from andon.models.saving import save
from andon.registry import Parent, Version, get, manifest_of, register
from andon.store import Store


def save_model(
    store: Store,
    model: Any,
    *,
    name: str,
    actor: Actor,
    example: Any = None,
    run: str | None = None,
    data: Iterable[str] = (),
    format: Format | None = None,  # noqa: A002 - the field's own word
    entry: str | None = None,
    signature: Signature | None = None,
    optional: Collection[str] = (),
    reason: str = "",
    idempotency_key: str | None = None,
) -> Version:
    """Save ``model`` (as ``models.save`` does) and register it as the next version of ``model:NAME``; its bytes are durable on return.

    ``run`` is the id of the run that made it and ``data`` the addresses of the datasets it was trained on: its parents in the lineage.
    Saving the same bytes as the newest version again returns that version. Raises ``InvalidInput`` naming the field.
    """
    check_name(name)
    with tempfile.TemporaryDirectory(prefix="andon-model-") as scratch:
        saved = save(model, example, into=Path(scratch, "files"), format=format, entry=entry, signature=signature, optional=optional)
        return register_saved(store, saved, name=name, actor=actor, run=run, data=data, reason=reason, idempotency_key=idempotency_key)


def register_saved(
    store: Store,
    saved: SavedModel,
    *,
    name: str,
    actor: Actor,
    run: str | None = None,
    data: Iterable[str] = (),
    reason: str = "",
    idempotency_key: str | None = None,
) -> Version:
    """Register files that ``models.save`` has written."""
    files = store.blobs.put_tree(saved.folder)
    parents = [Parent(str(Address("run", run)), "run")] if run is not None else []
    parents += [Parent(str(Address.parse(address, kind="dataset")), "data") for address in data]
    return register(
        store,
        "model",
        name,
        saved.manifest(files),
        actor=actor,
        reason=reason,
        parents=parents,
        blobs=[files],
        idempotency_key=idempotency_key,
    )


def complete(store: Store, manifest: ModelManifest, *, address: Address) -> ModelManifest:
    """The manifest of a model whose files came after it was registered. Raises ``LoadFailed`` when they are not here."""
    files = {}
    if manifest.origin:
        with store.ledger.read() as connection:
            files = files_at_in(connection, manifest.origin)
    made = describe_foreign(store.blobs, files, origin=manifest.origin, facts=manifest.facts)
    if made.files is None:
        raise LoadFailed(
            "this model's files are not here",
            model=str(address),
            source=str(manifest.facts.get("source", "")),
            next_step="log the model's files to this server, then register it again",
        )
    return made


def load_model(store: Store, address: str | Address, *, allow_pickle: bool = False) -> Predictor:
    """The predictor of a model version, its bytes verified.

    Raises ``NotFound``, ``CorruptBytes`` naming the model, ``LoadFailed``, or ``Forbidden`` for a pickle not asked for by name.
    """
    version = get(store, Address.parse(address, kind="model"))
    manifest = manifest_of(version, ModelManifest)
    if manifest.files is None:
        manifest = complete(store, manifest, address=version.address)
    assert manifest.files is not None
    scratch = tempfile.mkdtemp(prefix="andon-model-")
    files = Path(scratch, "files")
    keep = False
    try:
        store.blobs.get_tree(manifest.files, files)
        predictor = load(manifest, files, allow_pickle=allow_pickle)
        # Code may read its files for as long as this process uses it.
        keep = manifest.format in ("python", "mlflow", "ensemble", "cascade")
        return predictor
    except CorruptBytes as error:
        raise CorruptBytes(
            f"the model's stored bytes are damaged: {error.message}", **(error.fields | {"model": str(version.address)})
        ) from error
    finally:
        if keep:
            atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        else:
            shutil.rmtree(scratch, ignore_errors=True)
