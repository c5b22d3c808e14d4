"""Wrong use of the C library never crashes: each case in wrong_use.c gives a status and a text."""

from __future__ import annotations

import pytest

CLOSED = "this handle was closed, or never came from sr_open; open a model and use its handle"
WRONG = {
    "before: close": ("CLOSED", "no handle is open"),
    "before: upscale": ("CLOSED", "no handle is open"),
    "open: no place for the handle": ("ARGUMENT", "opened is NULL"),
    "open: no model": ("ARGUMENT", "model is NULL"),
    "open: an empty model": ("ARGUMENT", "the model's name is empty"),
    "open: a missing model": ("MODEL", "not/there.onnx: no such file"),
    "open: an unknown name": ("MODEL", "no bundled model is called 'rt-x5'; did you mean"),
    "open: a folder": ("MODEL", "it is a folder"),
    "open: no ONNX": ("MODEL", "garbage.onnx is not an ONNX model"),
    "open: no UTF-8": ("MODEL", r"model \udcff\udcfe.onnx: no such file"),
    "open: size 0": ("ARGUMENT", "options.size is 0, but version"),
    "open: a short size": ("ARGUMENT", "initialise it with SR_OPTIONS_INIT"),
    "open: a huge size": ("ARGUMENT", "options.size is 1844"),
    "open: a newer header's size": ("ARGUMENT", "use a library that is not older than the header"),
    "open: reserved": ("ARGUMENT", "options.reserved is 7, expected 0"),
    "open: an unknown backend": ("ARGUMENT", "there is no backend 'abacus'"),
    "open: a backend that is no text": ("ARGUMENT", r"there is no backend '\udcff'"),
    "open: negative threads": ("ARGUMENT", "options.threads is -1"),
    "open: a negative tile": ("ARGUMENT", "options.tile is -2"),
    "open: a negative overlap": ("ARGUMENT", "options.overlap is -2"),
    "upscale: no handle": ("ARGUMENT", "the handle is NULL"),
    "upscale: no input": ("ARGUMENT", "inputs is NULL"),
    "upscale: no output": ("ARGUMENT", "outputs is NULL"),
    "upscale: an input without data": ("ARGUMENT", "input 0: data is NULL"),
    "upscale: an output without data": ("ARGUMENT", "output 0: data is NULL"),
    "upscale: no columns": ("ARGUMENT", "input 0: a picture needs pixels, got 0x4"),
    "upscale: a negative height": ("ARGUMENT", "input 0: a picture needs pixels, got 4x-4"),
    "upscale: a negative output": ("ARGUMENT", "output 0: a picture needs pixels, got -8x8"),
    "upscale: an unknown depth": ("ARGUMENT", "unknown depth 3; give SR_U8, SR_U16 or SR_F32"),
    "upscale: a negative depth": ("ARGUMENT", "unknown depth -1"),
    "upscale: an unknown layout": ("ARGUMENT", "output 0: unknown layout 5"),
    "upscale: a negative layout": ("ARGUMENT", "unknown layout -2147483648"),
    "upscale: an unknown memory": ("ARGUMENT", "unknown memory 2"),
    "upscale: memory of both kinds": ("ARGUMENT", "output 0 and its input lie in different memory"),
    "upscale: memory of a GPU": ("ARGUMENT", "the backend onnxruntime computes in main memory"),
    "upscale: a short stride": (
        "ARGUMENT",
        "a stride of 11 bytes is less than the 12 that 4 pixels of SR_RGB",
    ),
    "upscale: a short stride of the output": (
        "ARGUMENT",
        "output 0: a stride of 23 bytes is less than the 24",
    ),
    "upscale: no stride": ("ARGUMENT", "a stride of 0 bytes is less than"),
    "upscale: a huge stride": ("ARGUMENT", "more than memory can hold"),
    "upscale: a huge stride of two rows": ("ARGUMENT", "more than memory can hold"),
    "upscale: a huge input": (
        "ARGUMENT",
        "2147483647 rows of 6442450941 bytes are more than memory can hold",
    ),
    "upscale: an input too wide to grow": ("ARGUMENT", "has a side over 2147483647 pixels"),
    "upscale: an input beyond its buffer": (
        "ARGUMENT",
        "buffer has 59 bytes, but 4 rows of 16 bytes need 60",
    ),
    "upscale: an output beyond its buffer": (
        "ARGUMENT",
        "buffer has 191 bytes, but 8 rows of 24 bytes need 192",
    ),
    "upscale: another size": ("ARGUMENT", "output 0 is 7x8, for an input of 4x4 expected 8x8"),
    "upscale: another depth": ("ARGUMENT", "output 0 is SR_RGB in SR_F32, but its input is SR_RGB in SR_U8"),
    "upscale: another layout": ("ARGUMENT", "output 0 is SR_BGR in SR_U8, but its input is SR_RGB in SR_U8"),
    "upscale: unaligned data": ("ARGUMENT", "data is not a multiple of 2 bytes, which SR_U16 needs"),
    "upscale: unaligned rows": (
        "ARGUMENT",
        "a stride of 50 bytes is not a multiple of 4, which SR_F32 needs",
    ),
    "upscale: the same memory": ("ARGUMENT", "input 0 and output 0 share memory"),
    "upscale: memory that overlaps": ("ARGUMENT", "input 0 and output 0 share memory"),
    "upscale: rows that share a byte": ("ARGUMENT", "input 0 and output 0 share memory"),
    "frame: no handle": ("ARGUMENT", "the handle is NULL"),
    "frame: no input": ("ARGUMENT", "input is NULL"),
    "frame: no output": ("ARGUMENT", "output is NULL"),
    "frame: no format": ("ARGUMENT", "input: format is NULL"),
    "frame: an unknown format": ("ARGUMENT", "unknown frame format 'nv13'; did you mean nv12?"),
    "frame: a format that is no text": ("ARGUMENT", r"unknown frame format '\udcff'"),
    "frame: no planes": ("ARGUMENT", "input: planes[0] is NULL"),
    "frame: a plane too few": ("ARGUMENT", "the output has 1 planes, but nv12 has 2"),
    "frame: no columns": ("ARGUMENT", "input: a frame needs pixels, got 0x4"),
    "frame: a negative height": ("ARGUMENT", "output: a frame needs pixels, got 8x-8"),
    "frame: reserved": ("ARGUMENT", "input: reserved is 1, expected 0"),
    "frame: a huge plane": ("ARGUMENT", "input: plane 1 has 18446744073709551615 bytes in rows of 4"),
    "frame: a huge stride": ("ARGUMENT", "input: plane 0 has 16 bytes in rows of 18446744073709551612"),
    "frame: a plane too small": ("ARGUMENT", "plane 1 of the output has 31 bytes, expected at least 32"),
    "frame: a short stride": (
        "ARGUMENT",
        "plane 1 of the input has rows of 3 bytes, expected a multiple of 1",
    ),
    "frame: an unknown matrix": ("ARGUMENT", "frames in matrix 99 of ITU-T H.273 are not converted"),
    "frame: an unknown range": ("ARGUMENT", "unknown range -1, expected 0..2"),
    "frame: a wrong size": ("ARGUMENT", "the output is 7x8, for an input of 4x4 expected 8x8"),
    "batch: no inputs": ("ARGUMENT", "inputs is NULL"),
    "batch: no outputs": ("ARGUMENT", "outputs is NULL"),
    "batch: too many": ("ARGUMENT", "pictures are more than memory can hold"),
    "batch: outputs that overlap": ("ARGUMENT", "output 0 and output 1 share memory"),
    "batch: an output over the input before": ("ARGUMENT", "input 0 and output 1 share memory"),
    "batch: the second is wrong": ("ARGUMENT", "input 1: a stride of 3 bytes is less than"),
    "query: no handle": ("ARGUMENT", "the handle is NULL"),
    "query: no info": ("ARGUMENT", "info is NULL"),
    "query: a short size": ("ARGUMENT", "info.size is 8, but version"),
    "query: a newer header's size": ("ARGUMENT", "use a library that is not older than the header"),
    "query: a huge size": ("ARGUMENT", "initialise it with SR_INFO_INIT"),
    "size: no handle": ("ARGUMENT", "the handle is NULL"),
    "size: no width": ("ARGUMENT", "output_width is NULL"),
    "size: no height": ("ARGUMENT", "output_height is NULL"),
    "size: a negative one": ("ARGUMENT", "a picture needs pixels, got -4x4"),
    "size: one too large": ("ARGUMENT", "has a side over 2147483647 pixels"),
    "close: a handle twice": ("CLOSED", CLOSED),
    "closed: upscale": ("CLOSED", CLOSED),
    "closed: query": ("CLOSED", CLOSED),
    "closed: size": ("CLOSED", CLOSED),
    "closed: garbage": ("CLOSED", CLOSED),
}
"""Expected status without SR_ERROR_, and part of the text, for each wrong use in wrong_use.c."""
RIGHT = {
    "before: nothing",
    "open: what is usual",
    "close: what is usual",
    "upscale: buffers that just fit",
    "upscale: memory side by side",
    "upscale: rows side by side",
    "error: of another handle",
    "right again",
    "batch: none",
    "batch: the same input twice",
    "frame: what is usual",
    "close: nothing",
    "close: a handle",
}


