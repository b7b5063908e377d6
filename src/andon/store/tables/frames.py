"""The segment format, version 2: what the inbox writes and every reader reads. Version 1, which has no rows frames, is read too.

::

    segment = header frame*
    header  = "ANDONSEG" u16 version, u16 header bytes (64), u64 segment number, 26 bytes writer id, zeros, u32 CRC     (64 bytes)
    frame   = "\\xabFRM" u8 kind, u8 0, u16 schema, u32 payload bytes, u32 rows, u64 sequence, u32 0, u32 CRC             (32 bytes)
              payload, zeros up to a multiple of 8

Numbers are little-endian. A schema frame (kind 1) holds the table's name and its Arrow schema under a number of this segment; a batch frame
(kind 2) is one Arrow IPC record batch of that schema; a rows frame (kind 3) holds a few rows of it as a MessagePack list with one item a
column: a list of plain values (instants as microseconds), or one value for all rows. It is a sixth of the work of a record batch to write,
and is read many at a time. Schema frames are repeated every MiB, so that losing one loses little. The CRC-32 of a frame covers its payload
and then its header, and is XORed with a number made of the file's name, so frames of one segment that were stored as bytes in another are
never taken for its own. Sequence numbers of a writer's batches are 1, 2, 3, … without gaps.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from andon.core.errors import Incompatible

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC = b"ANDONSEG"
FRAME_MAGIC = b"\xabFRM"
VERSION = 2
HEADER_BYTES = 64
SCHEMA, BATCH, ROWS = 1, 2, 3
MAX_PAYLOAD_BYTES = 1 << 30
SCHEMA_EVERY_BYTES = 1 << 20

_header = struct.Struct("<8sHHQ26s14x")
_frame = struct.Struct("<4sBBHIIQI")
_crc = struct.Struct("<I")
FRAME_BYTES = _frame.size + _crc.size
_zeros = bytes(8)
_msgpack = msgspec.msgpack.Encoder()
_msgpack_decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list)
_end_of_stream = b"\xff\xff\xff\xff\0\0\0\0"


class SegmentName(msgspec.Struct, frozen=True, order=True):
    """Which segment of which writer. The file is called ``WRITER-00000001.seg``."""

    writer: str
    segment: int

    @property
    def file(self) -> str:
        """The file's name in the inbox."""
        return f"{self.writer}-{self.segment:08d}.seg"

    @property
    def salt(self) -> int:
        """What this segment's CRCs are XORed with."""
        return zlib.crc32(self.file.encode())

    @classmethod
    def parse(cls, file: str) -> SegmentName | None:
        """Read a file's name; ``None`` for any other file."""
        stem, _, suffix = file.rpartition(".")
        writer, _, number = stem.rpartition("-")
        if suffix != "seg" or len(writer) != 26 or not number.isdigit():
            return None
        name = cls(writer, int(number))
        return name if name.file == file else None


class Damage(msgspec.Struct, frozen=True):
    """Bytes ``start`` to ``end`` of a segment that are not whole frames, with whole frames after them."""

    start: int
    end: int


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One whole frame: where it starts, and where its payload is."""

    offset: int
    kind: int
    schema: int
    rows: int
    sequence: int
    start: int
    end: int


def encode_header(name: SegmentName, version: int = VERSION) -> bytes:
    """The first 64 bytes of a segment."""
    body = _header.pack(MAGIC, version, HEADER_BYTES, name.segment, name.writer.encode())
    return body + _crc.pack(zlib.crc32(body, name.salt))


def header_is_sound(data: bytes | memoryview, name: SegmentName) -> bool:
    """Whether ``data`` begins with this segment's header. Raises ``Incompatible`` for a newer format."""
    head = bytes(data[:HEADER_BYTES])
    if any(head == encode_header(name, version) for version in range(VERSION, 0, -1)):
        return True
    if len(head) == HEADER_BYTES and head[:8] == MAGIC and _crc.unpack_from(head, _header.size)[0] == zlib.crc32(head[:-4], name.salt):
        raise Incompatible("this segment was written by a newer Andon", file=name.file, version=int.from_bytes(head[8:10], "little"))
    return False


