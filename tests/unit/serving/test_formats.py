"""Every format from ``save`` to an answer: registered, released, loaded by the real runner, and the same numbers as the library's own."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from andon.core.errors import Incompatible, InvalidInput, LoadFailed, ModelFailed
from andon.models import Column, ModelManifest, Signature, describe_foreign, save_model
from andon.registry import manifest_of, register
from andon.releases.making import assemble
from andon.releases.records import CodePin
from andon.serving.environments import current_lock
from andon.serving.loading import Loaded, Loader, runs_in_front
from andon.serving.source import StoreSource, Target
from andon.serving.validation import output_lists
from andon.tracking.records import EnvironmentLock
from tests.conftest import ANA
from tests.unit.models import test_graphs as graphs
from tests.unit.serving.line import Line

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3))
Y = 2 * X[:, 0] + X[:, 1] ** 2
NAMES = ["a", "b", "c"]


def rows_of(columns: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: values[row].tolist() for name, values in columns.items()} for row in range(len(next(iter(columns.values()))))]


def table() -> dict[str, Any]:
    return {name: X[:7, at] for at, name in enumerate(NAMES)}


def sklearn_onnx() -> tuple[Any, dict[str, Any], dict[str, Any], Callable[[], dict[str, Any]]]:
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(max_iter=5).fit(X, Y)
    return model, table(), {}, lambda: {"prediction": model.predict(X[:7])}


def sklearn_native() -> tuple[Any, dict[str, Any], dict[str, Any], Callable[[], dict[str, Any]]]:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(out_of_bounds="clip").fit(X[:, 0], Y)
    return model, {"a": X[:7, 0]}, {"format": "skops"}, lambda: {"prediction": model.predict(X[:7, 0])}


def xgboost_() -> tuple[Any, dict[str, Any], dict[str, Any], Callable[[], dict[str, Any]]]:
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(X, np.digitize(Y, [0, 1]))
    shares = model.predict_proba(X[:7])
    named = {f"probability_{label}": shares[:, label] for label in range(3)}
    return model, table(), {}, lambda: {"prediction": model.predict(X[:7])} | named


def lightgbm_() -> tuple[Any, dict[str, Any], dict[str, Any], Callable[[], dict[str, Any]]]:
    import lightgbm
    import pandas as pd

    frame = pd.DataFrame(X, columns=NAMES)
    model = lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(frame, np.where(Y > 0, "up", "down"))
    return model, table(), {}, lambda: {"prediction": model.predict(frame[:7]), "probability": model.predict_proba(frame[:7])[:, 1]}


def torch_() -> tuple[Any, dict[str, Any], dict[str, Any], Callable[[], dict[str, Any]]]:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    images = RNG.normal(size=(7, 3, 4)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(images)).numpy()
    return net, {"input": images}, {"format": "torch"}, lambda: {"prediction": expected}


def onnx_tensors() -> tuple[Any, dict[str, Any], dict[str, Any], Callable[[], dict[str, Any]]]:
    ids, dense = RNG.integers(0, 10, size=(7, 3)), RNG.normal(size=(7, 4)).astype(np.float32)
    expected = (np.arange(40).reshape(10, 4)[ids].mean(1) + dense).sum(1)
    return graphs.two_towers(), {"ids": ids, "dense": dense}, {}, lambda: {"score": expected}


def onnx_row_by_row() -> tuple[Any, dict[str, Any], dict[str, Any], Callable[[], dict[str, Any]]]:
    images = RNG.normal(size=(7, 3, 4, 5)).astype(np.float32)
    return graphs.pooled(1), {"image": images}, {}, lambda: {"means": images.mean((2, 3)), "brightest": images.max((1, 2, 3))}


# case -> (what makes it, the format it is kept in, whether it runs in the front's process)
CASES: dict[str, tuple[Any, str, bool]] = {
    "scikit-learn as ONNX": (sklearn_onnx, "onnx", True),
    "scikit-learn as it is": (sklearn_native, "skops", False),
    "XGBoost": (xgboost_, "xgboost", True),
    "LightGBM": (lightgbm_, "lightgbm", False),
    "PyTorch": (torch_, "torch", False),
    "ONNX of several tensors": (onnx_tensors, "onnx", True),
    "ONNX of one row": (onnx_row_by_row, "onnx", True),
}


def released(line: Line, model: Any, example: Any, options: dict[str, Any]) -> tuple[str, ModelManifest]:
    version = save_model(line.store, model, name=line.service, actor=ANA, example=example, **options)
    manifest = assemble(line.store, line.service, model=version.address, environment=current_lock())
    release = register(line.store, "release", line.service, manifest, actor=ANA)
    return str(release.address), manifest_of(version, ModelManifest)


def loaded(line: Line, address: str, use: Callable[[Loaded], Any]) -> Any:
    """What ``use`` makes of a release that the real loader and runner have loaded and warmed up."""

    async def main() -> Any:
        home = Path(line.store.settings.home)
        loader = Loader(StoreSource(line.store), line.store.blobs, home / "environments", home / "logs")
        ready = await loader.load(Target(address, address))
        try:
            return await use(ready)
        finally:
            await ready.runner.close()

    return asyncio.run(main())


async def answered(ready: Loaded, body: dict[str, Any]) -> dict[str, Any]:
    request = ready.codec.decode(json.dumps(body).encode())
    outputs = await ready.runner.run(ready.codec.to_columns(request.rows), len(request.rows))
    return output_lists(outputs, ready.signature)


@pytest.mark.parametrize("case", CASES)
def test_a_format_from_save_to_answer(line: Line, case: str) -> None:
    """JSON in, JSON out; tolerance 1e-5 + 1e-5 |value| (float32 models), labels equal. One row alone gives what it gives among others."""
    make, format_, in_front = CASES[case]
    model, example, options, expected = make()
    address, manifest = released(line, model, example, options)
    assert manifest.format == format_
    source = StoreSource(line.store)
    assert runs_in_front(source.release(address), manifest, current_lock()) is in_front

    async def use(ready: Loaded) -> None:
        found = await answered(ready, {"rows": rows_of(example)})
        alone = await answered(ready, {"rows": rows_of(example)[3:4]})
        wanted = expected()
        assert list(found) == list(wanted)
        for name, values in wanted.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(alone[name], values[3:4], rtol=1e-5, atol=1e-5)
            else:
                assert found[name] == values.tolist()
                assert alone[name] == values[3:4].tolist()
        name, first = next(iter(rows_of(example)[0].items()))
        with pytest.raises(InvalidInput) as caught:
            await answered(ready, {"rows": [rows_of(example)[0] | {name: [[first], [first]]}]})
        assert caught.value.fields["field"].startswith(f"rows[0].{name}")

    loaded(line, address, use)


@pytest.mark.parametrize("case", ["XGBoost", "LightGBM", "PyTorch", "ONNX of several tensors"])
def test_a_damaged_file_is_refused_when_it_is_loaded(line: Line, case: str) -> None:
    """The bytes are those of the registry, so this is a file that was damaged before it was registered."""
    make, format_, _ = CASES[case]
    model, example, options, _ = make()
    _, manifest = released(line, model, example, options)
    folder = Path(line.store.settings.home, "laid-out")
    line.store.blobs.get_tree(str(manifest.files), folder)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files[manifest.entry] = files[manifest.entry][: len(files[manifest.entry]) // 2]
    damaged = line.model(dict(files), format_, manifest.entry, manifest.signature)
    address = line.release(damaged, signature=manifest.signature, example=())
    with pytest.raises(LoadFailed, match="could not be loaded"):
        loaded(line, address, lambda ready: asyncio.sleep(0))


def test_a_model_that_cannot_be_served_is_refused_when_it_is_released(line: Line) -> None:
    version = save_model(line.store, {"w": np.zeros(3)}, name=line.service, actor=ANA)
    with pytest.raises(Incompatible, match="weights alone") as caught:
        assemble(line.store, line.service, model=version.address, environment=current_lock())
    assert 'format="torch"' in str(caught.value.next_step)
    pin = line.model({"MLmodel": "{}"}, "mlflow", "MLmodel", Signature((), ()))
    with pytest.raises(Incompatible, match="inputs of this model are not known") as caught:
        assemble(line.store, line.service, model=pin.address, environment=current_lock())
    assert "signature" in str(caught.value.next_step)


MLFLOW = """
import mlflow
class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: {hint}, params=None):
        assert str({image}.dtype) == "float32"
        return {made}
