"""PyTorch modules as exported programs: the same answers, any number of rows, and a file that is nothing but data."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from andon.core.errors import InvalidInput, LoadFailed
from andon.models import Column, Predictor, columns_of, load, save
from andon.models.saved import SavedModel

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(0)


class Net(torch.nn.Module):
    """Images to class scores, with what must be switched off for answers (dropout) and what has a state (batch norm)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Dropout(0.5))
        self.head = torch.nn.Linear(4, 5)

    def forward(self, image: Any) -> Any:
        return self.head(self.body(image).mean((2, 3)))


class Words(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(10, 4)

    def forward(self, ids: Any, dense: Any, scale: Any = None) -> Any:
        scores = self.table(ids).mean(1) + dense
        return {"scores": scores, "label": scores.argmax(1)}


def through(model: Any, example: Any, tmp_path: Path, **options: Any) -> tuple[SavedModel, Predictor]:
    saved = save(model, example, into=tmp_path / "files", **options)
    return saved, load(saved.manifest("b3:" + "0" * 64), saved.folder)


def test_an_image_model(tmp_path: Path) -> None:
    net = Net()
    images = RNG.normal(size=(3, 3, 8, 8)).astype(np.float32)
    saved, model = through(net, images, tmp_path, format="torch")
    assert saved.signature.inputs == (Column("image", "float", shape=(3, 8, 8)),)
    assert saved.signature.outputs == (Column("prediction", "float", shape=(5,)),)
    assert saved.facts["parity"]["rows"] == 3
    assert all(part.training for part in net.modules())  # as it was
    more = RNG.normal(size=(7, 3, 8, 8)).astype(np.float32)
    net.eval()
    with torch.no_grad():
        expected = net(torch.from_numpy(more)).numpy()
    np.testing.assert_allclose(model.predict({"image": more})["prediction"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.predict({"image": more[:1]})["prediction"], expected[:1], rtol=1e-5, atol=1e-6)


def test_tensors_by_name_and_outputs_by_key(tmp_path: Path) -> None:
    net = Words()
    example = {"ids": [[1, 2, 3], [4, 5, 6]], "dense": [[0.5] * 4, [1.0] * 4]}
    saved, model = through(net, example, tmp_path, format="torch")
    assert saved.signature.inputs == (Column("ids", "long", shape=(3,)), Column("dense", "float", shape=(4,)))
    assert saved.signature.outputs == (Column("scores", "float", shape=(4,)), Column("label", "long"))
    made = model.predict({"dense": np.ones((5, 4), np.float32), "ids": np.arange(15).reshape(5, 3) % 10})
    with torch.no_grad():
        expected = net(torch.arange(15).reshape(5, 3) % 10, torch.ones(5, 4))
    np.testing.assert_allclose(made["scores"], expected["scores"].numpy(), rtol=1e-5, atol=1e-6)
    assert made["label"].tolist() == expected["label"].tolist()


def test_a_table_goes_into_one_tensor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    rows = RNG.normal(size=(6, 3))
    saved, model = through(net, {"a": rows[:, 0], "b": rows[:, 1], "c": rows[:, 2]}, tmp_path, format="torch")
    assert [column.name for column in saved.signature.inputs] == ["a", "b", "c"]
    assert saved.signature.outputs == (Column("prediction", "float"),)
    with torch.no_grad():
        expected = net(torch.from_numpy(rows.astype(np.float32))).numpy()[:, 0]
    made = model.predict(columns_of({"c": rows[:, 2], "a": rows[:, 0], "b": rows[:, 1]}))["prediction"]
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)


def test_a_program_made_elsewhere_and_its_file(tmp_path: Path) -> None:
    net = torch.nn.Linear(4, 2).eval()
    axes = ({0: torch.export.Dim("rows", min=1)},)
    program = torch.export.export(net, (torch.zeros(2, 4),), dynamic_shapes=axes)
    torch.export.save(program, tmp_path / "made.pt2")
    rows = RNG.normal(size=(5, 4)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(rows)).numpy()
    for at, model in enumerate((program, tmp_path / "made.pt2")):
        saved, loaded = through(model, {"input": rows}, tmp_path / str(at))
        assert saved.format == "torch"
        np.testing.assert_allclose(loaded.predict({"input": rows})["prediction"], expected, rtol=1e-5, atol=1e-6)


def test_a_program_of_one_row_is_run_row_by_row(tmp_path: Path) -> None:
    net = torch.nn.Linear(4, 2).eval()
    rows = RNG.normal(size=(5, 4)).astype(np.float32)
    saved, model = through(torch.export.export(net, (torch.zeros(1, 4),)), {"input": rows}, tmp_path)
    assert "one at a time" in saved.facts["rows"]
    with torch.no_grad():
        np.testing.assert_allclose(model.predict({"input": rows})["prediction"], net(torch.from_numpy(rows)).numpy(), rtol=1e-5, atol=1e-6)


class Branching(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2 if x.sum() > 0 else x


class Mixing(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x - x.mean(0)


class Summing(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x.sum()


IMAGE = RNG.normal(size=(2, 2, 2)).astype(np.float32)


@pytest.mark.parametrize(
    ("model", "example", "why"),
    [
        (Branching(), IMAGE, "cannot make a program"),
        (Mixing(), IMAGE, "depends on the other rows"),
        (Summing(), IMAGE, "needs a value for each"),
        (Words(), {"words": [[1, 2]], "dense": [[0.5] * 4]}, "not what forward takes"),
        (Words(), {"ids": [["a", "b"]], "dense": [[0.5] * 4]}, "takes numbers and booleans"),
        (Net(), None, "needs an example"),
        ("nowhere.pt2", IMAGE, "no such file"),
        (torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(2, 2),)), None, "exactly 2 rows"),
    ],
)
def test_what_has_no_program_is_refused_with_the_reason(tmp_path: Path, model: Any, example: Any, why: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        save(model, example, into=tmp_path / "files", format="torch")
    assert why in caught.value.message
    assert not list((tmp_path / "files").iterdir())


def with_payload(source: Path, config: str, **more: Any) -> None:
    """Rewrite a program's file so that one of its tensors is said to be a pickle."""
    with zipfile.ZipFile(source) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in parts if name.endswith(config)]
    told = json.loads(parts[name])
    told["config"]["payload"] = {"path_name": "weight_0", "is_param": False, "use_pickle": True, "tensor_meta": None} | more
    parts[name] = json.dumps(told).encode()
    with zipfile.ZipFile(source, "w") as archive:
        for path, data in parts.items():
            archive.writestr(path, data)


@pytest.mark.parametrize("config", ["model_weights_config.json", "model_constants_config.json"])
def test_a_file_that_may_run_code_is_refused(tmp_path: Path, config: str) -> None:
    saved, _ = through(torch.nn.Linear(4, 2), RNG.normal(size=(3, 4)), tmp_path, format="torch")
    with_payload(saved.folder / saved.entry, config)
    with pytest.raises(LoadFailed, match="run code when they are loaded"):
        load(saved.manifest("b3:" + "0" * 64), saved.folder)


def test_sample_inputs_that_are_a_pickle_of_something_else_are_refused(tmp_path: Path) -> None:
    saved, _ = through(torch.nn.Linear(4, 2), RNG.normal(size=(3, 4)), tmp_path, format="torch")
    file = saved.folder / saved.entry
    evil = io.BytesIO()
    torch.save(Path("/"), evil)  # any class of anybody's will do
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for path, data in parts.items():
            archive.writestr(path, evil.getvalue() if "sample_inputs" in path else data)
    with pytest.raises(LoadFailed, match="not plain tensors"):
        load(saved.manifest("b3:" + "0" * 64), saved.folder)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    saved, _ = through(torch.nn.Linear(4, 2), RNG.normal(size=(3, 4)), tmp_path, format="torch")
    file = saved.folder / saved.entry
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\x00" * len(whole)):
        file.write_bytes(damaged)
        with pytest.raises(LoadFailed, match="damaged"):
            load(saved.manifest("b3:" + "0" * 64), saved.folder)
