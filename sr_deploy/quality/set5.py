"""Check the measuring protocol on Set5: bicubic must score what it scores in every paper.

A JPEG copy of the data set, or another way of making the small pictures, changes all figures by a little. On
Set5 that is noticed, because the score of bicubic is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from sr_deploy.quality.evaluate import bicubic_baseline, evaluate
from sr_deploy.quality.pairs import EvalPicture, picture_key
from sr_deploy.quality.results import Evaluation

SET5 = frozenset({"baby", "bird", "butterfly", "head", "woman"})
"""Keys of the five pictures of Set5 (Bevilacqua et al. 2012), see `picture_key`."""
SET5_BICUBIC: Mapping[int, float] = MappingProxyType({2: 33.65, 3: 30.39, 4: 28.42})
"""Scale -> mean PSNR in dB on Y of the bicubic baseline on the standard Set5, which papers print within 0.01
dB of this."""
_SET5_TOLERANCE = 0.02
"""Largest deviation in dB that is no warning: twice the 0.01 dB by which papers differ."""


def check_set5(results: Iterable[Evaluation], pictures: Sequence[EvalPicture], scale: int) -> str | None:
    """Return the warning of `set5_warning` for `scale`, or None.

    If `results` have no bicubic, it is measured now, but only for folders that look like Set5. Raises what
    `evaluate` raises.
    """
    of_scale = [result for result in results if result.protocol.scale == scale]
    if not of_scale or scale not in SET5_BICUBIC or not is_set5(picture.name for picture in pictures):
        return None
    bicubic = next((result for result in of_scale if result.model == "bicubic"), None)
    return set5_warning(
        bicubic or evaluate("bicubic", bicubic_baseline(scale), pictures, of_scale[0].protocol)
    )


def set5_warning(bicubic: Evaluation) -> str | None:
    """Return a warning if the pictures are named like Set5 but `bicubic` does not have the published score.

    None if all is well, or if no published score has the same scale and border.
    """
    protocol = bicubic.protocol
    expected, found = SET5_BICUBIC.get(protocol.scale), bicubic.mean.psnr_y
    if not is_set5(s.name for s in bicubic.scores) or expected is None or found is None:
        return None
    if protocol.border != protocol.scale or abs(found - expected) <= _SET5_TOLERANCE:
        return None
    return (
        f"bicubic x{protocol.scale} scores {found:.2f} dB here, but {expected:.2f} dB on the standard Set5: these "
        "pictures differ from it (JPEG copies, or another down-scaling?), so do not compare with published figures"
    )


def is_set5(names: Iterable[str]) -> bool:
    """Check that the files of these names, and no others, look like Set5."""
    return sorted(picture_key(Path(name).stem) for name in names) == sorted(SET5)
