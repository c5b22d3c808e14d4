"""Measure sr-deploy beside other runtimes: same weights, pictures, sizes, threads and precision, in one run.

    python -m benchmarks.peers --out benchmarks/results/peers.json
    python -m benchmarks.peers --check            # only check that every peer computes the same picture

Every peer gets an 8-bit picture [H, W, 3] in memory and returns one, written as a program would use it. The
time of the bare net, on a ready float tensor, is the stage "compute". Each runs in a process of its own, one
at a time, in rounds of alternating order, so that drifts of the machine affect all. Peers in bf16 and int8 stand beside
sr-deploy's own forms of the model; bare runtimes in int8 run the same file. Peers that are not
installed are left out: `pip install ncnn pnnx MNN`. torch.compile needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.pages import ROOT
from sr_deploy.bench.frames import BUNDLED, load_photographs
from sr_deploy.bench.result import (
    BenchCase,
    BenchResult,
    BenchRun,
    BenchSettings,
    BenchSubject,
    FailedRun,
    write_result,
)
from sr_deploy.bench.run.calibrate import calibrate
from sr_deploy.bench.run.environment import describe_environment
from sr_deploy.bench.run.measure import Effort
from sr_deploy.bench.run.recorder import Recorder, SampledCall
from sr_deploy.bench.run.session import BenchSession, WorkerStart
from sr_deploy.bench.run.subjects import find_entries
from sr_deploy.bench.run.sweep import LeftOut, Sweep, run_sweep
from sr_deploy.bench.run.usage import OtherProcesses
from sr_deploy.bench.run.worker import Measurer, Opening, serve
from sr_deploy.bench.sizes import Size, parse_size
from sr_deploy.bench.summary import summarise
from sr_deploy.models import find_model
from sr_deploy.models.fast import forms_of
from sr_deploy.system.cores import usable_cores
from sr_deploy.upscale import Upscaler

Tensor = np.ndarray
Parts = tuple[Callable[[np.ndarray], Any], Callable[[Any], Any], Callable[[Any], np.ndarray]]
"""Picture to tensor, tensor to tensor, tensor to picture."""


def to_tensor(frame: np.ndarray) -> Tensor:
    """Convert uint8 [H, W, 3] to float32 [1, 3, H, W], 0..1; OpenCV's way is the fastest in Python."""
    return cv2.dnn.blobFromImage(frame, 1 / 255)


def to_picture(result: Tensor) -> np.ndarray:
    planes = np.rint(np.clip(result[0], 0, 1) * 255).astype(np.uint8)
    return cv2.merge(list(planes))


def torch_net(subject: BenchSubject, compiled: bool, half: bool = False) -> Parts:
    import torch

    from sr_deploy.training.checkpoint import load_net
    from sr_deploy.training.nets.blocks import fold

    torch.set_num_threads(subject.threads or 1)
    net, _ = load_net(ROOT / "export" / "checkpoints" / f"{subject.model}.safetensors")
    ready = fold(net).eval()
    if half:
        ready = ready.to(torch.bfloat16, memory_format=torch.channels_last)
    run = torch.compile(ready) if compiled else ready

    def prepare(frame: np.ndarray) -> Any:
        tensor = torch.from_numpy(frame).permute(2, 0, 1)[None].to(torch.float32).div_(255)
        return tensor.to(torch.bfloat16) if half else tensor

    def compute(tensor: Any) -> Any:
        with torch.inference_mode():
            return run(tensor)

    def finish(result: Any) -> np.ndarray:
        with torch.inference_mode():
            bytes_ = result[0].float().clamp_(0, 1).mul_(255).round_().to(torch.uint8)
            return bytes_.permute(1, 2, 0).contiguous().numpy()

    return prepare, compute, finish


def _file_of(subject: BenchSubject) -> Path:
    """Return the file that a bare runtime opens: the int8 form of the model for int8, else the model itself."""
    model = find_model(subject.model)
    return forms_of(model)["int8"] if subject.precision == "int8" else model


