"""Steps written as text mean what they say, and everything else is refused with the choices."""

import cv2
import numpy as np
import pytest

from sr_deploy.errors import UsageError
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.quality.degradations.chain import describe_steps, parse
from sr_deploy.quality.degradations.compress import FORMATS


@pytest.fixture(scope="module")
def large():
    return dead_leaves(256, 256, seed=2)


def test_jpeg_equals_opencv_on_the_picture_that_bicubic_makes(large):
    small = imresize(large, 0.25)
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    theirs = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    ours = parse("jpeg:75").small(large, 4, "a.png")
    assert np.array_equal(ours, theirs)


def test_chance_depends_on_the_name_alone(large):
    steps = parse("noise:5,jpeg:75")
    assert np.array_equal(steps.small(large, 4, "a.png"), steps.small(large, 4, "a.png"))
    assert not np.array_equal(steps.small(large, 4, "a.png"), steps.small(large, 4, "b.png"))


def test_a_kernel_may_come_first(large):
    assert not np.array_equal(
        parse("lanczos,jpeg:90").small(large, 4, "a"), parse("jpeg:90").small(large, 4, "a")
    )
    assert parse("area").small(large, 4, "a").shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no step"), ("bicubic", "no step"), ("smear:3", "'smear:3'"), ("jpeg", "'jpeg' needs a number from 1 to 100"),
        ("jpeg:0", "1 to 100"), ("jpeg:x", "1 to 100"), ("noise:nan", "0 to 64"), ("noise:5;jpeg:75", "0 to 64"),
        ("jpeg:75,lanczos", "'lanczos'"), ("dither:1", "2 to 16"),
    ],
)  # fmt: skip
def test_other_text_is_refused(text, part):
    with pytest.raises(UsageError, match="--degrade") as error:
        parse(text)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_every_step_of_the_list_works(large):
    lines = describe_steps().splitlines()
    assert set(FORMATS) <= {line.split(":")[0] for line in lines}
    for line in lines:
        assert parse(line.split(":")[0] + ":4").small(large, 4, "a").shape == (64, 64, 3)
