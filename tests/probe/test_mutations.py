"""A few damaged files go through the probe; `tests.probe.mutations` probes as many as one likes."""

from __future__ import annotations

import pytest

from tests.probe.mutations import outcome


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_is_probed_or_refused_and_never_a_crash(seed: int) -> None:
    assert "\n" not in outcome(seed, seconds=5)
