"""Runners: models in the front's process and in a child's, and the child program's own rules."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from andon.core.errors import InvalidInput, LoadFailed, ModelFailed, Unavailable
from andon.serving import child, processes, runners
from andon.serving.limits import RunnerLimits, limits_of
from andon.serving.runners import ChildRunner, ChildSpec, InProcessRunner, ModelSpec, RunnerDied
from tests.unit.serving.line import ECHO, Line, linear_onnx

COLUMNS = {"x": np.array([1.0, 2.0]), "k": np.array([1, 2])}


def model(folder: Path, kind: str, entry: str, **more: Any) -> ModelSpec:
    values: dict[str, Any] = {"inputs": (("x", "double"), ("k", "long")), "outputs": (("y", "double"),)} | more
    return ModelSpec(format=kind, path=str(folder), entry=entry, **values)


def with_child(tmp_path: Path, code: str, use: Callable[[ChildRunner], Awaitable[None]], **more: Any) -> None:
    (tmp_path / "m").mkdir(exist_ok=True)
    (tmp_path / "m" / "code_of_model.py").write_text(code)
    values = {"python": sys.executable, "model": model(tmp_path / "m", "python", "code_of_model:Model"), "log": str(tmp_path / "log")}

    async def main() -> None:
        runner = ChildRunner(ChildSpec(**(values | more)))
        try:
            await runner.start()
            await use(runner)
        finally:
            await runner.close()
            assert runner.pid is None

    asyncio.run(main())


def test_onnx_runs_in_this_process(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(linear_onnx((2.0, 1.0), 0.5))
    runner = InProcessRunner(model(tmp_path, "onnx", "model.onnx"))
    assert not runner.cheap(2)  # nothing is known yet
    assert runner.run_now(COLUMNS, 2)["y"].tolist() == [3.5, 6.5]
    for _ in range(50):
        runner.run_now(COLUMNS, 2)
    assert runner.cheap(2)
    with pytest.raises(ModelFailed):
        runner.run_now({"x": COLUMNS["x"]}, 2)
    assert asyncio.run(runner.run(COLUMNS, 2))["y"].tolist() == [3.5, 6.5]
    asyncio.run(runner.close())


def test_a_file_that_is_no_model_is_a_load_failure(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(LoadFailed, match="could not be loaded"):
        InProcessRunner(model(tmp_path, "onnx", "model.onnx"))
    with pytest.raises(LoadFailed, match="cannot be served"):
        InProcessRunner(model(tmp_path, "safetensors", "model.safetensors"))


def test_scikit_learn_answers_as_the_models_floor_names_it(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression, LogisticRegression

    from andon.models import load, save

    x = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [3.0, 5.0]])
    columns = {"x": x[:, 0], "k": x[:, 1].astype(np.int64)}
    regressor, two, three = (
        LinearRegression().fit(x, x[:, 0] * 2),
        LogisticRegression().fit(x, [0, 1, 0, 1]),
        LogisticRegression().fit(x, list("abca")),
    )
    for at, estimator in enumerate((regressor, two, three)):
        saved = save(estimator, {"x": columns["x"], "k": columns["k"]}, into=tmp_path / str(at), format="skops")
        manifest = saved.manifest("b3:" + "0" * 64)
        spec = ModelSpec(
            format=manifest.format,
            path=str(saved.folder),
            entry=manifest.entry,
            inputs=tuple((column.name, column.dtype) for column in manifest.signature.inputs),
            outputs=tuple((column.name, column.dtype) for column in manifest.signature.outputs),
        )
        ours = child.load_model(msgspec.to_builtins(spec))(columns, 4)
        theirs = load(manifest, saved.folder).predict(columns)
        assert list(ours) == list(theirs)
        for name in theirs:
            assert np.asarray(ours[name]).tolist() == pytest.approx(theirs[name].tolist()) if name != "prediction" else True
            assert np.asarray(ours[name]).tolist() == theirs[name].tolist() or theirs[name].dtype.kind == "f"


def test_the_rule_about_skops_types_is_the_models_floors() -> None:
    from andon.models.loading import _is_known_class

    names = [
        "sklearn.linear_model._base.LinearRegression",
        "numpy.ndarray",
        "numpy.load",
        "os.system",
        "functools.partial",
        "numpy.f2py.main",
    ]
    names += [
        "sklearn.utils.validation.check_array",
        "scipy.special._ufuncs.expit",
        "sklearn.tests.x.Y",
        "numpy.dtypes.Float64DType",
        "a.b",
    ]
    assert [child._is_let_in(name) for name in names] == [_is_known_class(name) for name in names]


def test_pickles_are_loaded_only_when_flagged(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"not": "a model"}))
    spec = model(tmp_path, "pickle", "model.pkl")
    with pytest.raises(ValueError, match="flag 'pickle'"):
        child.load_model(msgspec.to_builtins(spec))
    child.load_model(msgspec.to_builtins(msgspec.structs.replace(spec, flags=("pickle",))))


def test_columns_cross_as_they_are() -> None:
    columns = {
        "f": np.array([1.5, np.nan]),
        "i": np.array([1, -2]),
        "b": np.array([True, False]),
        "t": np.array(["é", None], dtype=object),
        "u": np.array(["a", "bc"]),
        "d": np.array(["2011-08-01", "NaT"], dtype="M8[us]"),
        "m": np.array([[1.0, 2.0], [3.0, 4.0]], dtype="f4"),
        "s": np.arange(4.0)[::2],
    }
    specs, buffers = child.pack(columns)
    again = child.unpack(msgspec.json.decode(msgspec.json.encode(specs)), bytearray(b"".join(buffers)))
    for name, values in columns.items():
        assert np.array_equal(again[name].astype(object), values.astype(object)) or name in ("f", "d")
        assert again[name].shape == values.shape
    assert np.isnan(again["f"][1])
    assert again["d"].dtype == columns["d"].dtype
    again["i"][0] = 7  # user code may change what it is given
    empty = child.pack({"x": np.array([], dtype="f8")})
    assert child.unpack(empty[0], bytearray())["x"].tolist() == []
    with pytest.raises(TypeError):
        child.pack({"x": np.array([object()], dtype=object)})


def test_a_child_answers_and_survives_errors(tmp_path: Path) -> None:
    code = ECHO.replace('return {"y"', 'print("seen", len(columns["x"]))\n        1 / columns["k"].prod().item()\n        return {"y"')

    async def use(runner: ChildRunner) -> None:
        assert runner.healthy
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [2.0, 4.0]
        with pytest.raises(ModelFailed, match="ZeroDivisionError") as caught:
            await runner.run({"x": np.array([1.0]), "k": np.array([0])}, 1)
        said = str(caught.value.envelope())
        assert "Traceback" not in said
        assert "code_of_model" not in said
        assert str(tmp_path) not in said
        assert "code_of_model.py" in runner.log_tail()  # where the operator looks
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [2.0, 4.0]
        assert "seen 2" in runner.log_tail()
        many = {"x": np.arange(1.0, 200_001), "k": np.ones(200_000, dtype=np.int64)}
        assert (await runner.run(many, 200_000))["y"][-1] == 200_001.0

    with_child(tmp_path, code, use)


def test_a_child_that_dies_comes_back(tmp_path: Path) -> None:
    async def use(runner: ChildRunner) -> None:
        first = runner.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        for _ in range(500):  # noticed and started again without any request
            await asyncio.sleep(0.01)
            if runner.healthy and runner.pid not in (None, first):
                break
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [2.0, 4.0]

    with_child(tmp_path, ECHO, use)


def test_a_batch_that_kills_or_hangs(tmp_path: Path) -> None:
    code = ECHO.replace(
        'return {"y"',
        'import os, time\n        k = columns["k"][0]\n'
        '        os._exit(1) if k == 9 else time.sleep(60 * int(k == 8))\n        return {"y"',
    )

    async def use(runner: ChildRunner) -> None:
        with pytest.raises(RunnerDied):
            await runner.run({"x": np.array([1.0]), "k": np.array([9])}, 1)
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [2.0, 4.0]
        with pytest.raises(ModelFailed, match=r"longer than 1 s"):
            await runner.run({"x": np.array([1.0]), "k": np.array([8])}, 1)
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [2.0, 4.0]

    with_child(tmp_path, code, use, limits=RunnerLimits(batch_timeout_s=1.0))


@pytest.mark.parametrize(
    ("code", "more", "said"),
    [
        ("raise RuntimeError('no')", {}, "RuntimeError: no"),
        ("import sys; sys.exit('leaving')", {}, "leaving"),
        ("import time; time.sleep(60)", {"limits": RunnerLimits(load_timeout_s=0.5)}, "longer than 0.5 s"),
        (ECHO, {"pins": {"numpy": "0.0.1"}}, "numpy==0.0.1 is pinned"),
        (ECHO, {"pins": {"nobody-has-this": "1"}}, "nothing is installed"),
        (ECHO, {"transform": "nowhere:function"}, "nowhere"),
        (ECHO, {"python": "/nonexistent/python"}, "did not start"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path: Path, code: str, more: dict[str, Any], said: str) -> None:
    async def use(runner: ChildRunner) -> None:
        raise AssertionError("it loaded")

    with pytest.raises(LoadFailed) as caught:
        with_child(tmp_path, code, use, **more)
    assert said in str(caught.value)


@pytest.mark.parametrize(("made", "said"), [("1.0", "one value for each of 2 rows"), ("columns['x'][:1]", "one value for each of 2 rows")])
def test_outputs_of_another_length_are_the_models_failure(tmp_path: Path, made: str, said: str) -> None:
    async def use(runner: ChildRunner) -> None:
        with pytest.raises(ModelFailed, match=said):
            await runner.run(COLUMNS, 2)

    with_child(tmp_path, ECHO.replace('columns["x"] + columns["k"]', made), use)


# --- a class in stages

STAGED = """
import numpy as np

