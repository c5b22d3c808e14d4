"""Pictures of the dead-leaves model: what they show, and how long they take."""

import time

import numpy as np

from sr_deploy.quality import dead_leaves as module
from sr_deploy.quality.dead_leaves import dead_leaves


def painted_one_after_another(height, width, seed):
    """The same picture by the painter's algorithm: every disc over what lies below it."""
    leaves = module._draw_leaves(np.random.default_rng(seed), height, width)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[...] = leaves.colour[0]
    discs = zip(leaves.radius, leaves.centre, leaves.colour, leaves.shade, strict=True)
    next(discs)  # the background
    for radius, (y, x), colour, (down, across) in discs:
        cover = np.clip(radius - np.hypot(rows - y, columns - x) + 0.5, 0, 1)[..., None]
        leaf = colour + (down * (rows - y) + across * (columns - x))[..., None]
        canvas += cover * (leaf - canvas)
    return np.clip(np.rint(canvas), 0, 255)


def test_what_is_hidden_is_not_painted_and_the_picture_is_that_of_all_discs():
    for height, width, seed in ((90, 70, 3), (33, 120, 4), (1, 1, 5)):
        wanted = painted_one_after_another(height, width, seed)
        got = dead_leaves(height, width, seed=seed).astype(np.float32)
        assert np.abs(got - wanted).max() <= 1  # roundings of float32 at half a step
        assert (got != wanted).mean() < 1e-3


def test_the_pictures_of_a_recipe_are_drawn_in_seconds():
    began = time.process_time()
    picture = dead_leaves(768, 768)
    assert time.process_time() - began < 1.5  # 0.2 s on an EPYC of 2024; disc by disc it took 3.7 s
    assert picture.shape == (768, 768, 3)
    assert 50 < picture.std() < 100