def bare_onnxruntime(subject: BenchSubject) -> Parts:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = subject.threads or 1
    session = onnxruntime.InferenceSession(
        str(_file_of(subject)), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return to_tensor, lambda tensor: session.run(None, {name: tensor})[0], to_picture


def bare_openvino(subject: BenchSubject) -> Parts:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": subject.threads or 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if subject.precision == "bf16" else "f32",
    }
    compiled = openvino.Core().compile_model(str(_file_of(subject)), "CPU", settings)
    return to_tensor, lambda tensor: compiled(tensor)[0], to_picture


def opencv_dnn(subject: BenchSubject) -> Parts:
    cv2.setNumThreads(subject.threads or 1)
    net = cv2.dnn.readNetFromONNX(str(find_model(subject.model)))

    def compute(tensor: Tensor) -> Tensor:
        net.setInput(tensor)
        return net.forward()

    return to_tensor, compute, to_picture


def mnn_net(subject: BenchSubject) -> Parts:
    from MNN import expr, nn

    with tempfile.TemporaryDirectory() as folder:
        file = _mnn_file(find_model(subject.model), Path(folder))
        net = nn.load_module_from_file(str(file), [], [], runtime_manager=_mnn_runtime(subject.threads or 1))

    def compute(tensor: Tensor) -> Tensor:
        made = net.forward(expr.const(tensor, tensor.shape, expr.NCHW))
        return np.array(expr.convert(made, expr.NCHW).read())

    return to_tensor, compute, to_picture


def _mnn_runtime(threads: int) -> Any:
    from MNN import nn

    return nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": threads},))


def _mnn_file(model: Path, folder: Path) -> Path:
    """Convert `model`. MNN's converter calls `pip`, so it finds one here that does nothing."""
    shadow = folder / "bin"
    shadow.mkdir()
    for name in ("pip", "pip3"):
        (shadow / name).write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
        (shadow / name).chmod(0o755)
    file = folder / "net.mnn"
    command = [sys.executable, "-m", "MNN.tools.mnnconvert", "-f", "ONNX", "--modelFile", str(model)]
    subprocess.run(
        [*command, "--MNNModel", str(file), "--bizCode", "sr-deploy"],
        env={**os.environ, "PATH": f"{shadow}{os.pathsep}{os.environ['PATH']}"},
        check=True,
        capture_output=True,
    )
    return file


def ncnn_net(subject: BenchSubject) -> Parts:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = subject.threads or 1
    net.opt.use_bf16_storage = subject.precision == "bf16"
    with tempfile.TemporaryDirectory() as folder:
        param, weights = _ncnn_files(find_model(subject.model), Path(folder))
        net.load_param(str(param))
        net.load_model(str(weights))

    def compute(tensor: Tensor) -> Tensor:
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(tensor[0]))
            return np.array(extractor.extract("out0")[1])[None]

    return to_tensor, compute, to_picture


