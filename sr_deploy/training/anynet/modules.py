"""One's own net: a module, a `torch.export` program, or the name of what makes one.

A name is `package.module:factory`, `file.py:factory`, or `file.py` where the file defines one net. Code that is named so is
run, as Python's own import runs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sr_deploy.errors import InputError, UsageError, one_line
from sr_deploy.spec import SizeRule
from sr_deploy.system.files import digest_of
from sr_deploy.training.anynet.adapting import steady_net
from sr_deploy.training.anynet.community import key_errors
from sr_deploy.training.anynet.running import measure_io, measure_range, measure_sizes
from sr_deploy.training.anynet.source import SourceNet
from sr_deploy.training.anynet.weight_files import read_weights

_REFERENCE = re.compile(r"^(?P<module>[A-Za-z_][\w.]*|.*\.py):(?P<name>[A-Za-z_][\w.]*)$")
"""A factory in a module or a file. A Windows drive letter is no module, because a path separator follows its colon."""


@dataclass(frozen=True, kw_only=True)
class StatedFacts:
    """Properties of a net that the user states, so that they are not measured. None: measure it."""

    name: str | None = None
    scale: int | None = None
    channels: int | None = None
    value_range: tuple[float, float] | None = None
    bgr: bool = False
    """The net takes and gives blue, green, red."""
    rule: SizeRule | None = None
    halo: int | Literal["measure"] | None = "measure"
    weights: Path | None = None
    """File with the weights of a net that a factory makes."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of a factory."""


def is_reference(text: str) -> bool:
    """True for the name of a factory, or for a Python file."""
    return _REFERENCE.match(text) is not None or text.endswith(".py")


def factory_source(reference: str, stated: StatedFacts) -> SourceNet:
    """Return the net that a factory makes, with the stated weights.

    Raises UsageError for a name that leads nowhere, InputError for what fails in the user's code.
    """
    net = _made(reference, stated.arguments)
    if stated.weights is not None:
        _load_weights(net, stated.weights, reference)
    return module_source(net, stated, default_name=_plain_name(reference), weights=stated.weights)


def module_source(
    module: nn.Module, stated: StatedFacts, *, default_name: str | None = None, weights: Path | None = None
) -> SourceNet:
    """Return a module as a source. Facts that are not stated are measured by running it.

    Raises InputError for a net that does not map one picture to one picture.
    """
    kind = type(module).__name__
    name = stated.name or default_name or kind
    net: nn.Module = _as_float(module)
    net = _Bgr(net) if stated.bgr else net
    channels, scale, size = measure_io(
        net, name, channels=stated.channels, scale=stated.scale, rule=stated.rule
    )
    net, notes = steady_net(net, name, (1, channels, *size))
    rule = stated.rule or measure_sizes(net, channels, scale, size)
    value_range = stated.value_range
    if value_range is None:
        value_range, more = measure_range(net, channels, scale, rule)
        notes += more
    return SourceNet(
        net=net,
        name=name,
        architecture=kind,
        scale=scale,
        channels=channels,
        value_range=value_range,
        rule=rule,
        halo=stated.halo,
        parameters=dict(stated.arguments),
        sha256=digest_of(weights) if weights else None,
        notes=tuple(notes),
    )