class Model:
    made = 0
    def setup(self, folder):
        Model.made += 1
        self.bias = float((folder / "bias.txt").read_text())
    def decode(self, columns):
        if (columns["k"] == 13).any():
            raise KeyError("thirteen")
        return np.stack([columns["x"], columns["k"].astype("f8")], axis=1)
    def predict(self, batch):
        if (batch[:, 1] == 14).any():
            raise ValueError("fourteen")
        return batch.sum(axis=1) + self.bias
    def encode(self, result):
        if (result > 1e6).any():
            raise OverflowError("/srv/secret/place is too much")
        return {"y": result, "made": np.full(len(result), Model.made)}
"""


def test_a_class_in_stages(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "bias.txt").write_text("0.5")

    async def use(runner: ChildRunner) -> None:
        for _ in range(2):
            made = await runner.run(COLUMNS, 2)
            assert (made["y"].tolist(), made["made"].tolist()) == ([2.5, 4.5], [1, 1])  # set up once
        for x, k, said in ((1.0, 13, "decode failed: KeyError: 'thirteen'"), (1.0, 14, "predict failed: ValueError: fourteen")):
            with pytest.raises(ModelFailed) as caught:
                await runner.run({"x": np.array([x]), "k": np.array([k])}, 1)
            assert caught.value.message == said
        with pytest.raises(ModelFailed, match=r"^encode failed: OverflowError: …/place is too much$"):
            await runner.run({"x": np.array([2e6]), "k": np.array([1])}, 1)

    with_child(tmp_path, STAGED, use)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "class Model:\n    def setup(self, folder): raise OSError('no weights')\n    def predict(self, batch): ...",
            "setup failed: OSError",
        ),
        ("class Model:\n    def __init__(self, folder): 1 / 0\n    def predict(self, batch): ...", "setup failed: ZeroDivisionError"),
        ("class Other: ...", "setup failed: AttributeError"),
    ],
)
def test_a_class_that_cannot_be_set_up_says_so(tmp_path: Path, code: str, said: str) -> None:
    async def use(runner: ChildRunner) -> None:
        raise AssertionError("it loaded")

    with pytest.raises(LoadFailed, match=said):
        with_child(tmp_path, code, use)


def test_a_class_needs_nothing_but_predict(tmp_path: Path) -> None:
    async def use(runner: ChildRunner) -> None:
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [3.0, 6.0]  # one array is the first output

    with_child(tmp_path, "class Model:\n    def predict(self, columns): return columns['x'] * 3", use)


# --- several processes


def test_replicas_run_batches_at_the_same_time(tmp_path: Path) -> None:
    code = """
