"""The probe's child process: what dies, hangs or eats memory there costs one run."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import MissingRuntimeError, ModelError
from sr_deploy.graph.onnx_file import picture_io
from sr_deploy.graph.session import RefusedInputError, SessionRunner
from sr_deploy.probe import process as module
from sr_deploy.probe.probe import examine
from sr_deploy.probe.process import ProbeLimits, ProbeProcess
from sr_deploy.spec import SizeRule

WORKER = """
import os, signal, sys, time
import sr_deploy.probe.worker as worker
inner = worker._run
def run(session, request):
    height, width = request["shape"][2:]
    {body}
    return inner(session, request)
worker._run = run
worker.main()
"""


def doubling() -> onnx.ModelProto:
    """An x2 net of one operator."""
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3, "h", "w"]) for n in "xy"]
    scales = numpy_helper.from_array(np.float32([1, 1, 2, 2]), "s")
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest")],
        "g",
        ports[:1],
        ports[1:],
        [scales],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch):
    """Let every child run `body` before a run; `height` and `width` are the picture's."""

    def replace(body: str) -> None:
        code = WORKER.format(body=body)
        child = module._Child
        monkeypatch.setattr(module, "_Child", lambda command: child((sys.executable, "-c", code)))

    return replace


def runner(process: ProbeProcess) -> SessionRunner:
    model = doubling()
    return SessionRunner(process.open(model, "net"), picture_io(model)[0], "NCHW")


def picture(side: int) -> np.ndarray:
    return np.zeros((side, side, 3), np.float32)


@pytest.mark.skipif(os.name == "nt", reason="signals have no names there")
def test_a_child_that_kills_itself_is_reported_with_size_and_runtime_and_the_next_size_is_tried(
    worker,
) -> None:
    worker("if width < 40: os.kill(os.getpid(), signal.SIGFPE)")
    found = examine(doubling(), name="net")
    assert found.spec.scale == 2
    assert found.spec.size_rule.minimum > 1
    (first, *_) = [line for line in found.spec.undecided if "SIGFPE" in line]
    assert first.startswith("ONNX Runtime 1.")
    assert "ended with SIGFPE at 32x32 pixels" in first


def test_a_hang_costs_the_time_limit_and_no_more(worker) -> None:
    worker("if width == 33: time.sleep(60)")
    with ProbeProcess(ProbeLimits(seconds=0.5)) as process:
        run = runner(process)
        assert run(picture(32)).shape == (64, 64, 3)
        start = time.monotonic()
        with pytest.raises(
            RefusedInputError, match=r"took longer than 0.5 s and was stopped at 33x33 pixels"
        ):
            run(picture(33))
        assert time.monotonic() - start < 5
        assert run(picture(34)).shape == (68, 68, 3)
        assert len(process.incidents) == 1


def test_a_model_that_always_ends_the_runtime_is_given_up(worker) -> None:
    worker("os._exit(3)")
    with pytest.raises(
        ModelError, match=r"crashed or overran 12 times.*first: .*exit code 3 at 32x32.*export it again"
    ):
        examine(doubling(), name="net")


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_a_runaway_of_memory_is_refused_and_the_child_lives() -> None:
    with ProbeProcess(ProbeLimits(memory=1 << 30)) as process:
        run = runner(process)
        with pytest.raises(RefusedInputError):
            run(np.zeros((4500, 4500, 3), np.float32))
        assert process.incidents == []
        assert run(picture(32)).shape == (64, 64, 3)


def test_a_missing_runtime_is_told() -> None:
    code = "import sys; sys.modules['onnxruntime'] = None; import sr_deploy.probe.worker as w; w.main()"
    with (
        ProbeProcess(command=(sys.executable, "-c", code)) as process,
        pytest.raises(MissingRuntimeError, match="pip install"),
    ):
        process.open(doubling(), "net")


def test_the_child_and_its_files_are_gone_afterwards() -> None:
    with ProbeProcess() as process:
        runner(process)
        folder, child = Path(process._folder.name), process._child
        assert folder.is_dir()
    assert not folder.exists()
    assert child is not None
    assert child.code() is not None


def test_measured_sizes_are_those_of_a_session_in_this_process() -> None:
    found = examine(doubling(), name="net")
    assert found.spec.size_rule == SizeRule()
    assert set(found.evidence) == {"scale", "sizes", "value range", "halo"}
