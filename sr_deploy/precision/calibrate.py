"""What values a net computes on real pictures: how large they get, and which range int8 should stand for.

Runs the fp32 model in ONNX Runtime and looks at values inside it. It reads no files and changes no graph:
pictures come as arrays, in what the model takes. The ways to choose a range (`METHODS`) are the usual ones:
the largest magnitude; a percentile of magnitudes; the least expected squared error; and the least
Kullback-Leibler divergence between the values and their steps (Migacz 2017, "8-bit inference with TensorRT").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from sr_deploy.errors import ModelError
from sr_deploy.graph.onnx_file import copy_of, picture_io
from sr_deploy.graph.session import one_line, open_session
from sr_deploy.precision.quantise import LEVELS

Picture = npt.NDArray[np.float32]
"""[1, C, H, W] (or NHWC, as the model's record says), in the model's own value range."""
Counts = npt.NDArray[np.int64]

_BINS = 4096
_RANGE_SHARES = np.linspace(0.3, 1.0, 71)  # shares of the largest magnitude that the searches try


@dataclass(frozen=True)
class Magnitudes:
    """How often a value has which magnitude: a histogram of equal bins from 0 to the largest, or just above it."""

    largest: float
    counts: Counts

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Upper edges of the bins."""
        edges: npt.NDArray[np.float64] = np.linspace(0, self.largest, len(self.counts) + 1)[1:]
        return edges


class _MagnitudeCounter:
    """Counts magnitudes into bins whose width doubles whenever a larger one comes."""

    def __init__(self) -> None:
        self._top = 0.0
        self._largest = 0.0
        self._counts = np.zeros(_BINS, np.int64)

    def add(self, name: str, value: npt.NDArray[Any]) -> None:
        magnitudes = np.abs(value)
        largest = _largest_finite(name, magnitudes)
        self._largest = max(self._largest, largest)
        self._top = self._top or largest
        while largest > self._top:
            halved = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.concatenate([halved, np.zeros_like(halved)])
            self._top *= 2
        self._counts += np.histogram(magnitudes, bins=_BINS, range=(0.0, self._top or 1.0))[0]

    def found(self) -> Magnitudes:
        width = self._top / _BINS
        used = min(_BINS, int(np.ceil(self._largest / width))) if width else _BINS
        return Magnitudes(used * width, self._counts[:used])


def measure(
    model: onnx.ModelProto, values: Iterable[str], pictures: Sequence[Picture]
) -> dict[str, Magnitudes]:
    """The magnitudes of every one of `values` over all pictures.

    Raises ModelError where the model cannot be run or computes what is no number, naming the value.
    """
    counters = {name: _MagnitudeCounter() for name in sorted(set(values))}
    observe(model, list(counters), pictures, lambda name, value: counters[name].add(name, value))
    return {name: counter.found() for name, counter in counters.items()}


def measure_largest(
    model: onnx.ModelProto, values: Iterable[str], pictures: Sequence[Picture]
) -> dict[str, float]:
    """The largest magnitude of every one of `values` over all pictures. Raises ModelError as `measure` does."""
    names = sorted(set(values))
    found = dict.fromkeys(names, 0.0)

    def note(name: str, value: npt.NDArray[Any]) -> None:
        found[name] = max(found[name], _largest_finite(name, np.abs(value)))

    observe(model, names, pictures, note)
    return found


def _largest_finite(name: str, magnitudes: npt.NDArray[Any]) -> float:
    """The largest of `magnitudes`. Raises ModelError where it is no number."""
    largest = float(np.max(magnitudes, initial=0.0))
    if not np.isfinite(largest):
        raise ModelError(f"{name} is not finite on a picture; train or export the model again")
    return largest


def observe(
    model: onnx.ModelProto,
    values: Iterable[str],
    pictures: Sequence[Picture],
    see: Callable[[str, npt.NDArray[Any]], None],
) -> None:
    """Call `see(name, value)` for every one of `values`, picture by picture."""
    port = picture_io(model)[0]
    wanted = [name for name in values if name != port.name]
    session = open_session(_with_outputs(model, wanted), "the model")
    for picture in pictures:
        try:
            results = session.run(wanted, {port.name: picture}) if wanted else []
        except Exception as error:  # ONNX Runtime's errors share no base class but this one
            raise ModelError(
                f"ONNX Runtime cannot run the model ({one_line(error)}); export it again"
            ) from error
        for name, value in zip(wanted, results, strict=True):
            see(name, value)
        if port.name in set(values):
            see(port.name, picture)


def _with_outputs(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """`model` with `values` among its results."""
    extended = copy_of(model)
    there = {port.name for port in extended.graph.output}
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in there)
    return extended


def _largest_range(found: Magnitudes) -> float:
    return found.largest


def _percentile_range(found: Magnitudes, percent: float) -> float:
    """The magnitude that `percent` of the values do not exceed."""
    share = np.cumsum(found.counts) / max(1, int(found.counts.sum()))
    return float(found.edges[int(np.searchsorted(share, percent / 100))])


def _least_error_range(found: Magnitudes) -> float:
    """The range of the least squared error: steps inside it, clipping outside."""
    middles = found.edges - found.edges[0] / 2
    candidates = _RANGE_SHARES * found.largest
    errors = [_squared_error(middles, found.counts, top) for top in candidates]
    return float(candidates[int(np.argmin(errors))])


def _squared_error(middles: npt.NDArray[np.float64], counts: Counts, top: float) -> float:
    """Sum over all values of their squared distance to the nearest step.

    Between two steps a value lies anywhere, so within the range the error is a twelfth of a step squared.
    """
    outside = middles > top
    clipped = float((counts[outside] * (middles[outside] - top) ** 2).sum())
    return clipped + float(counts[~outside].sum()) * (top / LEVELS) ** 2 / 12


def _least_divergence_range(found: Magnitudes) -> float:
    """The range whose 128 steps tell most of what the histogram does."""
    sizes = sorted({max(1, int(share * len(found.counts))) for share in _RANGE_SHARES})
    divergences = [_divergence(found.counts, size) for size in sizes]
    return float(found.edges[sizes[int(np.argmin(divergences))] - 1])


def _divergence(counts: Counts, size: int) -> float:
    """Kullback-Leibler divergence of the first `size` bins, clipped values in the last, from 128 steps of them."""
    reference = counts[:size].astype(np.float64)
    reference[-1] += counts[size:].sum()
    step = (np.arange(size) * (LEVELS + 1)) // size
    kept = counts[:size] > 0
    mass = np.bincount(step, weights=counts[:size], minlength=LEVELS + 1)
    share = np.bincount(step, weights=kept, minlength=LEVELS + 1)
    spread = np.where(kept, (mass / np.maximum(share, 1))[step], 0.0)
    p, q = reference / max(reference.sum(), 1), spread / max(spread.sum(), 1)
    both = (p > 0) & (q > 0)
    lost = float(p[(p > 0) & (q == 0)].sum())  # what no step tells: counted as if a millionth of them did
    return float((p[both] * np.log(p[both] / q[both])).sum()) + lost * float(np.log(1e6))


METHODS: Mapping[str, Callable[[Magnitudes], float]] = MappingProxyType(
    {
        "max": _largest_range,
        "percentile-99.99": lambda found: _percentile_range(found, 99.99),
        "percentile-99.9": lambda found: _percentile_range(found, 99.9),
        "mse": _least_error_range,
        "entropy": _least_divergence_range,
    }
)
"""Name -> the range it chooses for a value."""


def choose_ranges(found: Mapping[str, Magnitudes], method: str) -> dict[str, float]:
    """The range of every value by `method`, one of `METHODS`."""
    return {name: METHODS[method](magnitudes) for name, magnitudes in found.items()}