import os, pathlib, time
class Model:
    def predict(self, columns):
        here = pathlib.Path(columns["folder"][0])
        (here / str(os.getpid())).touch()
        until = time.monotonic() + 10
        while len(list(here.iterdir())) < 2 and time.monotonic() < until:  # the other one is at work, too
            time.sleep(0.001)
        return {"y": columns["x"], "pid": columns["x"] * 0 + os.getpid()}
"""
    meeting = tmp_path / "meeting"
    meeting.mkdir()

    async def use(runner: ChildRunner) -> None:
        assert runner.slots == len(set(runner.pids)) == 2
        columns = {"x": np.array([1.0]), "folder": np.array([str(meeting)], dtype=object)}
        made = await asyncio.gather(*(runner.run(columns, 1) for _ in range(2)))
        assert sorted(int(one["pid"][0]) for one in made) == sorted(runner.pids)
        os.kill(runner.pids[0], signal.SIGKILL)
        while len(runner.pids) == 2:
            await asyncio.sleep(0.001)
        for _ in range(20):  # the one that is left answers
            assert (await runner.run(columns, 1))["y"].tolist() == [1.0]

    with_child(tmp_path, code, use, limits=RunnerLimits(replicas=2))


def test_a_front_gives_each_process_a_batch(line: Line, tmp_path: Path) -> None:
    """Requests that come one after the other while the first is at work: each waits, in its process, until the other is at work, too."""
    from andon.serving.front import Front

    meeting = tmp_path / "meeting"
    meeting.mkdir()
    code = f"""
