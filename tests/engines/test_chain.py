"""Chains: several models, one after the other, as one engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sr_deploy.cli import main
from sr_deploy.engines.chain import ChainEngine, chain_spec
from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.engines.registry import open_engine
from sr_deploy.errors import ModelError, UsageError
from sr_deploy.graph.onnx_file import save_model
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.models import find_chain, read_spec
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.system.chains import chain_digest, chain_files, split_chain
from sr_deploy.upscale import Upscaler


def invoke(*arguments: str) -> Result:
    """Call the command line in this process."""
    return CliRunner().invoke(main, list(arguments))


PICTURE = np.random.default_rng(2).integers(0, 256, (37, 45, 3), np.uint8)


@pytest.fixture
def models(tiny, tmp_path) -> tuple[Path, Path]:
    """A restoration net (scale 1, halo 3) and an upscaler (x2, halo 2)."""
    for name in ("as-is", "plain"):
        save_model(tiny(name).model, tmp_path / f"{name}.onnx")
    return tmp_path / "as-is.onnx", tmp_path / "plain.onnx"


def one_by_one(models, picture: np.ndarray) -> np.ndarray:
    for model in models:
        with Upscaler.open(model, backend="onnxruntime") as upscaler:
            picture = upscaler.upscale_pixels(picture)
    return picture


def test_a_chain_gives_the_picture_of_one_run_after_the_other_whole_and_tiled(models):
    expected = one_by_one(models, PICTURE)
    for tile in (None, 16):
        with Upscaler.open("+".join(map(str, models)), backend="onnxruntime", tile=tile) as upscaler:
            assert (upscaler.spec.scale, upscaler.spec.halo) == (2, 5)
            assert upscaler.engine.backend == "onnxruntime"
            np.testing.assert_array_equal(upscaler.upscale_pixels(PICTURE), expected)
    floats = PICTURE / np.float32(255)
    with Upscaler.open("+".join(map(str, models)), backend="openvino") as upscaler:
        assert np.abs(upscaler.upscale_pixels(floats) * 255 - expected).max() < 3


def test_halos_add_up_in_input_pixels_and_steps_meet():
    def spec(scale: int, halo: int | None, **rule: int) -> ModelSpec:
        return ModelSpec(name=f"x{scale}", scale=scale, halo=halo, size_rule=SizeRule(**rule))

    chain = chain_spec([spec(1, 7), spec(2, 3), spec(4, 5)])
    assert (chain.scale, chain.halo, chain.name) == (8, 7 + 3 + 3, "x1+x2+x4")
    assert chain_spec([spec(2, 3), spec(2, None)]).halo is None
    assert chain_spec([spec(2, 3, multiple_of=4), spec(1, 1, multiple_of=6)]).size_rule == SizeRule(
        multiple_of=4, tile_step=12
    )
    assert chain_spec([spec(2, 3), spec(1, 1, multiple_of=2)]).size_rule == SizeRule()
    with pytest.raises(UsageError, match="x32 together"):
        chain_spec([spec(8, 1), spec(4, 1)])
    with pytest.raises(UsageError, match="6x4 pixels only"):
        chain_spec([spec(2, 1), spec(2, 1).with_(size_rule=SizeRule(fixed=(4, 6)))])
    with pytest.raises(UsageError, match="1 channels and x2 3"):
        chain_spec([spec(2, 1), spec(1, 1).with_(channels=1)])


class Grid(NearestEngine):
    """An engine that takes multiples of four only."""

    def __init__(self) -> None:
        super().__init__(1)
        self.spec = self.spec.with_(size_rule=SizeRule(multiple_of=4))


def test_the_picture_between_two_models_is_padded_as_the_next_one_asks():
    with ChainEngine([NearestEngine(3), Grid()]) as chain:
        assert Upscaler(chain).plan(5, 7).read_width == 7
        np.testing.assert_array_equal(
            Upscaler(chain).upscale_pixels(PICTURE), PICTURE.repeat(3, axis=0).repeat(3, axis=1)
        )
        for tile in (8, 13):
            np.testing.assert_array_equal(
                Upscaler(chain, tile=tile).upscale_pixels(PICTURE),
                PICTURE.repeat(3, axis=0).repeat(3, axis=1),
            )


def test_names_are_split_where_models_exist():
    def split(text: str, *names: str) -> list[str]:
        return split_chain(text, lambda name: name in names)

    assert split("a+b", "a", "b") == ["a", "b"]
    assert split("a+b", "a+b", "a", "b") == ["a+b"]
    assert split("a+b+c", "a+b", "c") == ["a+b", "c"]
    assert split("a+z", "a") == ["a+z"]


def test_a_chain_has_a_file_list_a_digest_and_a_spec(models):
    first, second = models
    path = find_chain(f"{first}+{second}")
    assert chain_files(path) == [first.resolve(), second.resolve()]
    assert len({chain_digest(path), chain_digest(first), chain_digest(find_chain(f"{second}+{first}"))}) == 3
    spec = read_spec(path)
    assert spec is not None
    assert (spec.scale, spec.halo) == (2, 5)
    assert chain_files(find_chain("rt-x2+rt-x4"))[1].stem == "rt-x4"
    with pytest.raises(ModelError, match="nothing"):
        find_chain("rt-x2+nothing")
    with pytest.raises(ModelError, match="no model file"):
        open_engine(Path("nothing+nowhere.onnx"), "onnxruntime")


def test_the_command_line_chains_models_on_a_folder_and_knows_a_result_that_is_up_to_date(models, tmp_path):
    (tmp_path / "in").mkdir()
    write_image(Image(pixels=PICTURE), tmp_path / "in" / "a.png")
    options = [option for model in models for option in ("--model", str(model))]
    command = [
        "upscale",
        str(tmp_path / "in"),
        "-o",
        str(tmp_path / "out"),
        *options,
        "--backend",
        "onnxruntime",
    ]
    assert invoke(*command).exit_code == 0
    result = read_image(tmp_path / "out" / "a.png").pixels
    np.testing.assert_array_equal(result, one_by_one(models, PICTURE))
    written = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    assert invoke(*command).exit_code == 0
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == written


def test_verify_takes_a_chain(models, tmp_path):
    (tmp_path / "photos").mkdir()
    write_image(Image(pixels=dead_leaves(120, 120, seed=1)), tmp_path / "photos" / "a.png")
    name = "+".join(map(str, models))
    found = invoke(
        "verify", name, "--data", str(tmp_path / "photos"), "--backend", "onnxruntime", "--no-record"
    )
    assert found.exit_code == 0, found.output
    assert "tiled" in found.output


def test_bench_takes_a_chain(models):
    from sr_deploy.bench.run.subjects import find_entries

    (entry,) = find_entries(["+".join(map(str, models))], backends=["onnxruntime"])
    assert entry.subject.model == "as-is+plain"
    assert entry.subject.scale == 2
    with pytest.raises(UsageError, match="leave --precision out"):
        find_entries(["+".join(map(str, models))], backends=["onnxruntime"], precisions=["fp16"])