def _ncnn_files(model: Path, folder: Path) -> tuple[Path, Path]:
    import pnnx

    (folder / "net.onnx").write_bytes(model.read_bytes())
    program = Path(pnnx.__file__).parent / "pnnx"
    shapes = ["inputshape=[1,3,180,320]", "inputshape2=[1,3,90,160]", "fp16=0"]
    subprocess.run(
        [str(program) if program.is_file() else "pnnx", "net.onnx", *shapes],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "net.ncnn.param", folder / "net.ncnn.bin"


def classic(subject: BenchSubject, filter_: int) -> Parts:
    cv2.setNumThreads(subject.threads or 1)
    scale = subject.scale

    def compute(frame: np.ndarray) -> np.ndarray:
        return cv2.resize(frame, None, fx=scale, fy=scale, interpolation=filter_)

    return lambda frame: frame, compute, lambda result: result


PEERS: dict[str, tuple[str, str, Callable[[BenchSubject], Parts]]] = {
    "torch eager": ("torch", "fp32", partial(torch_net, compiled=False)),
    "torch.compile": ("torch", "fp32", partial(torch_net, compiled=True)),
    "bare ONNX Runtime": ("onnxruntime", "fp32", bare_onnxruntime),
    "bare OpenVINO": ("openvino", "fp32", bare_openvino),
    "OpenCV DNN": ("cv2", "fp32", opencv_dnn),
    "ncnn": ("ncnn", "fp32", ncnn_net),
    "MNN": ("MNN", "fp32", mnn_net),
    "torch.compile, bf16": ("torch", "bf16", partial(torch_net, compiled=True, half=True)),
    "bare OpenVINO, bf16": ("openvino", "bf16", bare_openvino),
    "ncnn, bf16": ("ncnn", "bf16", ncnn_net),
    "bare ONNX Runtime, int8": ("onnxruntime", "int8", bare_onnxruntime),
    "bare OpenVINO, int8": ("openvino", "int8", bare_openvino),
    "bicubic": ("cv2", "uint8", partial(classic, filter_=cv2.INTER_CUBIC)),
    "Lanczos": ("cv2", "uint8", partial(classic, filter_=cv2.INTER_LANCZOS4)),
}
"""Name -> the module it needs, its precision, and what makes its parts."""


_APART = {"fp32": 1, "bf16": 4, "int8": 10}
"""Precision -> most 8-bit steps between the pictures of a peer and of sr-deploy in fp32."""


class Peer:
    """The object that a worker measures with."""

    def __init__(self, opening: Opening) -> None:
        self._recorder = Recorder(opening.subject)
        self._photographs = load_photographs()
        make = PEERS[opening.subject.runner][2]
        self._parts = self._recorder.time_opening(lambda: make(opening.subject))

    def measure(self, case: BenchCase, mode: str, throughput: bool, effort: Effort) -> BenchRun:
        if mode != "end-to-end" or throughput or case.batch > 1:
            raise ValueError("peers are measured end to end, one picture at a time")
        frame = self._photographs.frame(case.width, case.height)
        prepare, compute, finish = self._parts
        stages: dict[str, list[float]] = {"prepare": [], "compute": [], "finish": []}
        clock = time.perf_counter

        def call() -> None:
            start = clock()
            tensor = prepare(frame)
            ready = clock()
            result = compute(tensor)
            computed = clock()
            finish(result)
            stages["prepare"].append(ready - start)
            stages["compute"].append(computed - ready)
            stages["finish"].append(clock() - computed)

        return self._recorder.record(case, mode, throughput, effort, [SampledCall(call=call, stages=stages)])


def open_peer(opening: Opening) -> Measurer:
    return Peer(opening)


def our_entries(model: str, threads: int) -> list[WorkerStart]:
    """Return sr-deploy in fp32 on every backend, and in its fast forms on those that compute in their precision."""
    found = find_entries([model], threads=[threads])
    backends = [entry.subject.backend for entry in found]
    for precision, form in forms_of(find_model(model)).items():
        on = backends
        if precision == "bf16":  # ONNX Runtime computes no convolution in bf16 on a CPU
            on = [backend for backend in backends if backend != "onnxruntime"]
        found += find_entries([str(form)], backends=on, threads=[threads]) if on else []
    return found


def peer_entries(base: BenchSubject, path: Path, only: list[str]) -> list[WorkerStart]:
    entries = []
    for name, (module, precision, _) in PEERS.items():
        if only and name not in only:
            continue
        if find_spec(module) is None or (module == "ncnn" and find_spec("pnnx") is None):
            print(f"left out: {name}, which is not installed", flush=True)
            continue
        changes = {"runner": name, "backend": module, "precision": precision}
        if precision == "uint8":
            changes |= {"model": name, "parameters": None, "multiply_adds_per_pixel": None, "quality": {}}
        subject = BenchSubject(**{**base.__dict__, **changes})
        entries.append(
            WorkerStart(
                subject=subject, path=path, command=(sys.executable, "-m", "benchmarks.peers", "--worker")
            )
        )
    return entries


def check(model: str, entries: list[WorkerStart]) -> None:
    """Print how far the picture of each net is from sr-deploy's in fp32, in 8-bit steps. SystemExit beyond `_APART`."""
    frame = load_photographs().frame(101, 67)
    with Upscaler.open(model, backend="onnxruntime") as upscaler:
        expected = upscaler.upscale_pixels(frame)
    with tempfile.TemporaryDirectory() as folder:
        for entry in entries:
            name, target = entry.subject.runner, Path(folder) / "picture.npy"
            command = [
                sys.executable,
                "-m",
                "benchmarks.peers",
                "--model",
                model,
                "--picture",
                name,
                str(target),
            ]
            subprocess.run(command, check=True)
            picture = np.load(target)
            apart = int(np.abs(picture.astype(int) - expected).max())
            print(f"{name}: at most {apart} of 255 apart from sr-deploy", flush=True)
            if apart > _APART.get(entry.subject.precision, 255):
                raise SystemExit(f"{name} computes something else")


def make_picture(model: str, name: str, target: Path) -> None:
    subject = BenchSubject(
        model=model, backend="", precision="fp32", scale=4, runner=name, threads=usable_cores()
    )
    prepare, compute, finish = PEERS[name][2](subject)
    np.save(target, finish(compute(prepare(load_photographs().frame(101, 67)))))


def parse_sizes(text: str) -> tuple[Size, ...]:
    """Sizes between commas: "360p,1080p,637x481,512" (512 is a square). Raises UsageError for anything else."""
    return tuple(dict.fromkeys(parse_size(part) for part in text.split(",")))


def measure(args: argparse.Namespace) -> BenchResult:
    others = OtherProcesses()
    calibration = calibrate(args.threads)
    environment = describe_environment(others.share())
    ours = [] if args.only else our_entries(args.model, args.threads)
    base = find_entries([args.model], backends=["onnxruntime"], threads=[args.threads])[0]
    entries = [*ours, *peer_entries(base.subject, base.path, args.only)]
    check(args.model, [entry for entry in entries if entry.subject.runner in PEERS])
    effort = Effort(samples=5, seconds=args.seconds, most_seconds=args.seconds, warm_up_seconds=args.seconds)
    cases = [
        BenchCase(label=s.label, width=s.width, height=s.height, tile="whole")
        for s in parse_sizes(args.sizes)
    ]
    runs, failures = list[BenchRun](), list[FailedRun]()
    with BenchSession() as session:
        for step in run_sweep(
            session, Sweep(entries=entries, cases=cases, effort=effort, rounds=args.rounds, fresh=False)
        ):
            if isinstance(step, BenchRun):
                runs.append(to_nanoseconds(step))
                _tell(step)
            elif not isinstance(step, LeftOut):
                failures.append(step)
                print(f"failed: {step.subject.name} {step.case.label}: {step.error}", flush=True)
    return BenchResult(
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        environment=environment,
        calibration=calibration,
        settings=BenchSettings(
            min_samples=effort.samples,
            min_seconds=args.seconds,
            max_seconds=args.seconds,
            images=(BUNDLED.name,),
            image_sha256=load_photographs().sha256,
        ),
        runs=tuple(runs),
        failures=tuple(failures),
    )


def to_nanoseconds(run: BenchRun) -> BenchRun:
    """Round the times of `run` to the resolution of the clock, which saves a third of the bytes of the file."""
    stages = {name: _rounded(seconds) for name, seconds in run.stages.items()}
    times = {name: _rounded(getattr(run, name)) for name in ("samples", "cpu", "warm_up", "pace")}
    return replace(run, stages=stages, **times)


def _rounded(seconds: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 9) for value in seconds)


def _tell(run: BenchRun) -> None:
    milliseconds, net = summarise(run).p50 * 1000, float(np.median(run.stages["compute"])) * 1000
    print(f"{run.case.label} {run.subject.name}: {milliseconds:.2f} ms, the net {net:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="rt-x4")
    parser.add_argument("--sizes", default="180p,270p")
    parser.add_argument("--threads", type=int, default=usable_cores() or 1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0, help="a round")
    parser.add_argument("--only", action="append", default=[], choices=list(PEERS))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(open_peer)
    elif args.picture:
        make_picture(args.model, args.picture[0], Path(args.picture[1]))
    elif args.check:
        base = find_entries([args.model], backends=["onnxruntime"])[0]
        check(args.model, peer_entries(base.subject, base.path, args.only))
    else:
        result = measure(args)
        if args.out:
            write_result(result, args.out)


if __name__ == "__main__":
    main()
