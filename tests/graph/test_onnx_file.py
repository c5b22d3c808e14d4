"""Model files are read whole or refused in one clear sentence, and written whole or not at all."""

from __future__ import annotations

import os
import stat

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import ModelError, OutputError
from sr_deploy.graph.onnx_file import (
    load_model,
    parse_model,
    picture_io,
    read_spec,
    require_embedded,
    require_spec,
    save_model,
    write_spec,
)
from sr_deploy.spec import METADATA_KEY


def test_a_model_comes_back_from_its_file_as_it_was(tiny, tmp_path):
    plain, path = tiny("plain"), tmp_path / "größer 漢字.onnx"
    save_model(plain.model, path)
    assert load_model(path) == plain.model
    assert read_spec(load_model(path)) == plain.spec


def test_the_same_model_is_the_same_bytes(tiny, tmp_path):
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    save_model(tiny("plain").model, paths[0])
    again = tiny("plain")
    write_spec(write_spec(again.model, again.spec.with_(halo=9)), again.spec)
    save_model(again.model, paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_writing_a_record_replaces_the_old_one_and_keeps_what_is_not_ours(tiny):
    plain = tiny("plain")
    plain.model.metadata_props.append(onnx.StringStringEntryProto(key="author", value="someone"))
    write_spec(plain.model, plain.spec.with_(halo=9))
    props = {entry.key: entry.value for entry in plain.model.metadata_props}
    assert len(plain.model.metadata_props) == 2
    assert props["author"] == "someone"
    assert read_spec(plain.model).halo == 9


def test_a_model_without_a_record_is_sent_to_stamp(tiny):
    model = tiny("plain").model
    del model.metadata_props[:]
    assert read_spec(model) is None
    with pytest.raises(ModelError, match=r"net.onnx has no sr_deploy spec.*sr-deploy stamp"):
        require_spec(model, "net.onnx")


def test_a_record_of_another_schema_is_an_error_not_a_guess(tiny):
    model = tiny("plain").model
    entry = next(e for e in model.metadata_props if e.key == METADATA_KEY)
    entry.value = entry.value.replace('"schema":1', '"schema":77')
    with pytest.raises(ModelError, match="schema 77"):
        read_spec(model)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"hello, I am a text file", "is not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04 and the rest of a checkpoint", "is a PyTorch checkpoint.*sr-deploy export"),
        (b'\x0e\0\0\0\0\0\0\0{"weight": {}}  ', "is a checkpoint.*sr-deploy export"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "is not an ONNX model"),
    ],
)
def test_a_file_that_is_no_model_is_named_and_explained(data, says, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"net\.onnx.*{says}"):
        load_model(path)


def test_a_model_cut_off_anywhere_is_refused_or_has_lost_its_record(tiny):
    data = tiny("plain").model.SerializeToString()
    for length in range(0, len(data) - 1, 37):
        try:
            model = parse_model(data[:length])
        except ModelError:
            continue
        assert read_spec(model) is None, length  # cut between the graph and the spec behind it


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"no model file .*absent\.onnx"):
        load_model(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="cannot read the model file"):
        load_model(tmp_path)


def test_weights_in_a_file_beside_the_model_are_read_and_missed(tiny, tmp_path):
    plain, path = tiny("plain"), tmp_path / "net.onnx"
    onnx.save_model(plain.model, path, save_as_external_data=True, location="net.weights", size_threshold=0)
    loaded = load_model(path)
    weights = {t.name: numpy_helper.to_array(t) for t in loaded.graph.initializer}
    for tensor in tiny("plain").model.graph.initializer:
        np.testing.assert_array_equal(weights[tensor.name], numpy_helper.to_array(tensor))
    with pytest.raises(ModelError, match="from its path"):
        require_embedded(parse_model(path.read_bytes()))
    (tmp_path / "net.weights").unlink()
    with pytest.raises(ModelError, match="beside the model"):
        load_model(path)