mlflow.models.set_model(Model())
"""


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("named", [True, False])
def test_a_pyfunc_of_tensors(line: Line, named: bool, tmp_path: Path) -> None:
    """What another client saved with a signature of tensors, answered by that client's own pyfunc in a child process."""
    mlflow = pytest.importorskip("mlflow")
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def spec(dtype: str, shape: tuple[int, ...], name: str) -> Any:
        return TensorSpec(np.dtype(dtype), shape, name if named else None)

    inputs, outputs = [spec("float32", (-1, 2, 3), "image")], [spec("float32", (-1, 2, 3), "twice")]
    text = MLFLOW.format(hint="object", image="model_input", made="model_input * 2")
    if named:
        inputs.append(spec("int32", (-1,), "k"))
        outputs.append(spec("float32", (-1,), "sum"))
        made = '{"twice": model_input["image"] * 2, "sum": model_input["image"].sum((1, 2)) * model_input["k"]}'
        text = MLFLOW.format(hint="object", image='model_input["image"]', made=made)
    code = tmp_path / "model.py"
    code.write_text(text.replace(": object", ""), encoding="utf-8")
    folder = tmp_path / "saved"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client's advice to its users
        mlflow.pyfunc.save_model(
            folder, python_model=str(code), signature=ModelSignature(Schema(inputs), Schema(outputs)), pip_requirements=[]
        )
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    digests = {name: line.store.blobs.put(path.read_bytes()) for name, path in files.items()}
    manifest = describe_foreign(line.store.blobs, digests, origin="run:x/model")
    version = register(line.store, "model", line.service, manifest, actor=ANA)
    release = assemble(line.store, line.service, model=version.address, environment=current_lock())
    address = str(register(line.store, "release", line.service, release, actor=ANA).address)
    images = RNG.normal(size=(4, 2, 3)).astype(np.float32)
    example = {"image": images, "k": np.arange(4)} if named else {"x0": images}

    async def use(ready: Loaded) -> None:
        found = await answered(ready, {"rows": rows_of(example)})
        np.testing.assert_allclose(found["twice" if named else "prediction"], images * 2, rtol=1e-6)
        if named:
            np.testing.assert_allclose(found["sum"], images.sum((1, 2)) * np.arange(4), rtol=1e-5, atol=1e-6)
            with pytest.raises(ModelFailed, match="does not fit"):
                await answered(ready, {"rows": [rows_of(example)[0] | {"k": 2**40}]})

    loaded(line, address, use)


