"""Tensors as a release's columns, and its outputs as tensors.

A request has one tensor for each column of the release's inputs, ``[n, *shape]`` (for scalars also ``[n, 1]``); or, when all columns are
scalar numbers, one tensor ``[n, k]`` of any name with the k columns in the signature's order. An answer has one tensor ``[n, *shape]`` for
each output, in its column's datatype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from andon.core.blocks import Block
from andon.core.clocks import to_us
from andon.core.errors import InvalidInput, ModelFailed
from andon.models.records import NUMPY_DTYPES, Column
from andon.serving.validation import MAX_ROWS, RowCodec, block_dtype
from andon.serving.values import MAX_TEXT_CHARS
from andon.wire.openinference.datatypes import Datatype, of_column
from andon.wire.openinference.requests import InferRequest, Wanted
from andon.wire.openinference.tensors import from_bytes, text

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_FLOATS = frozenset(("double", "float", "half"))


class Binding:
    """How the tensors of one release are its columns. Make it once per release; it is immutable."""

    def __init__(self, codec: RowCodec) -> None:
        self._codec = codec
        signature = codec.signature
        self._inputs = {column.name: column for column in signature.inputs}
        self._names = tuple(self._inputs)
        self._texts = [column for column in signature.inputs if column.dtype in ("string", "datetime")]
        self._numbers = all(not column.shape and column.dtype not in ("string", "datetime", "boolean") for column in signature.inputs)
        self._matrix_of = block_dtype(signature)
        self._exact = [(column.name, NUMPY_DTYPES[column.dtype], column.shape) for column in signature.inputs if _is_plain(column)]
        self._all_exact = len(self._exact) == len(signature.inputs)
        self._outputs = {column.name: (column, of_column(column.dtype)) for column in signature.outputs}
        self._all = {binary: tuple(Wanted(column.name, binary) for column in signature.outputs) for binary in (True, False)}

    def columns(self, request: InferRequest) -> tuple[dict[str, Array], int]:
        """The checked columns of a request and how many rows they have. Raises ``InvalidInput`` naming the tensor, or ``TooLarge``."""
        tensors = request.tensors
        if request.whole is not None:
            tensors = self._only(request.whole)
        if not tensors:
            raise InvalidInput("a request has inputs", field="inputs", inputs=", ".join(self._names)[:500])
        n = len(next(iter(tensors.values())))
        if len(tensors) == 1:
            ((name, array),) = tensors.items()
            if name not in self._inputs or (array.ndim == 2 and array.shape[1] == len(self._names) > 1):
                if self._matrix_of is not None and 0 < n <= MAX_ROWS and array.shape[1:] == (len(self._names),):
                    fitting = self._matrix(array, name, self._matrix_of)
                    if fitting is not None:
                        return fitting, n
                tensors = self._spread(name, array)
        if self._all_exact and 0 < n <= MAX_ROWS and self._fits(tensors, n):
            return tensors, n
        if self._texts:
            tensors = {name: self._plain(name, array) for name, array in tensors.items()}
        return self._codec.from_columns(tensors, n), n

    def _matrix(self, array: Array, name: str, dtype: str) -> dict[str, Array] | None:
        """What ``_spread`` and ``from_columns`` would make of a matrix, in one step for all columns: the common case. None: ask those."""
        import numpy as np

        if array.dtype != dtype:
            if not np.can_cast(array.dtype, dtype, "safe") or array.dtype.kind not in "fiu":
                return None
            array = array.astype(dtype)
        if not np.isfinite(array).all():
            row, at = (int(place) for place in np.argwhere(~np.isfinite(array))[0])
            raise InvalidInput("NaN and infinities are not values", field=f"{name}[{row}, {at}]", row=row, column=self._names[at])
        return Block(self._names, array)

    def _fits(self, tensors: Mapping[str, Array], n: int) -> bool:
        """Whether these are the columns, as they are: ``from_columns`` would change nothing. It is asked when they are not."""
        import numpy as np

        if len(tensors) != len(self._exact):
            return False
        for name, dtype, shape in self._exact:
            array = tensors.get(name)
            if array is None or array.dtype != dtype or array.shape != (n, *shape):
                return False
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return False
        return True

    def _spread(self, name: str, array: Array) -> dict[str, Array]:
        width = len(self._names)
        if array.ndim != 2 or array.shape[1] != width:
            raise InvalidInput(
                f"one tensor for all inputs has the shape [n, {width}]; or send one tensor for each input",
                field=name,
                got=str(list(array.shape))[:80],
                inputs=", ".join(self._names)[:500],
            )
        if array.dtype.kind not in "fiu" or not self._numbers:
            raise InvalidInput("one tensor for all inputs needs them all to be numbers; send one tensor for each input", field=name)
        return {column: array[:, at] for at, column in enumerate(self._names)}

    def _plain(self, name: str, array: Array) -> Array:
        """Texts checked, and instants that were sent as text or microseconds as instants."""
        column = self._inputs.get(name)
        if column is None or column.dtype not in ("string", "datetime"):
            return array
        if array.dtype.kind == "O":
            for at, value in enumerate(array.reshape(-1).tolist()):
                if value is None and (column.required or column.shape):
                    raise InvalidInput("this input is required, and this is null", field=f"{name}[{at}]")
                if value is not None and len(value) > MAX_TEXT_CHARS:
                    raise InvalidInput(f"text has at most {MAX_TEXT_CHARS} characters", field=f"{name}[{at}]", got=len(value))
        if column.dtype == "datetime":
            return _instants(array, column)
        return array

    def _only(self, body: bytes | memoryview) -> dict[str, Array]:
        """A raw binary request: the whole body is the only input."""
        if len(self._inputs) != 1:
            why = "a body without JSON is the bytes of the only input, and this model has several"
            raise InvalidInput(why, field="inference-header-content-length", inputs=", ".join(self._names)[:500])
        ((name, column),) = self._inputs.items()
        if any(size < 0 for size in column.shape):
            raise InvalidInput("this input's shape is not fixed, so its bytes need JSON that says it", field=name)
        form = of_column(column.dtype)
        if not form.size:
            import numpy as np

            array = np.empty((1, *column.shape), dtype=object)
            if array.size != 1:
                raise InvalidInput("the bytes of one text are not several", field=name)
            array[:] = text(bytes(body), name)
            return {name: array}
        row = form.size * math.prod(column.shape)
        if not body or len(body) % row:
            raise InvalidInput(f"a row of this input has {row} bytes, and the body has {len(body)}", field=name)
        return {name: from_bytes(body, form.name, (len(body) // row, *column.shape), name)}

    def answer(self, outputs: Mapping[str, Array], asked: Sequence[Wanted]) -> list[tuple[Wanted, Datatype, Array]]:
        """The wanted outputs, each in its column's datatype. Raises ``ModelFailed`` for one that does not fit it."""
        made = []
        for wanted in asked:
            column, form = self._outputs[wanted.name]
            made.append((wanted, form, _typed(outputs[wanted.name], column, form)))
        return made

    def wanted(self, request: InferRequest) -> tuple[Wanted, ...]:
        """The outputs to give. Raises ``InvalidInput`` for one there is not, before anything is run."""
        if not request.outputs:
            return self._all[request.binary]
        names = [wanted.name for wanted in request.outputs]
        for name in names:
            if name not in self._outputs:
                raise InvalidInput("there is no such output", field=name[:100], outputs=", ".join(self._outputs)[:500])
        if len(set(names)) != len(names):
            raise InvalidInput("an output is asked for once", field="outputs")
        return request.outputs


