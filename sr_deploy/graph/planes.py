"""Name the output of a graph that leaves its last PixelShuffle to the caller, such as `planes_crd_4`.

The name tells what is left to do, so that a compiled or kept form needs no other record.
"""

from __future__ import annotations

_KIND, _PIXEL_LAST, _CHANNEL_FIRST = "planes", "dcr", "crd"


def name_planes(block: int, pixel_last: bool) -> str:
    """Return the name of an output of planes [N, block * block * C, H, W].

    Their order is (row, column, C) if `pixel_last`, else (C, row, column).
    """
    return f"{_KIND}_{_PIXEL_LAST if pixel_last else _CHANNEL_FIRST}_{block}"


def planes_of(output: str) -> tuple[int, bool] | None:
    """Return `block` and `pixel_last` of an output of that name; None for an output of pixels."""
    kind, _, rest = output.partition("_")
    order, _, block = rest.partition("_")
    if kind != _KIND or order not in (_PIXEL_LAST, _CHANNEL_FIRST) or not block.isdecimal():
        return None
    return int(block), order == _PIXEL_LAST
