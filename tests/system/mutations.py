"""Damaged files of every kind: `python -m tests.system.mutations COUNT [SEED]` reads so many of them.

Each is a small right file whose bytes were changed, cut, repeated or replaced, or, if it is JSON, whose values were
exchanged for others of wrong types. What is read without an error, and what gives one of the package's own errors in
one line, is fine. Everything else (another exception, more than ten seconds) is printed and counted. CI reads a few of
them (`test_mutations.py`).
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from sr_deploy.batch.jobs import Job, record_path
from sr_deploy.batch.ledger import Ledger
from sr_deploy.bench.gate import read_budgets
from sr_deploy.bench.result import read_result, write_result
from sr_deploy.engines.tensorrt.sidecar import read_sidecar, sidecar_path
from sr_deploy.engines.verdict import Verdict, read_verdict, store_verdict, verdict_path
from sr_deploy.errors import SrDeployError
from sr_deploy.graph.onnx_file import load_model, read_spec, save_model
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.system.output_folder import OutputFolders
from tests.bench import sample_results
from tests.conftest import build_tiny
from tests.engines.tensorrt.test_sidecar import a_record
from tests.paths import ROOT

_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    1 << 70,
    "",
    "\x1b[2J",
    "a" * 300,
    [],
    {},
    [[]],
    {"a": []},
)
"""Values that replace others in JSON."""
_SLOW = 10.0
"""Seconds that no small file may take."""
Reader = Callable[[Path], object]


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change, cut, repeat, remove or zero a few bytes."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not made:
            return bytes(made)
        at, length = rng.randrange(len(made)), rng.choice((1, 1, 2, 4, 16, 256))
        how = rng.randrange(6)
        if how == 0:
            made[at] = rng.randrange(256)
        elif how == 1:
            del made[at:]
        elif how == 2:
            made[at:at] = made[at : at + length]
        elif how == 3:
            del made[at : at + length]
        elif how == 4:
            made[at : at + length] = bytes(len(made[at : at + length]))
        else:
            made[at : at + length] = b"\xff" * len(made[at : at + length])
    return bytes(made)


def changed_json(data: bytes, rng: random.Random) -> bytes:
    """Exchange a few values, or remove or add keys; or change bytes."""
    if rng.random() < 0.3:
        return changed_bytes(data, rng)
    value = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            break
        inside, key = rng.choice(places)
        if rng.random() < 0.2 and isinstance(inside, dict):
            del inside[key]
        elif rng.random() < 0.1 and isinstance(inside, dict):
            inside[rng.choice(("", "new", "x" * 300))] = deepcopy(rng.choice(_VALUES))
        else:
            inside[key] = deepcopy(rng.choice(_VALUES))
    if rng.random() < 0.02:
        value = deepcopy(rng.choice(_VALUES))
    return json.dumps(value).encode()


def _places(value: Any) -> Any:
    """Yield (container, key) of every value inside `value`."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def kinds(folder: Path) -> dict[str, tuple[bytes, Path, Reader, Callable[[bytes, random.Random], bytes]]]:
    """Kind -> (right bytes, where a file of it lies, what reads it, how it is changed)."""
    made: dict[str, tuple[bytes, Path, Reader, Callable[[bytes, random.Random], bytes]]] = {}
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    for suffix in ("png", "jpg", "webp", "tif", "bmp"):
        path = folder / f"a.{suffix}"
        write_image(Image(pixels=pixels), path)
        made[suffix] = path.read_bytes(), path, read_image, changed_bytes
    model = folder / "net.onnx"
    save_model(build_tiny("plain").model, model)
    made["onnx"] = model.read_bytes(), model, lambda path: read_spec(load_model(path)), changed_bytes
    store_verdict(model, Verdict(passed=True, against="a", backends={"onnxruntime": "passed"}))
    verdict = verdict_path(model)
    made["verdict"] = verdict.read_bytes(), verdict, lambda path: read_verdict(model), changed_json
    sidecar = sidecar_path(folder / "net.engine")
    text = a_record().to_json().encode()
    made["sidecar"] = text, sidecar, lambda path: read_sidecar(folder / "net.engine"), changed_json
    result = folder / "result.json"
    write_result(sample_results.result(), result)
    made["result"] = result.read_bytes(), result, read_result, changed_json
    budgets = json.dumps(
        {"budget": [{"max_ms": 5, "size": "90p", "percentile": "p99"}, {"min_fps": 30}]}
    ).encode()
    made["budgets"] = budgets, folder / "budgets.json", read_budgets, changed_json
    with suppress(ImportError):
        made |= _of_training(folder)
    made["record"] = _record(folder)
    return made