import os, pathlib, time
class Model:
    def predict(self, columns):
        here = pathlib.Path({str(meeting)!r})
        if columns["k"][0] == 7:
            (here / str(os.getpid())).touch()
            until = time.monotonic() + 10
            while len(list(here.iterdir())) < 2 and time.monotonic() < until:
                time.sleep(0.001)
        return {{"y": columns["x"] * 0 + len(list(here.iterdir()))}}
"""
    line.point(line.python(code, settings={"runner": {"replicas": 2}}))

    async def main() -> None:
        front = Front(line.store, line.service)
        await front.start()
        try:
            assert await front.wait_ready(20), front.not_ready()
            first = asyncio.ensure_future(front.predict([{"x": 1.0, "k": 7}]))
            await asyncio.sleep(0.05)
            second = asyncio.ensure_future(front.predict([{"x": 1.0, "k": 7}]))
            assert [(await answer).outputs for answer in (first, second)] == [{"y": [2.0]}, {"y": [2.0]}]
        finally:
            await front.close()

    asyncio.run(main())


def test_an_answer_that_nobody_waits_for_is_nobodys(tmp_path: Path) -> None:
    code = ECHO.replace('return {"y"', 'import time; time.sleep(0.2 * (columns["k"][0] == 7))\n        return {"y"')

    async def use(runner: ChildRunner) -> None:
        late = asyncio.ensure_future(runner.run({"x": np.array([1.0]), "k": np.array([7])}, 1))
        await asyncio.sleep(0.05)
        late.cancel()
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [2.0, 4.0]

    with_child(tmp_path, code, use)


# --- limits

LEAK = """
held = []
class Model:
    def predict(self, columns):
        held.append(bytearray(int(columns["k"][0]) << 20))
        return {"y": columns["x"]}
"""


def leak(mb: int) -> dict[str, Any]:
    return {"x": np.array([1.0]), "k": np.array([mb])}


def test_a_leaking_process_is_replaced_and_no_batch_is_lost(tmp_path: Path) -> None:
    async def use(runner: ChildRunner) -> None:
        first = runner.pid
        for _ in range(200):
            assert (await runner.run(leak(5), 1))["y"].tolist() == [1.0]
        assert runner.replaced >= 2  # 1,000 MB went through processes of 100 MB
        assert runner.pid != first
        assert not Path(f"/proc/{first}").exists()

    with_child(tmp_path, LEAK, use, limits=RunnerLimits(memory_mb=100))


def test_a_batch_that_takes_too_much_memory_fails_alone(tmp_path: Path) -> None:
    code = LEAK.replace("held.append(", "held.append(").replace(
        "return", "import time; time.sleep(5 * (columns['k'][0] > 99))\n        return"
    )

    async def use(runner: ChildRunner) -> None:
        with pytest.raises(ModelFailed, match="more than 200 MB"):
            await runner.run(leak(400), 1)
        assert (await runner.run(leak(1), 1))["y"].tolist() == [1.0]
        with pytest.raises(ModelFailed, match="predict failed: MemoryError"):  # so much the kernel does not even give
            await runner.run(leak(4000), 1)
        assert (await runner.run(leak(1), 1))["y"].tolist() == [1.0]

    with_child(tmp_path, code, use, limits=RunnerLimits(memory_mb=100))


def test_a_release_that_does_not_fit_is_not_loaded(tmp_path: Path) -> None:
    async def use(runner: ChildRunner) -> None:
        raise AssertionError("it loaded")

    with pytest.raises(LoadFailed, match=r"takes \d+ MB once it is loaded, over its memory_mb of 50"):
        with_child(tmp_path, "held = bytearray(80 << 20)\n" + ECHO, use, limits=RunnerLimits(memory_mb=50))


def test_a_child_has_few_variables_few_files_and_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    monkeypatch.setenv("MODEL_CACHE", "/caches")
    code = """