def test_xgboost_runs_in_the_front_only_in_the_version_that_is_pinned(line: Line) -> None:
    address, manifest = released(line, *xgboost_()[:3])
    release = StoreSource(line.store).release(address)
    here = current_lock()
    others = tuple(item for item in here.requirements if not item.startswith(("xgboost", "numpy==")))
    (ours,) = [item for item in here.requirements if item.startswith("xgboost")]
    name = ours.partition("==")[0]

    def in_front(*pins: str, here: EnvironmentLock = here) -> bool:
        environment = msgspec.structs.replace(release.environment, requirements=(*others, *pins))
        return runs_in_front(msgspec.structs.replace(release, environment=environment), manifest, here)

    assert in_front(ours)
    assert not in_front(f"{name}==1.0")
    assert not in_front(ours, "numpy==1.0")
    assert not in_front(ours, here=msgspec.structs.replace(here, requirements=others))  # the front has no such library
    code = msgspec.structs.replace(release, code=CodePin(transform="a:b"))
    assert not runs_in_front(code, manifest, here)


ZEROS = """
import numpy as np
class Model:
    def __init__(self, folder):
        self.seen = []
    def predict(self, columns):
        self.seen.append(list(columns["image"].shape))
        if len(self.seen) == 1 and {fails}:
            raise ValueError("no zeros")
        return {{"runs": np.full(len(columns["image"]), len(self.seen)), "first": np.array([self.seen[0]] * len(columns["image"]))}}
"""


@pytest.mark.parametrize("fails", [False, True])
def test_tensors_too_large_for_an_example_are_warmed_up_with_zeros(line: Line, fails: bool) -> None:
    inputs = (Column("image", "float", shape=(3, -1)),)
    signature = Signature(inputs, (Column("runs", "long"), Column("first", "long", shape=(3,))))
    address = line.python(ZEROS.format(fails=fails), signature=signature, example=())

    async def use(ready: Loaded) -> None:
        found = await answered(ready, {"rows": [{"image": [[1.0], [2.0], [3.0]]}]})
        assert found == {"runs": [2], "first": [[1, 3, 32]]}

    loaded(line, address, use)