def program_source(path: Path, stated: StatedFacts) -> SourceNet:
    """Return the program in a .pt2 file as a source. Raises InputError for another file."""
    try:
        program = torch.export.load(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except Exception as error:  # torch raises many types for a file that is no program
        raise InputError(
            f"{path}: not a program of torch.export.save, or one of another version of torch ({one_line(error, 120)}); save it again"
        ) from error
    return exported_source(program, stated, name=path.stem, weights=path)


def exported_source(
    program: Any, stated: StatedFacts, *, name: str, weights: Path | None = None
) -> SourceNet:
    """Return a `torch.export` program as a source. Axes that it fixed stay fixed."""
    shape = _input_shape(program)
    rule = stated.rule
    if rule is None and all(isinstance(size, int) for size in shape[2:4]):
        rule = SizeRule(fixed=(int(shape[2]), int(shape[3])))
    channels = stated.channels or (int(shape[1]) if isinstance(shape[1], int) else None)
    known = StatedFacts(
        name=stated.name, scale=stated.scale, channels=channels, value_range=stated.value_range, bgr=stated.bgr,
        rule=rule, halo=stated.halo,
    )  # fmt: skip
    return module_source(program.module(), known, default_name=name, weights=weights)


def _input_shape(program: Any) -> tuple[Any, ...]:
    """Return the shape of the one input of a program; dynamic axes are symbols. Raises InputError for several inputs."""
    names = set(program.graph_signature.user_inputs)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    shapes = [tuple(node.meta["val"].shape) for node in inputs if isinstance(node.meta.get("val"), Tensor)]
    if len(shapes) != 1 or len(inputs) != 1 or len(shapes[0]) != 4:
        raise InputError(
            f"the program takes {len(inputs)} inputs, expected one picture [N, C, H, W]; export a module that takes one"
        )
    return shapes[0]


def _made(reference: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return the net that `reference` names or makes."""
    found = _named(reference)
    if isinstance(found, nn.Module):
        return found
    try:
        net = found(**arguments)
    except TypeError as error:
        takes = _signature(found)
        raise UsageError(
            f"{reference}: cannot be called so ({one_line(error, 120)}); it takes {takes}; use --arg"
        ) from error
    except (Exception, SystemExit) as error:  # the user's own code
        raise InputError(
            f"{reference}: failed ({type(error).__name__}: {one_line(error, 120)}); correct it"
        ) from error
    if not isinstance(net, nn.Module):
        raise InputError(f"{reference}: makes a {type(net).__name__}, expected a torch.nn.Module")
    return net


def _signature(found: Any) -> str:
    """Return the parameters of a factory, in brackets."""
    try:
        return str(inspect.signature(found))
    except (TypeError, ValueError):
        return "other arguments"


def _named(reference: str) -> Any:
    """Import the module or file of `reference` and return what it names."""
    match = _REFERENCE.match(reference)
    place, name = (match["module"], match["name"]) if match else (reference, None)
    module = _file_module(Path(place)) if place.endswith(".py") else _module(place)
    if name is None:
        return _only_net(module, reference)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = ", ".join(_nets(module)) or "no class of a net"
            raise UsageError(f"{reference}: {place} has no {name}; it defines {near}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{reference}: is a {type(found).__name__}, expected a factory, a class or a module")
    return found


def _module(name: str) -> Any:
    """Import a module by name; the working folder is searched too, as `python -m` does."""
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{name}: cannot be imported ({error}); check the name, or give the path of a .py file"
        ) from error
    except (Exception, SystemExit) as error:  # the user's own code, which may read a command line
        raise InputError(_import_failed(name, error)) from error
    finally:
        sys.path.remove(os.getcwd())


def _file_module(path: Path) -> Any:
    """Import a Python file under its own name; imports beside it work."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; check the path")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules.setdefault(path.stem, module)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code, which may read a command line
        raise InputError(_import_failed(path, error)) from error
    finally:
        sys.path.remove(folder)
    return module


def _import_failed(what: str | Path, error: BaseException) -> str:
    """Return the message for code that fails when it is imported."""
    if isinstance(error, SystemExit):
        return f'{what}: ends the program when it is imported (sys.exit); put what it runs under `if __name__ == "__main__":`'
    return f"{what}: failed at import ({type(error).__name__}: {one_line(error, 120)}); correct it"


def _nets(module: Any) -> list[str]:
    """Return the names of the nets that a module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]


def _only_net(module: Any, reference: str) -> Any:
    """Return the one net that a file defines. Raises UsageError for none or several."""
    names = _nets(module)
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise UsageError(f"{reference}: defines {len(names)} nets ({found}); name one as {reference}:NAME")
    return getattr(module, names[0])


def _plain_name(reference: str) -> str:
    """Return the last part of a reference, as the name of a model."""
    return reference.rpartition(":")[2] if ":" in reference else Path(reference).stem


def _load_weights(net: nn.Module, path: Path, reference: str) -> None:
    """Load weights into a net. Raises InputError that lists missing and extra ones."""
    try:
        net.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise InputError(
            f"{path}: its weights do not fit {reference} ({key_errors(error)}); check --arg and the file"
        ) from error


def _as_float(module: nn.Module) -> nn.Module:
    """Return the module on the CPU, in float32 and evaluation mode. Programs refuse `eval`, and need none."""
    net = module.cpu().float()
    try:
        return net.eval()
    except NotImplementedError:
        return net


class _Bgr(nn.Module):
    """A net of blue, green, red, for pictures of red, green, blue."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Map RGB [N, 3, H, W] to RGB [N, 3, H * scale, W * scale]."""
        result: Tensor = self.net(x.flip(1)).flip(1)
        return result