import json, os, resource, tempfile
class Model:
    def predict(self, columns):
        told = {"env": dict(os.environ), "cwd": os.getcwd(), "tmp": tempfile.gettempdir(), "there": os.listdir(),
                "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0], "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
                "nice": os.nice(0), "oom": int(open("/proc/self/oom_score_adj").read()), "group": os.getpgrp() == os.getpid()}
        open("left-behind", "w").close()
        return {"y": [json.dumps(told)]}
"""
    folders: list[str] = []

    async def use(runner: ChildRunner) -> None:
        import json

        told = json.loads((await runner.run({"x": np.array([1.0])}, 1))["y"][0])
        folders.append(told["cwd"])
        assert "DATABASE_PASSWORD" not in told["env"]
        assert told["env"]["MODEL_CACHE"] == "/caches"
        assert told["env"]["OMP_NUM_THREADS"] == "2"
        assert told["env"]["HOME"] == told["cwd"] == told["tmp"]
        assert (told["there"], told["files"], told["core"], told["nice"], told["group"]) == ([], 100, 0, 5, True)
        assert told["oom"] == 500

    with_child(tmp_path, code, use, limits=RunnerLimits(env=("MODEL_CACHE",), threads=2, nice=5, open_files=100))
    assert not Path(folders[0]).exists()


def test_what_a_child_forks_neither_answers_nor_stays(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys, time
class Model:
    def predict(self, columns):
        k = columns["k"][0]
        if k == 1 and os.fork() == 0:
            return {"y": columns["x"] * 0}          # comes back as a second process
        if k == 2 and os.fork() == 0:
            os.setsid()
            time.sleep(60)
        if k == 3:
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
            os._exit(1)
        return {"y": columns["x"]}
"""
    leaders: list[int] = []
    below: list[int] = []

    def living(process: Path) -> tuple[int, int]:
        """Process and group, or zeros for what has ended."""
        try:
            state, _, group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            return 0, 0
        return (0, 0) if state == "Z" else (int(process.name), int(group))

    async def use(runner: ChildRunner) -> None:
        async def ask(k: int) -> list[float]:
            leaders.extend(runner.pids)
            made = await asyncio.wait_for(runner.run({"x": np.array([5.0]), "k": np.array([k])}, 1), 5)
            return list(made["y"])

        for k in (0, 1, 0, 1, 0):
            assert await ask(k) == [5.0]
        with pytest.raises(RunnerDied):  # noticed at once, though what it started holds its files open
            await ask(3)
        for k in (0, 2, 0):
            assert await ask(k) == [5.0]
        below.extend(child._descendants(runner.pids[0]))
        assert below  # in a session of its own

    with_child(tmp_path, code, use)
    until_s = time.monotonic() + 10  # what was killed is there until the kernel gets to it
    left = True
    while left and time.monotonic() < until_s:
        there = [living(process) for process in Path("/proc").glob("[0-9]*")]
        left = any(pid and (group in leaders or pid in below) for pid, group in there)
        time.sleep(0.02)
    assert not left


