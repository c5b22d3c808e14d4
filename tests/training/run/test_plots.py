"""The pictures that a run draws for people."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from sr_deploy.training.data.pictures import TrainingPair
from sr_deploy.training.run.plots import plot_curves
from sr_deploy.training.run.validate import centre_crop, crop_sheet
from tests.training.conftest import picture


def rows():
    for phase, terms in ((1, {"l1": 0.1}), (2, {"l1": 0.1, "gram": 0.2})):
        for step in (50, 100, 200):
            yield {
                "phase": phase, "step": step, "steps": step, "seconds": 60.0 * phase + step / 10,
                "learning_rate": 1e-3, "loss": 1 / step, **terms, "psnr": 28 + step / 100, "validation_loss": 0.3,
            }  # fmt: skip


def test_curves_have_a_panel_for_each_phase_and_term_and_the_line_of_bicubic(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )  # fmt: skip
    plot_curves(list(rows()), tmp_path / "curves.png", {"1": 27.5, "2": 28.4}, {1: [(1, 1e-5), (70, 2e-3)]})
    (figure,) = drawn
    panels = [axes for axes in figure.axes if axes.axison]
    named = [axes.get_ylabel() for axes in panels if axes.get_ylabel()]
    assert named.count("loss") == named.count("PSNR, held out (dB)") == named.count("learning rate") == 2
    assert (named.count("l1"), named.count("gram")) == (1, 1)  # the only term of a phase is its loss
    labels = {line.get_label() for axes in panels for line in axes.lines}
    assert {"bicubic 27.50 dB", "bicubic 28.40 dB", "net 30.00 dB", "held out"} <= labels
    assert [axes.get_title() for axes in panels if axes.get_title()] == ["phase 1", "phase 2"]
    assert [axes.get_xlabel() for axes in panels].count("minutes") == 2
    assert {axes.get_xlim() for axes in panels} == {(0.0, 204.0)}
    (rates,) = [axes.lines[0].get_xydata() for axes in panels if axes.get_ylabel() == "learning rate"][:1]
    assert rates.max(axis=0).tolist() == [200, 2e-3]
    assert cv2.imread(str(tmp_path / "curves.png")).shape[1] > 500


class Repeat(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize("side", [192, 40])
def test_crops_are_labelled_and_stand_side_by_side(side, monkeypatch):
    texts = []
    put = cv2.putText
    monkeypatch.setattr(cv2, "putText", lambda cell, text, *a: (texts.append(text), put(cell, text, *a))[1])
    large = picture(0, 80, 80)
    pairs = [TrainingPair(name, large, large[::2, ::2].copy()) for name in ("one.png", "zwölf.png")]
    sheet = crop_sheet(Repeat(), [centre_crop(pair, 2, side) for pair in pairs], 2, "mine-x2")
    shown = min(side, 80)
    assert sheet.shape == (2 * (shown + 24), 4 * (shown + 8), 3)
    assert texts[0] == f"small {shown // 2}x{shown // 2}"
    assert texts[1].startswith("bicubic ")
    assert texts[1].endswith(" dB")
    assert texts[2].startswith("mine-x2 ")
    assert texts[3] == "original one.png"
    assert texts[7] == "original zw?lf.png"
    top = (80 - shown) // 2
    first = sheet[20 : 20 + shown, 4 : 4 + shown]
    small = pairs[0].small[top // 2 : (top + shown) // 2, top // 2 : (top + shown) // 2]
    assert np.array_equal(first[::2, ::2], small)
    last = sheet[20 : 20 + shown, 3 * (shown + 8) + 4 : 3 * (shown + 8) + 4 + shown]
    assert np.array_equal(last, large[top : top + shown, top : top + shown])