def _of_training(folder: Path) -> dict[str, Any]:
    """The kinds that need torch."""
    import torch

    from sr_deploy.training.checkpoint import CheckpointInfo, load_net, save_checkpoint
    from sr_deploy.training.nets import build_net
    from sr_deploy.training.recipe import read_recipe
    from sr_deploy.training.run.state import read_state, write_state

    recipe = ROOT / "export" / "rt-x2.toml"
    checkpoint, state = folder / "a.safetensors", folder / "state.safetensors"
    net = build_net("rt", 2, {"features": 4, "depth": 1})
    save_checkpoint(
        checkpoint,
        net,
        CheckpointInfo(name="a", architecture="rt", scale=2, parameters={"features": 4, "depth": 1}),
    )
    write_state(state, {"at": {}, "run": {"step": 1}}, {"a": torch.zeros(3)})
    return {
        "recipe": (recipe.read_bytes(), folder / "recipe.toml", read_recipe, changed_bytes),
        "checkpoint": (checkpoint.read_bytes(), checkpoint, load_net, changed_bytes),
        "state": (state.read_bytes(), state, read_state, changed_bytes),
    }


def _record(folder: Path) -> tuple[bytes, Path, Reader, Callable[[bytes, random.Random], bytes]]:
    """The record of a result; it is read by deciding about the picture, which must leave the result alone."""
    source, target = folder / "in.png", folder / "out" / "in.png"
    source.write_bytes(b"the picture")
    job, folders = Job(source, target, "png"), OutputFolders()
    folders.make(target.parent)
    ledger = Ledger({}, "resume")
    ledger.begin(job, folders)
    target.write_bytes(b"the result")
    ledger.done(job)

    def read(path: Path) -> None:
        deciding = Ledger({}, "resume")
        decision = deciding.begin(job, folders)
        if decision.do == "make":
            draft = target.with_name("draft")
            draft.write_bytes(b"another result")
            with suppress(SrDeployError):
                deciding.written(job, draft)
        deciding.close()
        assert target.read_bytes() == b"the result"

    return record_path(target).read_bytes().strip(), record_path(target), read, changed_json


def check(count: int, seed: int = 0, say: Callable[[str], None] = print) -> Counter[str]:
    """Read `count` damaged files. Returns how many of each kind were read, refused, or wrong."""
    rng, counts = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        found = kinds(Path(place))
        for number in range(count):
            kind = rng.choice(list(found))
            right, path, read, change = found[kind]
            data = change(right, rng)
            path.write_bytes(data)
            began = time.monotonic()
            try:
                read(path)
                outcome = "read"
            except SrDeployError as error:
                outcome = "refused" if "\n" not in str(error).strip() else "wrong"
                if outcome == "wrong":
                    say(f"{number} {kind}: more than one line: {error}")
            except Exception:
                outcome = "wrong"
                say(f"{number} {kind}: {data[:200]!r}\n{traceback.format_exc(limit=-4)}")
            if time.monotonic() - began > _SLOW:
                outcome = "wrong"
                say(f"{number} {kind}: took {time.monotonic() - began:.1f} s")
            counts[f"{kind} {outcome}"] += 1
    return counts


if __name__ == "__main__":
    for key, number in sorted(check(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0).items()):
        print(f"{key}: {number:,}")
