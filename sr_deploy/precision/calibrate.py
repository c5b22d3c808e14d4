"""Measure how large the values inside a model get on pictures, and choose the ranges for int8.

The fp32 model is run in ONNX Runtime, and values inside it are observed. No file is read and no graph is
changed: pictures come as float32 arrays, as the model takes them: [1, C, H, W] or [1, H, W, C], by the
layout in its spec, in its own value range. `METHODS` are the usual ways to choose a range: the
largest magnitude; a percentile of the magnitudes; the least expected squared error; and the least
Kullback-Leibler divergence between the values and their quantised form (Migacz 2017, "8-bit inference with
TensorRT").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx

from sr_deploy.errors import ModelError, one_line
from sr_deploy.graph.onnx_file import copy_of, picture_io
from sr_deploy.graph.session import open_session
from sr_deploy.precision.quantise import LEVELS
from sr_deploy.system.arrays import AnyArray, DoubleArray, FloatArray

Counts = npt.NDArray[np.int64]
"""Number of values in each bin of a histogram."""

_BINS = 4096
"""Number of bins of a histogram: 32 for each of the 128 magnitudes of int8. It is even, so bins can be merged
in pairs."""
_RANGE_SHARES = np.linspace(0.3, 1.0, 71)
"""Shares of the largest magnitude that the searches try as a range, in steps of 0.01."""


@dataclass(frozen=True)
class Magnitudes:
    """Histogram of the magnitudes of a value, in equal bins from 0 to just above the largest."""

    largest: float
    """Upper edge of the last bin. It exceeds the largest magnitude by less than one bin."""
    counts: Counts
    """Number of magnitudes in each bin."""

    @property
    def edges(self) -> DoubleArray:
        """Upper edges of the bins."""
        edges: DoubleArray = np.linspace(0, self.largest, len(self.counts) + 1)[1:]
        return edges


class _MagnitudeCounter:
    """Counts magnitudes into bins whose width doubles when a larger magnitude comes.

    So the pictures are run once, without knowing the largest magnitude beforehand.
    """

    def __init__(self) -> None:
        self._top = 0.0
        self._largest = 0.0
        self._counts = np.zeros(_BINS, np.int64)

    def add(self, name: str, value: AnyArray) -> None:
        """Count the magnitudes of `value`, of any shape. Raises ModelError if one is NaN or infinite."""
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
        """Return the histogram without the empty bins at its upper end."""
        width = self._top / _BINS
        used = min(_BINS, int(np.ceil(self._largest / width))) if width else _BINS
        return Magnitudes(used * width, self._counts[:used])


def measure(
    model: onnx.ModelProto, values: Iterable[str], pictures: Sequence[FloatArray]
) -> dict[str, Magnitudes]:
    """Measure the magnitudes of each of `values` over all pictures.

    Raises ModelError if the model cannot be run, or if a value is NaN or infinite, with the name of the
    value.
    """
    counters = {name: _MagnitudeCounter() for name in sorted(set(values))}
    observe(model, list(counters), pictures, lambda name, value: counters[name].add(name, value))
    return {name: counter.found() for name, counter in counters.items()}


def measure_largest(
    model: onnx.ModelProto, values: Iterable[str], pictures: Sequence[FloatArray]
) -> dict[str, float]:
    """Measure the largest magnitude of each of `values` over all pictures.

    Raises ModelError as `measure` does.
    """
    names = sorted(set(values))
    found = dict.fromkeys(names, 0.0)

    def note(name: str, value: AnyArray) -> None:
        found[name] = max(found[name], _largest_finite(name, np.abs(value)))

    observe(model, names, pictures, note)
    return found


def _largest_finite(name: str, magnitudes: AnyArray) -> float:
    """Return the largest of `magnitudes`, 0 for none. Raises ModelError if it is NaN or infinite."""
    largest = float(np.max(magnitudes, initial=0.0))
    if not np.isfinite(largest):
        raise ModelError(f"the value {name} is NaN or infinite on a picture; train or export the model again")
    return largest


def observe(
    model: onnx.ModelProto,
    values: Iterable[str],
    pictures: Sequence[FloatArray],
    see: Callable[[str, AnyArray], None],
) -> None:
    """Call `see(name, value)` for each of `values`, picture by picture, in the calling thread.

    The model's input may be among them. Raises ModelError if ONNX Runtime cannot run the model.
    """
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
    """Return a copy of `model` that has `values` among its outputs."""
    extended = copy_of(model)
    there = {port.name for port in extended.graph.output}
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in there)
    return extended


def _largest_range(found: Magnitudes) -> float:
    """Take the largest magnitude: nothing is clipped."""
    return found.largest


def _percentile_range(found: Magnitudes, percent: float) -> float:
    """Take the magnitude that `percent` of the values do not exceed."""
    share = np.cumsum(found.counts) / max(1, int(found.counts.sum()))
    return float(found.edges[int(np.searchsorted(share, percent / 100))])


def _least_error_range(found: Magnitudes) -> float:
    """Take the range with the least squared error, from rounding inside it and clipping outside."""
    middles = found.edges - found.edges[0] / 2
    candidates = _RANGE_SHARES * found.largest
    errors = [_squared_error(middles, found.counts, top) for top in candidates]
    return float(candidates[int(np.argmin(errors))])


def relative_error(found: Magnitudes, top: float) -> float:
    """Return the squared error of a value if `top` is the last of 127 steps, as a share of its own squares."""
    middles = found.edges - found.edges[0] / 2
    squares = float((found.counts * middles**2).sum())
    return _squared_error(middles, found.counts, top) / max(squares, 1e-20)


def _squared_error(middles: DoubleArray, counts: Counts, top: float) -> float:
    """Sum the squared error of all values if `top` is the last of 127 steps. Outside the range a value is off
    by its distance to `top`. Inside, the rounding error is taken as evenly spread over one step of width w,
    and its mean square is then w**2 / 12."""
    outside = middles > top
    clipped = float((counts[outside] * (middles[outside] - top) ** 2).sum())
    return clipped + float(counts[~outside].sum()) * (top / LEVELS) ** 2 / 12


def _least_divergence_range(found: Magnitudes) -> float:
    """Take the range whose 128 levels, 0 to 127, keep most of the histogram's information."""
    sizes = sorted({max(1, int(share * len(found.counts))) for share in _RANGE_SHARES})
    divergences = [_divergence(found.counts, size) for size in sizes]
    return float(found.edges[sizes[int(np.argmin(divergences))] - 1])


