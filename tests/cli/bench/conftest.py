"""What all tests of `sr-deploy bench` share."""

from __future__ import annotations

from functools import partial

import pytest

from sr_deploy.bench.run import calibrate


@pytest.fixture(autouse=True)
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is measured for real in every run, but briefly: most of a small run's time would go there."""
    monkeypatch.setattr(calibrate, "_COPY_BYTES", 1 << 20)
    monkeypatch.setattr(calibrate, "_SIDE", 128)
    monkeypatch.setattr("sr_deploy.cli.bench.run.calibrate", partial(calibrate.calibrate, seconds=0.01))
