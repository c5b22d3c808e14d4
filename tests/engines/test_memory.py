"""Memory of the CPU engines does not grow with the number of picture sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.int8_forms import Form, net
from sr_deploy.engines.registry import open_engine

_STATUS = Path("/proc/self/statm")
_PAGE = 4096
_MOST_GROWTH = 100e6


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(_STATUS.read_text(encoding="ascii").split()[1]) * _PAGE


@pytest.mark.skipif(not _STATUS.exists(), reason="the memory of a process is read from /proc")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_thousand_pictures_of_a_thousand_sizes_take_little_memory(backend):
    """OpenVINO by itself keeps kernels for every size: 0.1 MB for each convolution."""
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    sizes = [(8 + index % 40, 8 + index // 40) for index in range(1000)]
    with open_engine(net(Form()), backend) as engine:
        engine.run(np.zeros((1, 48, 48, 3), np.uint8))
        before = resident()
        for height, width in sizes:
            engine.run(np.zeros((1, height, width, 3), np.uint8))
        assert resident() - before < _MOST_GROWTH