@pytest.fixture
def told(run, model, tmp_path) -> dict[str, tuple[str, str]]:
    """Run wrong_use.c and return status and text of each case."""
    (tmp_path / "garbage.onnx").write_bytes(b"garbage")
    lines = run("wrong_use.c", model("plain")).stdout.splitlines()
    return {name: (status, text) for name, status, text in (line.split("\t") for line in lines)}


def test_everything_wrong_has_its_status_and_a_text_that_ends_in_what_to_do(told):
    wrong = {name: entry for name, entry in told.items() if entry[0].startswith("SR_ERROR")}
    assert {name: status for name, (status, _) in wrong.items()} == {
        name: f"SR_ERROR_{status}" for name, (status, _) in WRONG.items()
    }
    for name, (_, text) in wrong.items():
        assert WRONG[name][1] in text
        assert ";" in text or "expected" in text, name


def test_what_is_right_leaves_no_text(told):
    assert {name for name, entry in told.items() if entry == ("SR_OK", "")} == RIGHT


def test_texts_belong_to_their_handle(told):
    assert told["error: of the first"] == ("SR_OK", told["upscale: no output"][1])
    assert told["error: of the second"] == ("SR_OK", told["upscale: no input"][1])


def test_a_failed_open_leaves_null_and_a_wrong_batch_computes_nothing(told):
    assert told["open: the handle"][0] == "NULL"
    assert told["batch: the first then"][0] == "untouched"
    assert told["status: an unknown one"][0] == "no status"
