"""TIFF, PNG and BMP files in layouts that libraries do not write, built from known values. It contains no tests."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

from tests.images.samples import Array


def packed(rows: Array, bits: int, order: str = "<") -> bytes:
    """Rows [H, N] of values as bytes: each row begins at a byte, and the first value is in the highest bits."""
    if bits >= 8:
        return rows.astype(f"{order}u{bits // 8}").tobytes()
    digits = (rows[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(len(rows), -1)
    return np.packbits(digits.astype(np.uint8), axis=1).tobytes()


def pack_bits(data: bytes) -> bytes:
    """PackBits (TIFF 6.0, section 9) of literal runs."""
    return b"".join(bytes([len(data[i : i + 128]) - 1]) + data[i : i + 128] for i in range(0, len(data), 128))


def lzw(data: bytes) -> bytes:
    """LZW (TIFF 6.0, section 13) that clears its table before a code needs ten bits."""
    codes = [code for i in range(0, len(data), 200) for code in (256, *data[i : i + 200])] + [257]
    digits = "".join(f"{code:09b}" for code in codes)
    digits += "0" * (-len(digits) % 8)
    return int(digits, 2).to_bytes(len(digits) // 8, "big")


COMPRESSORS = {1: bytes, 5: lzw, 8: zlib.compress, 32773: pack_bits, 32946: zlib.compress}
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def tiff_file(
    samples: Array,
    bits: int,
    photometric: int,
    *,
    order: str = "<",
    big: bool = False,
    planar: bool = False,
    tile: int = 0,
    rows: int = 0,
    compression: int = 1,
    predictor: bool = False,
    reverse_bits: bool = False,
    extra: Sequence[int] = (),
    palette: Array | None = None,
    subfile: int = 0,
    orientation: int = 1,
) -> bytes:
    """A TIFF of [H, W, C] samples of 1, 2, 4, 8 or 16 bits. `palette` is [2**bits, 3] of 16-bit values."""
    height, width, count = samples.shape
    step = tile or rows or height
    blocks = []
    for part in [samples[..., c : c + 1] for c in range(count)] if planar else [samples]:
        if tile:
            padded = np.pad(part, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
            blocks += [
                padded[y : y + tile, x : x + tile]
                for y in range(0, height, tile)
                for x in range(0, width, tile)
            ]
        else:
            blocks += [part[y : y + step] for y in range(0, height, step)]
    if predictor:
        blocks = [np.diff(b, axis=1, prepend=np.zeros_like(b[:, :1])) & (1 << bits) - 1 for b in blocks]
    data = [COMPRESSORS[compression](packed(b.reshape(len(b), -1), bits, order)) for b in blocks]
    if reverse_bits:
        data = [block.translate(_REVERSED) for block in data]
    at, offsets = 16, []
    for block in data:
        offsets.append(at)
        at += len(block) + len(block) % 2
    sizes = [len(block) for block in data]
    where = (
        {324: offsets, 325: sizes, 322: [tile], 323: [tile]}
        if tile
        else {273: offsets, 279: sizes, 278: [step]}
    )
    tags: dict[int, Sequence[int]] = {254: [subfile], 256: [width], 257: [height], 258: [bits] * count,
            259: [compression], 262: [photometric], 266: [2 if reverse_bits else 1], 274: [orientation],
            277: [count], 284: [2 if planar else 1], 317: [2 if predictor else 1], **where}  # fmt: skip
    if extra:
        tags[338] = extra
    if palette is not None:
        tags[320] = palette.T.ravel().tolist()
    body = b"".join(block + b"\0" * (len(block) % 2) for block in data)
    return _header(order, big, at) + body + _directory(tags, at, order, big)


def _header(order: str, big: bool, at: int) -> bytes:
    mark = b"II" if order == "<" else b"MM"
    parts = struct.pack(order + "HHHQ", 43, 8, 0, at) if big else struct.pack(order + "HI", 42, at)
    return (mark + parts).ljust(16, b"\0")


def _directory(tags: dict[int, Sequence[int]], at: int, order: str, big: bool) -> bytes:
    count_form, entry_form, slot, long = ("Q", "HHQ", 8, "Q") if big else ("H", "HHI", 4, "I")
    values_at = (
        at + struct.calcsize("=" + count_form) + len(tags) * (struct.calcsize("=" + entry_form) + slot) + slot
    )
    result, behind = struct.pack(order + count_form, len(tags)), b""
    for tag in sorted(tags):
        wide = tag in (254, 256, 257, 273, 278, 279, 322, 323, 324, 325)
        form, kind = (long, 16 if big else 4) if wide else ("H", 3)
        value = struct.pack(f"{order}{len(tags[tag])}{form}", *tags[tag])
        result += struct.pack(order + entry_form, tag, kind, len(tags[tag]))
        if len(value) > slot:
            result += struct.pack(order + long, values_at + len(behind))
            behind += value + b"\0" * (-len(value) % 8)
        else:
            result += value.ljust(slot, b"\0")
    return result + b"\0" * slot + behind


def png_file(
    samples: Array, bits: int, colour: int, *extra: tuple[bytes, bytes], interlaced: bool = False
) -> bytes:
    """A PNG of [H, W, C] samples; `extra` are chunks before the pixels."""
    height, width, _ = samples.shape
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    parts = [samples[y::down, x::across] for x, y, across, down in passes] if interlaced else [samples]
    rows = b""
    for part in parts:
        if part.size:
            rows += b"".join(b"\0" + packed(row.reshape(1, -1), bits, ">") for row in part)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    result = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        result += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return result


def bmp_file(values: Array, bits: int, *, header: int = 40, masks: Sequence[int] = (), palette: Array | None = None,
             top_down: bool = False) -> bytes:  # fmt: skip
    """A BMP of [H, W] values of 1 to 32 bits. `palette` is [N, 3] in RGB order, `masks` are those of its channels."""
    height, width = values.shape
    flipped = values if top_down else values[::-1]
    if bits == 24:
        rows = b"".join(
            (row.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()).ljust(
                (3 * width + 3) // 4 * 4, b"\0"
            )
            for row in np.ascontiguousarray(flipped)
        )
    else:
        line = (width * bits + 31) // 32 * 4
        rows = b"".join(packed(row[None], bits).ljust(line, b"\0") for row in flipped)
    table = b""
    if palette is not None:
        entries = palette[:, ::-1].astype(np.uint8)
        table = (entries if header == 12 else np.pad(entries, ((0, 0), (0, 1)))).tobytes()
    packing = 0 if not masks else 6 if len(masks) == 4 and header == 40 else 3
    fields = struct.pack("<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, packing, len(rows),
                         0, 0, 0 if palette is None else len(palette), 0)  # fmt: skip
    inner = b"".join(struct.pack("<I", mask) for mask in masks)
    if header == 12:
        fields = struct.pack("<IHHHH", 12, width, height, 1, bits)
    elif header > 40:
        fields = (fields + inner).ljust(header, b"\0")
    else:
        fields += inner
    at = 14 + len(fields) + len(table)
    return struct.pack("<2sIHHI", b"BM", at + len(rows), 0, 0, at) + fields + table + rows