def encode_frame(
    kind: int, schema: int, rows: int, sequence: int, payload: bytes | pa.Buffer, payload_crc: int, salt: int
) -> tuple[bytes, bytes | pa.Buffer, bytes]:
    """Header, payload and padding of one frame, to be written one after another. ``payload_crc`` is ``zlib.crc32(payload)``."""
    size = len(payload)
    head = _frame.pack(FRAME_MAGIC, kind, 0, schema, size, rows, sequence, 0)
    return head + _crc.pack(zlib.crc32(head, payload_crc) ^ salt), payload, _zeros[: -size % 8]


def encode_schema(table: str, schema: pa.Schema) -> bytes:
    """The payload of a schema frame."""
    name = table.encode()
    return struct.pack("<H", len(name)) + name + bytes(schema.serialize())


def decode_schema(payload: memoryview) -> tuple[str, bytes]:
    """Table name and Arrow schema message of a schema frame."""
    (length,) = struct.unpack_from("<H", payload)
    return bytes(payload[2 : 2 + length]).decode(), bytes(payload[2 + length :])


def scan(data: bytes, base: int, salt: int) -> Iterator[Frame | Damage]:
    """Whole frames in ``data``, which begins at offset ``base`` of the file, and what lies damaged between them.

    What follows the last whole frame is a torn tail (a frame on its way, or cut short by a crash) and is not reported.
    """
    view = memoryview(data)
    at = 0
    while True:
        frame = _frame_at(view, at, salt)
        if frame is None:
            resumed = at
            while frame is None:
                resumed = data.find(FRAME_MAGIC, resumed + 1)
                if resumed < 0:
                    return
                frame = _frame_at(view, resumed, salt)
            yield Damage(base + at, base + resumed)
        kind, schema, rows, sequence, start, end = frame
        yield Frame(base + start - FRAME_BYTES, kind, schema, rows, sequence, base + start, base + end)
        at = end + (start - end) % 8


def _frame_at(view: memoryview, at: int, salt: int) -> tuple[int, int, int, int, int, int] | None:
    start = at + FRAME_BYTES
    if start > len(view):
        return None
    magic, kind, _, schema, length, rows, sequence, _ = _frame.unpack_from(view, at)
    end = start + length
    if magic != FRAME_MAGIC or end > len(view):
        return None
    crc = zlib.crc32(view[at : at + _frame.size], zlib.crc32(view[start:end])) ^ salt
    if crc != _crc.unpack_from(view, at + _frame.size)[0]:
        return None
    return kind, schema, rows, sequence, start, end


def decode_batches(schema: bytes, payloads: list[memoryview]) -> pa.Table:
    """The rows of some batches of one schema, decoded in one pass. Raises ``pyarrow.ArrowInvalid``."""
    import pyarrow as pa

    if len(payloads) == 1:  # a view of the bytes read: no copy
        parsed = pa.ipc.read_schema(pa.py_buffer(schema))
        return pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(payloads[0]), parsed)])
    stream = b"".join([schema, *payloads, _end_of_stream])
    return pa.ipc.open_stream(pa.py_buffer(stream)).read_all().combine_chunks()


def encode_rows(columns: Sequence[Any]) -> bytes:
    """The payload of a rows frame: for each column of the schema a list of values, or one value for all rows."""
    return _msgpack.encode(columns)


def decode_rows(schema: bytes, payloads: list[memoryview], rows: list[int]) -> pa.Table:
    """The rows of some rows frames of one schema, ``rows`` of them in each. Raises ``pyarrow.ArrowInvalid`` or ``ValueError``."""
    import pyarrow as pa

    parsed = pa.ipc.read_schema(pa.py_buffer(schema))
    gathered: list[list[Any]] = [[] for _ in parsed]
    for payload, n in zip(payloads, rows, strict=True):
        for values, column in zip(gathered, _msgpack_decoder.decode(payload), strict=True):
            if type(column) is list:
                values += column
            else:
                values += [column] * n
    return pa.Table.from_arrays([pa.array(values, type=field.type) for values, field in zip(gathered, parsed, strict=True)], schema=parsed)
