"""VGG weights: from complete, truncated and broken files, and from a server (fetched once, hash checked)."""

import functools
import gc
import hashlib
import http.server
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sr_deploy.errors import InputError, MissingRuntimeError, UsageError
from sr_deploy.training.objective import vgg
from sr_deploy.training.objective.vgg import L2Pool, VGGFeatures, layer_names, load_vgg

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def first_two_convolutions():
    generator = torch.Generator().manual_seed(1)
    return {
        "features.0.weight": torch.randn(64, 3, 3, 3, generator=generator),
        "features.0.bias": torch.zeros(64),
        "features.2.weight": torch.randn(64, 64, 3, 3, generator=generator) * 0.05,
        "features.2.bias": torch.zeros(64),
    }


@pytest.fixture
def truncated(tmp_path):
    path = tmp_path / "vgg.safetensors"
    save_file(first_two_convolutions(), path)
    return path


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Serve a small VGG16 file from this machine, with an empty torch.hub cache."""
    folder = tmp_path / "served"
    folder.mkdir()
    torch.save(first_two_convolutions(), folder / "vgg.pth")
    digest = hashlib.sha256((folder / "vgg.pth").read_bytes()).hexdigest()
    name = f"vgg16-{digest[:8]}.pth"
    (folder / "vgg.pth").rename(folder / name)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv(vgg.BASE_VARIABLE, f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(vgg.FILES, "vgg16", name)
    hub = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield folder / name
    torch.hub.set_dir(hub)
    server.shutdown()
    thread.join()
    server.server_close()
    gc.collect()  # torch.hub leaves connections of failed downloads open; close them before the next test


def test_layer_numbers_are_those_of_torchvision():
    names = layer_names("vgg19")
    assert len(names) == 37
    assert [names.index(n) for n in ("conv1_1", "conv3_1", "relu3_1", "conv5_4", "pool5")] == [
        0,
        10,
        11,
        34,
        36,
    ]
    assert len(layer_names("vgg16")) == 31


def test_a_truncated_file_serves_the_layers_it_has(truncated):
    net, said = load_vgg("vgg19", ["relu1_1", "relu1_2"], truncated)
    caught = net(torch.rand(2, 3, 16, 12))
    assert {k: tuple(v.shape) for k, v in caught.items()} == {
        "relu1_1": (2, 64, 16, 12),
        "relu1_2": (2, 64, 16, 12),
    }
    assert hashlib.sha256(truncated.read_bytes()).hexdigest() in said


def test_a_layer_beyond_a_truncated_file_is_refused_by_name(truncated):
    with pytest.raises(InputError, match=r"end at conv1_2, but relu2_1 needs conv2_1"):
        load_vgg("vgg16", ["relu2_1"], truncated)


def test_a_torch_file_serves_as_well(tmp_path, truncated):
    torch.save(first_two_convolutions(), tmp_path / "vgg.pth")
    x = torch.rand(1, 3, 8, 8)
    one, _ = load_vgg("vgg16", ["relu1_2"], tmp_path / "vgg.pth")
    other, _ = load_vgg("vgg16", ["relu1_2"], truncated)
    assert torch.equal(one(x)["relu1_2"], other(x)["relu1_2"])


def test_normalising_gives_every_channel_a_mean_activation_of_one(truncated):
    net, _ = load_vgg("vgg16", ["relu1_1", "relu1_2"], truncated)
    x = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(4))
    before = net(x)["relu1_2"]
    net.normalise(x)
    after = net(x)
    means = after["relu1_1"].mean(dim=(0, 2, 3))
    loud = means > 0.99  # channels with very low activations are not raised to one
    assert loud.float().mean() > 0.8
    assert torch.allclose(means[loud], torch.ones_like(means[loud]), atol=1e-4)
    ratio = after["relu1_2"].sum(dim=(0, 2, 3)) / before.sum(dim=(0, 2, 3)).clamp(min=1e-6)
    expected = ratio[None, :, None, None] * before
    assert torch.allclose(
        after["relu1_2"], expected, rtol=1e-3, atol=1e-3
    )  # the two differ only by a scale for each channel


@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 5)])
def test_l2_pooling_is_the_weighted_root_mean_square_and_as_large_as_max_pooling(height, width):
    x = np.random.default_rng(5).standard_normal((height, width))
    even = np.pad(x[: height // 2 * 2, : width // 2 * 2], 1)
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = [
        [np.sqrt((even[i : i + 3, j : j + 3] ** 2 * weights).sum()) for j in range(0, width // 2 * 2, 2)]
        for i in range(0, height // 2 * 2, 2)
    ]
    small = torch.tensor(x)[None, None]
    got = L2Pool().double()(small)
    np.testing.assert_allclose(got[0, 0], expected, atol=1e-6)
    assert got.shape == torch.nn.functional.max_pool2d(small, 2).shape


def test_l2_pooling_has_a_slope_everywhere():
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(L2Pool().double(), (x,))
    silent = torch.zeros(1, 2, 6, 6, requires_grad=True)  # channels of zeros, which are common after ReLU
    L2Pool()(silent).sum().backward()
    assert torch.equal(silent.grad, torch.zeros_like(silent))


def test_a_vgg_pools_as_it_is_told_and_its_channels_still_normalise(truncated):
    largest, _ = load_vgg("vgg16", ["pool1"], truncated)
    net, _ = load_vgg("vgg16", ["relu1_2", "pool1"], truncated, pooling="l2")
    x = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(7))
    net.normalise(x)
    caught = net(x)
    assert net.shrinks == largest.shrinks == 2
    assert torch.allclose(caught["pool1"], L2Pool()(caught["relu1_2"]))
    with pytest.raises(UsageError, match="pooling = 'mean', expected max or l2"):
        load_vgg("vgg16", ["pool1"], truncated, pooling="mean")


def test_hooks_hold_nothing_back_between_calls(truncated):
    net, _ = load_vgg("vgg16", ["relu1_1"], truncated)
    assert torch.equal(net(torch.zeros(1, 3, 8, 8))["relu1_1"], net(torch.zeros(1, 3, 8, 8))["relu1_1"])
    assert net._captured == {}


def test_an_unknown_network_or_layer_is_refused_before_anything_is_fetched(monkeypatch):
    monkeypatch.setenv(vgg.BASE_VARIABLE, "http://127.0.0.1:1/")
    with pytest.raises(UsageError, match="vgg16 or vgg19"):
        load_vgg("vgg11", ["relu1_1"])
    with pytest.raises(UsageError, match="vgg16 has no layer 'relu3_4'"):
        load_vgg("vgg16", ["relu3_4"])


@pytest.mark.parametrize("name", ["vgg.pth", "vgg.safetensors"])
def test_a_broken_file_is_an_input_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is no VGG")
    with pytest.raises(InputError, match=name):
        load_vgg("vgg16", ["relu1_1"], tmp_path / name)


def test_a_file_that_is_not_there_and_a_file_of_something_else_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_vgg("vgg16", ["relu1_1"], tmp_path / "none.pth")
    save_file({"head.weight": torch.zeros(3)}, tmp_path / "else.safetensors")
    with pytest.raises(InputError, match=r"has no keys like features.0.weight"):
        load_vgg("vgg16", ["relu1_1"], tmp_path / "else.safetensors")


def test_weights_of_the_wrong_shape_are_refused():
    weights = {0: {"weight": torch.zeros(32, 3, 3, 3), "bias": torch.zeros(32)}}
    with pytest.raises(InputError, match="conv1_1 do not fit vgg16"):
        VGGFeatures("vgg16", ["relu1_1"], weights)


def test_a_picture_too_small_for_the_pooling_is_refused():
    weights = {
        int(k.split(".")[1]): {
            "weight": first_two_convolutions()[f"features.{k.split('.')[1]}.weight"],
            "bias": torch.zeros(64),
        }
        for k in ("features.0", "features.2")
    }
    with pytest.raises(UsageError, match="larger crop or shallower layers"):
        VGGFeatures("vgg16", ["pool1"], weights)(torch.zeros(1, 3, 1, 1))


def test_without_a_file_the_weights_are_fetched_once_and_kept(mirror):
    net, said = load_vgg("vgg16", ["relu1_1"])
    assert "hash checked" in said
    shutil.rmtree(mirror.parent)  # so that the second call must use the cache
    again, _ = load_vgg("vgg16", ["relu1_1"])
    assert torch.equal(net.features[0].weight, again.features[0].weight)


def test_a_download_that_does_not_match_its_hash_is_refused(mirror):
    mirror.write_bytes(mirror.read_bytes() + b"tampered")
    with pytest.raises(MissingRuntimeError, match="hash"):
        load_vgg("vgg16", ["relu1_1"])


def test_offline_the_error_names_the_address_and_the_place(mirror):
    mirror.unlink()
    with pytest.raises(MissingRuntimeError) as caught:
        load_vgg("vgg16", ["relu1_1"])
    message = str(caught.value)
    assert os.environ[vgg.BASE_VARIABLE] + mirror.name in message
    assert str(Path(torch.hub.get_dir()) / "checkpoints" / mirror.name) in message
    assert "--vgg FILE" in message
