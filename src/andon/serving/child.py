"""The runner program: executes one release's batches in the release's own Python. Run as ``python -I child.py FD``.

It imports the standard library and numpy, and what the model needs; never ``andon``, which the release's environment need not hold.
It talks over one inherited socket: frames of ``<II`` (header bytes, body bytes), a JSON header, and a body of raw column buffers.

- ``{"op": "load", "limits": {…}, …}`` -> ``{"ok": true, …}``
- ``{"op": "run", "n": n, "columns": [[name, kind, shape, bytes], …]}`` + buffers -> ``{"ok": true, "columns": […]}`` + buffers
- on an error: ``{"ok": false, "error": "ValueError: …", "stage": "decode" or null, "traceback": "…"}``; the process goes on.

A question may have an ``id``, which its answer repeats; every answer says the process's resident memory (``rss``, bytes). A column's kind
is a NumPy dtype string (``<f8``), or ``json`` for text. When the socket closes, because the front is gone, the process ends at once with
all that it started, also in the middle of a batch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import pathlib
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

FRAME = struct.Struct("<II")
_TRACEBACK_LINES = 12
Columns = dict[str, Any]
Predict = Callable[[Columns, int], Columns]


def _beside(name: str) -> Any:
    """A file of ``andon.models`` that imports nothing of Andon, by its path: the release's environment need not hold Andon."""
    file = pathlib.Path(__file__).parents[1] / "models" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"_andon_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


staging: Any = _beside("staging")
combining: Any = _beside("combining")


# --- columns as bytes, both ways (the front uses these too)


def pack(columns: Columns) -> tuple[list[list[Any]], list[Any]]:
    """Columns (arrays of equal length, one or two dimensions) as ``[name, kind, shape, bytes]`` and their buffers."""
    import numpy as np

    specs: list[list[Any]] = []
    buffers: list[Any] = []
    for name, values in columns.items():
        array = np.asarray(values)
        if array.dtype.kind in "OUS":
            data: Any = json.dumps(array.tolist(), default=_plain).encode()
            specs.append([name, "json", list(array.shape), len(data)])
        else:
            array = np.ascontiguousarray(array)
            data = array.reshape(-1).view(np.uint8).data if array.size else b""  # instants have no buffer of their own
            specs.append([name, array.dtype.str, list(array.shape), array.nbytes])
        buffers.append(data)
    return specs, buffers