def test_a_place_that_cannot_be_written_is_an_output_error_and_leaves_nothing(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for target in (tmp_path / "absent" / "net.onnx", tmp_path / "file" / "net.onnx"):
        with pytest.raises(OutputError, match="cannot write"):
            save_model(tiny("plain").model, target)
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        save_model(tiny("plain").model, folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.onnx"]


def test_saving_replaces_the_file_that_was_there(tiny, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    save_model(tiny("plain").model, path)
    assert load_model(path) == tiny("plain").model
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.skipif(os.name == "nt", reason="links and permissions differ on Windows")
def test_saving_replaces_a_link_and_keeps_the_permissions_of_a_file(tiny, tmp_path):
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store" / "net.onnx", tmp_path / "net.onnx"
    real.write_bytes(b"old")
    real.chmod(0o664)
    link.symlink_to(real)
    umask = os.umask(0o077)
    try:
        save_model(tiny("plain").model, link)
        assert real.read_bytes() == b"old"
        save_model(tiny("plain").model, real)
    finally:
        os.umask(umask)
    assert not link.is_symlink()
    assert load_model(link) == tiny("plain").model
    assert load_model(real) == tiny("plain").model
    assert stat.S_IMODE(real.stat().st_mode) == 0o664
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["net.onnx"]


def test_the_ports_of_a_model_are_found_by_role_not_by_name(tiny):
    taken, given = picture_io(tiny("old-opset").model)
    assert (taken.name, taken.dims, taken.elem_type) == ("input.1", (None, 3, None, None), TensorProto.FLOAT)
    assert given.name == "86"
    assert picture_io(tiny("fixed").model)[0].dims == (None, 3, 6, 9)


def test_weights_declared_as_inputs_are_not_pictures(tiny):
    model = tiny("plain").model
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    assert picture_io(model)[0].name == "pixels"


def _identity(kind: onnx.TypeProto, extra_inputs: int = 0, outputs: int = 1) -> onnx.ModelProto:
    inputs = [helper.make_value_info(f"x{i}", kind) for i in range(1 + extra_inputs)]
    results = [helper.make_value_info(f"y{i}", kind) for i in range(outputs)]
    nodes = [helper.make_node("Identity", ["x0"], [f"y{i}"]) for i in range(outputs)]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, results))


PICTURE = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 3, "h", "w"])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (_identity(PICTURE, extra_inputs=1), r"2 inputs \(x0, x1\), expected one picture"),
        (_identity(PICTURE, outputs=2), r"2 outputs \(y0, y1\), expected one picture"),
        (_identity(helper.make_sequence_type_proto(PICTURE)), "is a sequence, expected a picture"),
        (_identity(helper.make_tensor_type_proto(TensorProto.INT64, [1, 3, 4, 4])), "holds INT64"),
        (_identity(helper.make_tensor_type_proto(TensorProto.FLOAT, [3, "h", "w"])), "3 axes"),
        (_identity(helper.make_tensor_type_proto(TensorProto.FLOAT, [4, 3, "h", "w"])), "exactly 4 pictures"),
    ],
)
def test_a_graph_that_no_picture_runs_through_says_what_it_wants(model, says):
    with pytest.raises(ModelError, match=rf"net\.onnx.*{says}.*export it"):
        picture_io(model, "net.onnx")


@pytest.mark.parametrize("spoil", ["dims", "bytes", "negative", "values"])
def test_a_constant_that_does_not_fit_its_shape_is_a_damaged_file(tiny, spoil):
    model = tiny("plain").model
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "b0")
    if spoil == "dims":
        tensor.dims[0] += 1
    elif spoil == "bytes":
        tensor.raw_data = tensor.raw_data[:-1]
    elif spoil == "negative":
        tensor.dims[0] = -8
    else:
        tensor.ClearField("raw_data")
        tensor.float_data.extend([0.0] * 7)
    with pytest.raises(ModelError, match="constant 'b0' has other data than its shape"):
        parse_model(model.SerializeToString())