def _is_plain(column: Column) -> bool:
    """Whether a column in memory is what its tensor is on the wire."""
    return column.required and -1 not in column.shape and column.dtype not in ("string", "datetime")


def _instants(array: Array, column: Column) -> Array:
    import numpy as np

    if array.dtype.kind != "O":
        return array if array.dtype.kind != "i" else array.astype("i8").view("M8[us]")
    values = [np.datetime64("NaT") if value is None else to_us(value, field=f"{column.name}[{at}]") for at, value in _items(array)]
    return np.array(values, dtype="M8[us]").reshape(array.shape)


def _items(array: Array) -> list[tuple[int, Any]]:
    return list(enumerate(array.reshape(-1).tolist()))


def _typed(values: Array, column: Column, form: Datatype) -> Array:
    """Output values in the datatype that the metadata names."""
    import numpy as np

    if values.dtype.kind == "M":
        values = values.astype("M8[us]").astype("i8")
    if values.dtype == form.numpy or not form.size:
        return values
    if values.dtype.kind == "f" and column.dtype not in _FLOATS and bool((values != np.floor(values)).any()):
        raise ModelFailed(f"the release answered with fractions where its signature says {column.dtype}", field=column.name)
    try:
        made: Array = values.astype(form.numpy)
    except (TypeError, ValueError, OverflowError):
        raise ModelFailed(f"the release answered with values that are not {column.dtype}", field=column.name) from None
    return made