def unpack(specs: Sequence[Sequence[Any]], body: bytearray) -> Columns:
    """The columns again; arrays share ``body``'s memory and may be written to."""
    import numpy as np

    columns: Columns = {}
    at = 0
    for name, kind, shape, size in specs:
        if kind == "json":
            array = np.empty(shape, dtype=object)
            array[...] = _nested(json.loads(bytes(body[at : at + size])), shape)
            columns[name] = array
        else:
            columns[name] = np.frombuffer(body, dtype=kind, count=size // np.dtype(kind).itemsize, offset=at).reshape(shape)
        at += size
    return columns


def _nested(values: list[Any], shape: Sequence[int]) -> Any:
    import numpy as np

    if len(shape) == 1:
        return values  # as they are: rows of text are not to become an array of characters
    return np.array(values, dtype=object).reshape(shape)


def frame(header: dict[str, Any], buffers: Sequence[Any] = ()) -> bytes:
    """One message as bytes."""
    head = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((FRAME.pack(len(head), sum(len(part) for part in buffers)), head, *buffers))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a column holds numbers, booleans or text, not {type(value).__name__}")


# --- models


def load_model(spec: dict[str, Any]) -> Predict:
    """A function from columns and their length to columns.

    ``spec``: ``format``, ``path`` (the folder of the model's files), ``entry``, ``inputs`` and ``outputs`` (``[name, dtype]`` of the
    model's signature), ``flags``, and ``tensors`` (the outputs that have a shape).

    Raises whatever the library raises, or ``ValueError`` for a format that has no loader here.
    """
    loaders: dict[str, Callable[[dict[str, Any]], Predict]] = {"onnx": _load_by("graphs"), "torch": _load_by("programs")}
    loaders |= {"xgboost": _load_by("boosters"), "lightgbm": _load_by("boosters")}
    loaders |= {"skops": _load_skops, "python": _load_python, "pickle": _load_pickle, "mlflow": _load_mlflow}
    loaders |= {"ensemble": _load_composed, "cascade": _load_composed}
    loader = loaders.get(spec["format"])
    if loader is None:
        raise ValueError(f"a model in the format {spec['format']!r} cannot be served; save it as one of {', '.join(loaders)}")
    return loader(spec)


def _load_by(name: str) -> Callable[[dict[str, Any]], Predict]:
    """The loader of a format that has a file of its own, read when it is needed."""
    return lambda spec: _beside(name).load(spec)


def _flat(value: Any, n: int) -> Any:
    import numpy as np

    array = np.asarray(value)
    return array.reshape(n) if array.ndim == 2 and array.shape[1] == 1 else array


def matrix(columns: Columns, names: Sequence[str], n: int, dtype: str) -> Any:
    """Columns side by side, ``[n, len(names)]``, in the order of ``names``."""
    import numpy as np

    out = np.empty((n, len(names)), dtype=dtype)
    for position, name in enumerate(names):
        out[:, position] = columns[name]
    return out


def _load_skops(spec: dict[str, Any]) -> Predict:
    from skops import io as skops_io

    path = pathlib.Path(spec["path"], spec["entry"])
    unknown = skops_io.get_untrusted_types(file=path)
    refused = sorted(name for name in unknown if not _is_let_in(name))
    if refused:
        raise ValueError(f"this skops file holds types that are not let in: {', '.join(refused[:5])}")
    return _estimator(skops_io.load(path, trusted=sorted(unknown)), spec)


def _is_let_in(name: str) -> bool:
    """The rule of ``andon.models.loading``, which cannot be imported here: classes and ufuncs of scikit-learn, SciPy and NumPy."""
    import numpy as np

    if name in ("functools.partial", "sklearn.utils.validation.check_array"):
        return True
    module, _, attribute = name.rpartition(".")
    package = module.split(".")[0]
    if package not in ("sklearn", "scipy", "numpy") or "test" in module:
        return False
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return False
    if isinstance(found, np.ufunc):
        return True
    if not isinstance(found, type) or found.__module__.split(".")[0] != package:
        return False
    return (
        package != "numpy"
        or found is np.ndarray
        or issubclass(found, (np.generic, np.dtype))
        or found.__module__.startswith("numpy.random")
    )


def _load_pickle(spec: dict[str, Any]) -> Predict:
    import pickle

    if "pickle" not in spec.get("flags", ()):
        raise ValueError("loading this model runs code from its file, and the manifest does not say that this is wanted (flag 'pickle')")
    path = pathlib.Path(spec["path"], spec["entry"])
    with path.open("rb") as file:
        model = pickle.load(file)  # noqa: S301  # asked for by name, and in a process of its own
    is_estimator = any(base.__module__.startswith("sklearn.") for base in type(model).__mro__)
    return _estimator(model, spec) if is_estimator else _code(model, spec)


def _load_mlflow(spec: dict[str, Any]) -> Predict:
    """A folder that another tracking client saved, loaded by that client, which the release's environment holds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a server asks nobody anything on its own
    from mlflow import pyfunc  # type: ignore[import-not-found,unused-ignore]

    model: Any = pyfunc.load_model(spec["path"])
    schema: Any = getattr(getattr(model.metadata, "signature", None), "inputs", None)
    tensor = schema is not None and schema.is_tensor_spec()
    types = {} if schema is None or not schema.has_input_names() else dict(zip(schema.input_names(), schema.numpy_types(), strict=True))
    names = [name for name, _ in spec["inputs"]]
    outputs = [name for name, _ in spec["outputs"]]

    def predict(columns: Columns, n: int) -> Columns:
        given = {name: _as_wide(columns[name], types.get(name)) for name in names if name in columns}
        if tensor and not types:
            one = schema.inputs[0]
            if len(names) == 1 and columns[names[0]].ndim > 1:
                rows: Any = columns[names[0]].astype(str(one.type), copy=False)
            else:
                rows = matrix(columns, names, n, str(one.type))
                rows = rows[:, 0] if len(one.shape) == 1 else rows
        elif tensor:
            rows = given
        else:
            import pandas as pd  # type: ignore[import-untyped,unused-ignore]

            rows = pd.DataFrame(given)
        return _spread(model.predict(rows), outputs, n)

    return predict


def _as_wide(values: Any, wanted: Any) -> Any:
    """Numbers in the width that a signature names: its client refuses the others."""
    import numpy as np

    kind = None if wanted is None else np.dtype(wanted)
    if kind is None or kind.kind not in "fi" or values.dtype.kind not in "fi" or (kind.kind == "i" and values.dtype.kind == "f"):
        return values
    if kind.kind == "i" and kind.itemsize < values.dtype.itemsize and bool((values != values.astype(kind)).any()):
        raise ValueError(f"a value does not fit the model's type, {kind}")
    return values.astype(kind, copy=False)


def _spread(made: Any, outputs: Sequence[str], n: int) -> Columns:
    """A frame, a mapping or an array as columns under the signature's names."""
    if hasattr(made, "columns") and hasattr(made, "to_dict"):
        made = {str(name): made[name].to_numpy() for name in made.columns}
    if hasattr(made, "keys"):
        given = {str(name): made[name] for name in made.keys()}  # noqa: SIM118 - any mapping
        return given if set(outputs) <= set(given) else dict(zip(outputs, given.values(), strict=False))
    flat = _flat(made, n)
    return {outputs[0]: flat} if flat.ndim != 2 or len(outputs) == 1 else {name: flat[:, at] for at, name in enumerate(outputs)}


def _estimator(estimator: Any, spec: dict[str, Any]) -> Predict:
    """Outputs are named as ``andon.models.estimators`` names them: ``prediction`` (or ``prediction_0``, …), ``probability`` or
    ``probability_CLASS``."""
    names = [name for name, _ in spec["inputs"]]
    numeric = all(dtype not in ("string", "datetime") for _, dtype in spec["inputs"])
    framed = hasattr(estimator, "feature_names_in_") and importlib.util.find_spec("pandas") is not None

    def predict(columns: Columns, n: int) -> Columns:
        if framed:
            import pandas as pd  # type: ignore[import-untyped,unused-ignore]

            rows: Any = pd.DataFrame({name: columns[name] for name in names})
        else:
            rows = matrix(columns, names, n, "float64" if numeric else "object")
        predicted = _flat(estimator.predict(rows), n)
        made = (
            {"prediction": predicted} if predicted.ndim == 1 else {f"prediction_{at}": predicted[:, at] for at in range(predicted.shape[1])}
        )
        if hasattr(estimator, "predict_proba"):
            shares = estimator.predict_proba(rows)
            if len(estimator.classes_) == 2:
                made["probability"] = shares[:, 1]
            else:
                made |= {f"probability_{value}": shares[:, at] for at, value in enumerate(estimator.classes_)}
        return made

    return predict


def _load_python(spec: dict[str, Any]) -> Predict:
    sys.path.insert(0, spec["path"])
    kind = staging.in_stage("setup", _named, spec["entry"])
    return _code(staging.make(kind, pathlib.Path(spec["path"])), spec)


def _load_composed(spec: dict[str, Any]) -> Predict:
    """An ensemble or a cascade: its members are loaded here, too."""
    return combining.load(pathlib.Path(spec["path"]), _load_member)  # type: ignore[no-any-return]


def _load_member(spec: dict[str, Any]) -> Predict:
    """Each member finds its own modules, also when another's have the same names."""
    before = set(sys.modules)
    predict = load_model(spec)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(spec["path"]):
            del sys.modules[name]
    return predict


def _code(model: Any, spec: dict[str, Any]) -> Predict:
    """An object with ``predict`` (and ``decode``, ``encode``) that gives columns, or one array, which is the first output."""
    first = spec["outputs"][0][0]

    def predict(columns: Columns, n: int) -> Columns:
        made = staging.answer(model, columns)
        return dict(made) if hasattr(made, "keys") else {first: _flat(made, n)}

    return predict


def _named(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


# --- the process


def _load(header: dict[str, Any]) -> tuple[Predict, dict[str, Any]]:
    _limit(header.get("limits") or {})
    _check_pins(header.get("pins") or {})
    if header.get("code"):
        sys.path.insert(0, header["code"])
    transform = staging.in_stage("setup", _named, header["transform"]) if header.get("transform") else None
    model = load_model(header["model"])

    def predict(columns: Columns, n: int) -> Columns:
        if transform is not None:
            columns = staging.in_stage("transform", lambda: dict(transform(columns)))
        return model(columns, n)

    return predict, {"ok": True, "python": sys.version.split()[0], "pid": os.getpid()}


_batch_cpu_s: float | None = None


def _limit(limits: dict[str, Any]) -> None:
    """What this process sets for itself before it loads anything; see ``andon.serving.limits``."""
    import resource

    global _batch_cpu_s  # one release a process
    _batch_cpu_s = limits.get("cpu_s")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, value in ((resource.RLIMIT_NOFILE, limits.get("open_files")), (resource.RLIMIT_DATA, limits.get("data_bytes"))):
        hard = resource.getrlimit(name)[1]
        if value and (hard == resource.RLIM_INFINITY or value < hard):
            resource.setrlimit(name, (value, value))
    if limits.get("nice"):
        os.setpriority(os.PRIO_PROCESS, 0, limits["nice"])
    with contextlib.suppress(OSError):  # when the machine runs out of memory, this process is ended before the front
        pathlib.Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _limit_batch() -> None:
    """Give the next batch ``cpu_s`` seconds of CPU; the kernel ends the process beyond (SIGXCPU)."""
    if _batch_cpu_s is not None:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime + _batch_cpu_s) + 1  # the kernel counts whole seconds
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _check_pins(pins: dict[str, str]) -> None:
    from importlib import metadata

    for name, version in pins.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "nothing"
        if found != version:
            raise RuntimeError(f"this environment is not the release's: {name}=={version} is pinned, {found} is installed")


def _run(predict: Predict, header: dict[str, Any], body: bytearray) -> tuple[dict[str, Any], list[Any]]:
    import numpy as np

    n = header["n"]
    _limit_batch()
    made = predict(unpack(header["columns"], body), n)
    outputs = {name: np.asarray(values) for name, values in made.items()}
    for name, values in outputs.items():
        if values.ndim == 0 or len(values) != n:
            raise ValueError(f"the output {name!r} has shape {list(values.shape)}; it needs one value for each of {n} rows")
    specs, buffers = pack(outputs)
    return {"ok": True, "columns": specs}, buffers


def _failure(error: BaseException) -> dict[str, Any]:
    lines = traceback.format_exception(error)
    text = "".join(lines).splitlines()[-_TRACEBACK_LINES:]
    told = {"ok": False, "error": f"{type(error).__name__}: {error}"[:2000], "traceback": "\n".join(text)[-4000:]}
    return told | {"stage": staging.stage_of(error)}


def _receive(connection: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view = memoryview(data)
    at = 0
    while at < size:
        got = connection.recv_into(view[at:])
        if not got:
            return None
        at += got
    return data


def _end_with_parent(connection: socket.socket) -> None:
    """Wait, in a thread, for the front's end of the socket to close: user code may never come back to read from it."""
    watch = select.poll()
    watch.register(connection.fileno(), select.POLLRDHUP | select.POLLHUP)
    while not watch.poll():
        pass
    end_all_of(os.getpid())
    os._exit(0)


def _ask_the_kernel() -> None:
    """End with the front even where no thread of ours can run any more, and be the parent of what our children leave behind."""
    import ctypes

    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # not Linux: the socket is watched all the same
        return
    prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def end_all_of(pid: int) -> None:
    """SIGKILL for a process, its group, and all that it started (as far as /proc shows), its leader last."""
    group = _descendants(pid)
    for found in group:
        _kill(os.kill, found)
    _kill(os.killpg, pid)
    _kill(os.kill, pid)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = [int(text) for text in path.read_text(encoding="ascii").split()]
        except OSError:
            continue
        for one in below:
            found += [*_descendants(one), one]
    return found


def _kill(how: Callable[[int, int], None], pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        how(pid, signal.SIGKILL)


class _Memory:
    """This process's resident memory, from one open file: a few microseconds a reading."""

    def __init__(self) -> None:
        self._page = os.sysconf("SC_PAGE_SIZE")
        try:
            self._file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1

    def resident_bytes(self) -> int:
        try:
            return int(os.pread(self._file, 64, 0).split()[1]) * self._page
        except OSError:
            return 0


def main(descriptor: int) -> None:
    """Serve frames until the front goes away."""
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    os.register_at_fork(after_in_child=connection.close)  # what user code forks must not answer, nor hold the socket open
    me, memory = os.getpid(), _Memory()
    _ask_the_kernel()
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    predict: Predict | None = None
    while True:
        prefix = _receive(connection, FRAME.size)
        if prefix is None:
            return
        head_size, body_size = FRAME.unpack(prefix)
        head, body = _receive(connection, head_size), _receive(connection, body_size)
        if head is None or body is None:
            return
        header = json.loads(bytes(head))
        buffers: list[Any] = []
        try:
            if header["op"] == "load":
                predict, reply = _load(header)
            elif predict is None:
                raise RuntimeError("nothing is loaded yet")
            else:
                reply, buffers = _run(predict, header, body)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  # user code may raise anything; the front must hear of it
            if os.getpid() == me:
                _print(error)
            reply, buffers = _failure(error), []
        if os.getpid() != me:
            os._exit(0)  # a process that user code forked came back from it
        reply |= {"id": header.get("id"), "rss": memory.resident_bytes()}
        connection.sendall(frame(reply, buffers))


def _print(error: BaseException) -> None:
    with contextlib.suppress(OSError, ValueError):  # user code closed it, or the disk is full: the front still hears of the error
        traceback.print_exception(error)
        sys.stderr.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