def test_a_child_ends_with_its_front_though_it_holds_the_interpreter(tmp_path: Path) -> None:
    """A native loop that never lets go: no thread of the child can notice anything, the kernel does."""
    import subprocess

    code = "import ctypes\nclass Model:\n    def predict(self, columns):\n        ctypes.PyDLL(None).sleep(60)\n"
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "code_of_model.py").write_text(code)
    front = f"""
import asyncio, sys, numpy as np
from andon.serving.runners import ChildRunner, ChildSpec, ModelSpec
async def main():
    columns = {{"inputs": (("x", "double"),), "outputs": (("y", "double"),)}}
    spec = ModelSpec(format="python", path={str(tmp_path / "m")!r}, entry="code_of_model:Model", **columns)
    runner = ChildRunner(ChildSpec(python=sys.executable, model=spec, log={str(tmp_path / "log")!r}))
    await runner.start()
    asyncio.get_running_loop().call_later(0.3, lambda: print(runner.pid, flush=True))
    await runner.run({{"x": np.array([1.0])}}, 1)
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", front], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate()
    for _ in range(500):
        if not Path(f"/proc/{pid}/statm").exists() or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.01)
    else:
        os.kill(pid, signal.SIGKILL)
        raise AssertionError("the child outlived its front")


def test_a_log_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 1_000_000)
    code = ECHO.replace('return {"y"', 'print("x" * int(1e6), "mad" + str(columns["k"][0]))\n        return {"y"')

    async def use(runner: ChildRunner) -> None:
        for k in range(20):
            await runner.run({"x": np.array([1.0]), "k": np.array([k])}, 1)
            processes.cut_log(str(tmp_path / "log"))
        assert (tmp_path / "log").stat().st_size < 2_300_000
        assert "mad19" in runner.log_tail()

    with_child(tmp_path, code, use)


def test_a_process_that_keeps_dying_is_started_less_and_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "RESTART_DELAYS_S", (0.0, 60.0))
    code = "import os, pathlib\nclass Model:\n    def __init__(self, folder):\n        if (folder / 'broken').exists(): os._exit(1)\n"
    code += "    def predict(self, columns):\n        os._exit(1)\n"

    async def use(runner: ChildRunner) -> None:
        (tmp_path / "m" / "broken").touch()
        with pytest.raises(RunnerDied):
            await runner.run(COLUMNS, 2)
        before = time.monotonic()
        for _ in range(3):
            with pytest.raises(Unavailable, match="has not come back yet"):
                await runner.run(COLUMNS, 2)
        assert time.monotonic() - before < 4  # nobody waits for a start that is a minute off

    with_child(tmp_path, code, use)


def test_what_a_release_may_ask_for() -> None:
    assert limits_of({}) == RunnerLimits()
    assert limits_of({"batch_timeout_s": 2, "runner": {"load_timeout_s": 3.5}}) == RunnerLimits(batch_timeout_s=2.0, load_timeout_s=3.5)
    for runner, field in (
        ({"memory": 1}, "memory"),
        ({"memory_mb": "much"}, "memory_mb"),
        ({"memory_mb": 1}, "memory_mb"),
        ({"replicas": 0}, "replicas"),
        ({"nice": 20}, "nice"),
        ({"batch_timeout_s": 0}, "batch_timeout_s"),
        ({"env": [1]}, "env[0]"),
    ):
        with pytest.raises(InvalidInput) as caught:
            limits_of({"runner": runner})
        assert caught.value.fields["field"] == f"settings.runner.{field}"
    with pytest.raises(InvalidInput):
        limits_of({"runner": 3})


def test_a_batch_that_takes_too_much_cpu_ends_its_process(tmp_path: Path) -> None:
    code = ECHO.replace('return {"y"', 'while columns["k"][0] == 9: pass\n        return {"y"')

    async def use(runner: ChildRunner) -> None:
        with pytest.raises(RunnerDied):
            await runner.run({"x": np.array([1.0]), "k": np.array([9])}, 1)
        assert (await runner.run(COLUMNS, 2))["y"].tolist() == [2.0, 4.0]

    with_child(tmp_path, code, use, limits=RunnerLimits(cpu_s=0.2))


def test_folders_of_fronts_that_were_killed_are_removed(tmp_path: Path) -> None:
    names = {"andon-run-999999999-old": 0.0, "andon-run-999999999-new": 100_000.0, f"andon-run-{os.getpid()}-old": 0.0, "other-1-old": 0.0}
    for name, at_s in names.items():
        (tmp_path / name / "in").mkdir(parents=True)
        os.utime(tmp_path / name, (at_s, at_s))
    processes.sweep(tmp_path, 100_001.0)
    assert {path.name for path in tmp_path.iterdir()} == set(names) - {"andon-run-999999999-old"}
