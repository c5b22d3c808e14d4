"""Judge which convolutions of an int8 file a runtime computes in floating point.

A runtime says nothing when it does not compute a quantised convolution in integers. So each engine looks at what its
runtime made of the graph. Where the form of the graph explains it, the convolution is a named exception; otherwise
the engine refuses the file. TensorRT's engines are judged by `sr_deploy.engines.tensorrt.layers`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from sr_deploy.errors import ModelError

_MOST_SHOWN = 3
"""Number of convolutions that a message names."""


def named_exceptions(
    floats: Collection[str], reasons: Mapping[str, str], model: str, runtime: str
) -> dict[str, str]:
    """Return the convolutions in `floats`, each with its reason.

    `floats` are convolutions of the file `model` that are marked int8 and that `runtime` computes in floating point;
    `reasons` gives, by convolution, why that had to be expected. Raises ModelError if one has no reason.
    """
    unexplained = [name for name in floats if name not in reasons]
    if unexplained:
        shown = ", ".join(unexplained[:_MOST_SHOWN])
        more = f" and {len(unexplained) - _MOST_SHOWN} more" if len(unexplained) > _MOST_SHOWN else ""
        raise ModelError(
            f"{model} is int8, but {runtime} computes {shown}{more} in floating point; use another backend or the fp32 "
            "file, or report this"
        )
    return {name: reasons[name] for name in floats}


def summary(exceptions: Mapping[str, str], model: str, runtime: str) -> str | None:
    """Return one line for the user about `exceptions`, or None if there is nothing to say.

    A single one is the last convolution of a net, as a rule: its result becomes the picture and is not quantised.
    """
    if len(exceptions) < 2:
        return None
    name, reason = next(iter(exceptions.items()))
    return (
        f"{runtime} computes {len(exceptions)} int8 convolutions of {model} in floating point ({name}: {reason}, and "
        f"{len(exceptions) - 1} more); another backend may be faster"
    )


def to_text(exceptions: Mapping[str, str]) -> bytes:
    """Return `exceptions` as bytes for the cache, which `from_text` reads."""
    return json.dumps(dict(exceptions)).encode("utf-8")


def from_text(kept: bytes) -> dict[str, str]:
    """Read what `to_text` wrote. Raises ValueError or AttributeError for anything else."""
    return {str(name): str(reason) for name, reason in json.loads(kept).items()}
