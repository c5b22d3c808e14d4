#!/usr/bin/env bash
# torch.export cannot trace a submodule that is called with an argument named `mod`.
#
# Versions: torch 2.13.0, numpy 2.4.6; seen in November 2026.
# Expected: names of arguments are the author's own business; a module that runs also exports. `mod` is a usual name for the
#           modulation of conditioned blocks (AuraSR has it).
# Seen:     TypeError "got multiple values for argument 'mod'", because the tracer's own wrapper has a first parameter of that
#           name. The same module with another name, or with a positional argument, exports.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import logging
import warnings

import torch

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)


class Scaled(torch.nn.Module):
    def forward(self, x, mod):
        return x * mod


class Net(torch.nn.Module):
    def __init__(self, by_name):
        super().__init__()
        self.inner, self.by_name = Scaled(), by_name

    def forward(self, x):
        return self.inner(x, mod=x) if self.by_name else self.inner(x, x)


picture = torch.rand(1, 3, 8, 8)
assert torch.equal(Net(True)(picture), Net(False)(picture))
torch.export.export(Net(False), (picture,))
print("positional: exported")
try:
    torch.export.export(Net(True), (picture,))
except TypeError as error:
    print("by name:   ", error)
    assert "multiple values for argument 'mod'" in str(error)
else:
    raise SystemExit("the finding has changed")
PY