def _divergence(counts: Counts, size: int) -> float:
    """Return the Kullback-Leibler divergence in nats of the first `size` bins from their 128 levels.

    Clipped values count into the last of the bins. A level spreads its count evenly over the bins it covers
    that are not empty, as in Migacz 2017.
    """
    reference = counts[:size].astype(np.float64)
    reference[-1] += counts[size:].sum()
    # bin -> level: the bins are divided over the levels as evenly as whole numbers allow
    step = (np.arange(size) * (LEVELS + 1)) // size
    kept = counts[:size] > 0
    mass = np.bincount(step, weights=counts[:size], minlength=LEVELS + 1)
    share = np.bincount(step, weights=kept, minlength=LEVELS + 1)
    spread = np.where(kept, (mass / np.maximum(share, 1))[step], 0.0)
    p, q = reference / max(reference.sum(), 1), spread / max(spread.sum(), 1)
    both = (p > 0) & (q > 0)
    # mass in bins that no level covers would make the divergence infinite: count a millionth as covered
    lost = float(p[(p > 0) & (q == 0)].sum())
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
"""Name of a method -> function that chooses the range of a value from its magnitudes."""


def choose_ranges(found: Mapping[str, Magnitudes], method: str) -> dict[str, float]:
    """Choose the range of every value with `method`, one of `METHODS`."""
    return {name: METHODS[method](magnitudes) for name, magnitudes in found.items()}
