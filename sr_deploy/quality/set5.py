"""The self-check of the protocol: on Set5, bicubic must score what it scores in every paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from sr_deploy.quality.evaluate import bicubic_baseline, evaluate
from sr_deploy.quality.pairs import EvalPicture, picture_key
from sr_deploy.quality.results import Evaluation

SET5 = frozenset({"baby", "bird", "butterfly", "head", "woman"})
SET5_BICUBIC: Mapping[int, float] = MappingProxyType({2: 33.65, 3: 30.39, 4: 28.42})
"""Scale -> mean PSNR in dB on Y of the bicubic baseline on the standard Set5, which papers print
within 0.01 dB of this."""
_SET5_TOLERANCE = 0.02


def check_set5(results: Iterable[Evaluation], pictures: Sequence[EvalPicture], scale: int) -> str | None:
    """The warning of `set5_warning` for `scale`; bicubic is measured now where `results` lack it.

    It costs nothing on folders that do not look like Set5. Errors are those of `evaluate`.
    """
    of_scale = [result for result in results if result.protocol.scale == scale]
    if not of_scale or scale not in SET5_BICUBIC or not is_set5(picture.name for picture in pictures):
        return None
    bicubic = next((result for result in of_scale if result.model == "bicubic"), None)
    return set5_warning(
        bicubic or evaluate("bicubic", bicubic_baseline(scale), pictures, of_scale[0].protocol)
    )


def set5_warning(bicubic: Evaluation) -> str | None:
    """A warning where the pictures call themselves Set5 and `bicubic` does not score what it does there.

    None where all is well, or where there is no published figure to compare with.
    """
    protocol = bicubic.protocol
    expected, found = SET5_BICUBIC.get(protocol.scale), bicubic.mean.psnr_y
    if not is_set5(s.name for s in bicubic.scores) or expected is None or found is None:
        return None
    if protocol.border != protocol.scale or abs(found - expected) <= _SET5_TOLERANCE:
        return None
    return (
        f"bicubic x{protocol.scale} scores {found:.2f} dB here and {expected:.2f} dB on the standard Set5: these "
        "pictures differ from it (JPEG copies, or another down-scaling?), so compare no figure with published ones"
    )


def is_set5(names: Iterable[str]) -> bool:
    """Whether files of these names look like Set5."""
    return sorted(picture_key(Path(name).stem) for name in names) == sorted(SET5)
