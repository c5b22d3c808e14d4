"""Every `sr-deploy` line of the README and the guides is valid, and does what the page says.

The lines are taken from the fenced code blocks. Each is parsed by the real commands, and each is run on tiny inputs that
have the names of the pages. `docs/cli.md` is generated from the commands themselves and is not read here.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from sr_deploy.bench.run.calibrate import calibrate
from sr_deploy.cli import main
from sr_deploy.images.image import Image, read_image, write_image
from tests.cli.conftest import repeating_model
from tests.paths import EXAMPLE, ROOT

pytestmark = pytest.mark.long

PAGES = [
    "README.md",
    *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
    *sorted(f"docs/models/{page.name}" for page in (ROOT / "docs" / "models").glob("*.md")),
    *sorted(f"docs/pictures/{page.name}" for page in (ROOT / "docs" / "pictures").glob("*.md")),
]
PAGES.remove("docs/cli.md")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELLS = ("", "bash", "sh", "console")
_INLINE = re.compile(r"`((?:torchrun [^`]*)?sr-deploy [^`]+)`")
_OUTPUTS = ("-o", "--output", "--out")

VARIABLES = {"$SLURM_ARRAY_TASK_ID": "1"}
"""Variable of a line -> the value it has here."""


@dataclass(frozen=True)
class Line:
    """One call of sr-deploy."""

    page: str
    words: tuple[str, ...]
    """Arguments after the program's name."""
    source: str | None = None
    """File that stdin reads; "|": another program."""
    target: str | None = None
    """File that stdout is written to; "|": another program."""

    @property
    def text(self) -> str:
        return shlex.join(self.words)

    @property
    def outputs(self) -> list[str]:
        """The files and folders that the line names as outputs."""
        return [b for a, b in pairwise(self.words) if a in _OUTPUTS]


def joined(block: str) -> Iterator[str]:
    """The lines of a block. Lines that end in a backslash or in | are joined with the next one."""
    yield from re.sub(r"\\\n|(?<=\|)\n", " ", block).splitlines()


def calls(page: str, text: str) -> Iterator[Line]:
    """The calls of sr-deploy in a shell line: those after `&&`, and those between other programs, too."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|<>&;")
    lexer.whitespace_split = True
    part: list[str] = []
    piped = False
    for word in [*lexer, "&&"]:
        if word not in ("|", "&&", ";"):
            part.append(word)
            continue
        if part and PurePosixPath(part[0]).name == "sr-deploy":
            files = {a: b for a, b in pairwise(part) if a in ("<", ">")}
            end = min([part.index(sign) for sign in files], default=len(part))
            words = part[1:end]
            for name, value in VARIABLES.items():
                words = [word.replace(name, value) for word in words]
            source = files.get("<", "|" if piped else None)
            yield Line(page, tuple(words), source, files.get(">", "|" if word == "|" else None))
        part, piped = [], word == "|"


def in_order(page: str) -> Iterator[Line]:
    """The calls of a page from top to bottom."""
    for language, block in _BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        for text in joined(block) if language in _SHELLS else ():
            yield from calls(page, text) if "sr-deploy " in text else ()


def collected() -> list[Line]:
    """All calls of all pages; the first of equal ones."""
    found: dict[str, Line] = {}
    for page in PAGES:
        for line in in_order(page):
            found.setdefault(line.text, line)
    return list(found.values())


LINES = collected()
each_line = pytest.mark.parametrize("line", LINES, ids=[f"{line.page}: {line.text}" for line in LINES])

SMALLER = {
    "bench": {
        "--samples": "3",
        "--seconds": "0",
        "--max-seconds": "0.05",
        "--rounds": "1",
        "--sizes": "32x24",
        "--model": "rt-x4",
        "--backend": "onnxruntime",
    },
    "bench --find": {
        "--samples": "3",
        "--seconds": "0",
        "--max-seconds": "0.05",
        "--model": "rt-x4",
        "--backend": "onnxruntime",
        "--min-fps": "2000",
    },
    "bench --image": {
        "--samples": "3",
        "--seconds": "0",
        "--max-seconds": "0.05",
        "--model": "rt-x4",
        "--backend": "onnxruntime",
    },
    "bench compare": {},
    "bench report": {},
    "train": {"--minutes": "0.001", "--device": "cpu"},
    "convert --finetune": {"--finetune": "0.01"},
    "verify": {"--backend": "onnxruntime"},
    "upscale --min-size": {"--min-size": "1"},
    "upscale srresnet-x4-perceptual": {"--backend": "onnxruntime"},
}
"""Words of a line -> options that make its run short. They replace those of the line, or are added to them."""

RESULTS = {
    "bench": ({0, 1}, "a budget or a baseline is kept or missed, as fast as this machine is"),
    "capi build": ({0, 4}, "the C library needs"),
    "gstreamer": ({0, 4}, " needs "),
    "build rt-x4 -o rt-x4-rtx.engine --runtime tensorrt-rtx": ({0, 4}, 'pip install "sr-deploy[rtx]"'),
    "build": ({4}, 'pip install "sr-deploy[gpu]"'),
    "upscale holiday/ -o large/ --model rt-x4.engine": ({4}, 'pip install "sr-deploy[gpu]"'),
    "upscale holiday/ -o large/ --model rt-x4-rtx.engine": ({4}, 'pip install "sr-deploy[gpu]"'),
    "upscale holiday/ -o large/ --model rt-x4 --backend tensorrt": ({4}, 'pip install "sr-deploy[gpu]"'),
}
"""Start of a line -> the exit codes that it may have, and what stderr says with codes from 2. Other lines end with 0."""

PARSED_ONLY = {
    "--ray 10.0.0.1:6379": "needs a Ray cluster at that address",
    "build": "would take minutes: this machine has TensorRT",
    "rt-x4.engine": "this machine has TensorRT, and would refuse the engine file of the test",
    "rt-x4-rtx.engine": "this machine has TensorRT, and would refuse the engine file of the test",
    "--backend tensorrt": "would build an engine for minutes: this machine has TensorRT",
}
"""Part of a line -> why it is not run. The lines of TensorRT are run where it is missing, up to their error."""

PACKAGES = {
    "video": "av",
    "train": "torch",
    "export": "torch",
    "verify": "torch",
    "--finetune": "torch",
    "openvino": "openvino",
    "somebody-elses.pth": "spandrel",
    "animevideo.pth": "spandrel",
}
"""Word of a line -> the package without which it cannot be run."""

RECIPE = """
name = "rt-x4"
precision = "off"
validation = 1
[net]
architecture = "rt"
features = 4
depth = 1
[[phase]]
scale = 4
crop = 12
batch = 2
steps = 6
"""


def _photograph(height: int, width: int, top: int = 0, left: int = 0) -> np.ndarray:
    return read_image(EXAMPLE).pixels[top : top + height, left : left + width].copy()


def _picture(path: Path, height: int, width: int) -> None:
    write_image(Image(pixels=_photograph(height, width, 60, 60)), path)


def _scan(path: Path) -> None:
    """A flat picture of 16 bits, so that 6000 columns are few pixels."""
    write_image(Image(pixels=_photograph(4, 120).astype(np.uint16) * 257), path)


def _photos(path: Path) -> None:
    path.mkdir()
    for number in range(4):
        photograph = _photograph(100, 100, number * 40, number * 60)
        write_image(Image(pixels=photograph), path / f"{number}.png")


def _holiday(path: Path) -> None:
    (path / "beach").mkdir(parents=True)
    _picture(path / "one.jpg", 12, 16)
    _picture(path / "beach" / "two.png", 9, 7)


def _unknown_model(path: Path) -> None:
    """A model without a spec."""
    model = onnx.load(repeating_model(path, 2))
    del model.metadata_props[:]
    onnx.save(model, path)


def _film(path: Path) -> None:
    av = importlib.import_module("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 32, 24
        for number in range(5):
            pixels = _photograph(24, 32, number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def _y4m(path: Path) -> None:
    frame = b"FRAME\n" + _photograph(12, 16)[..., 1].tobytes() + bytes([128]) * (2 * 6 * 8)
    path.write_bytes(b"YUV4MPEG2 W16 H12 F25:1 C420jpeg\n" + 2 * frame)


def _checkpoint(path: Path) -> None:
    path.mkdir()
    torch = importlib.import_module("torch")
    checkpoint = importlib.import_module("sr_deploy.training.checkpoint")
    nets = importlib.import_module("sr_deploy.training.nets")
    torch.manual_seed(0)
    parameters = {"features": 4, "depth": 1}
    info = checkpoint.CheckpointInfo(name="rt-x4", architecture="rt", scale=4, parameters=parameters)
    checkpoint.save_checkpoint(path / "final.safetensors", nets.build_net("rt", 4, parameters), info)


NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, features=4):
        super().__init__(nn.Conv2d(3, features, 3, padding=1), nn.Conv2d(features, 12, 3, padding=1), nn.PixelShuffle(2))
"""


def _community(path: Path) -> None:
    """A tiny net of the architecture Compact, as its author's program saves one."""
    torch = importlib.import_module("torch")
    shapes = {0: (8, 3, 3, 3), 2: (8, 8, 3, 3), 4: (48, 8, 3, 3)}
    weights = {f"body.{number}.weight": torch.randn(shape) / 10 for number, shape in shapes.items()}
    weights |= {f"body.{number}.bias": torch.zeros(shape[0]) for number, shape in shapes.items()}
    torch.save({"params": weights | {f"body.{n}.weight": torch.full((8,), 0.1) for n in (1, 3)}}, path)


def _own_net(features: int) -> object:
    exec(NET, names := dict[str, object]())  # the file that the pages name
    return names["Net"](features=features)  # type: ignore[operator]


def _own_weights(path: Path) -> None:
    torch = importlib.import_module("torch")
    torch.save(_own_net(8).state_dict(), path)  # type: ignore[attr-defined]


def _program(path: Path) -> None:
    torch = importlib.import_module("torch")
    torch.export.save(torch.export.export(_own_net(4), (torch.rand(1, 3, 24, 40),)), path)


@cache
def _exported() -> bytes:
    """The tiny net of `_checkpoint` as ONNX."""
    with TemporaryDirectory() as folder:
        run, model = Path(folder, "run"), Path(folder, "trained.onnx")
        _checkpoint(run)
        assert call(["export", str(run), "-o", str(model)]).exit_code == 0
        return model.read_bytes()


def _trained(path: Path) -> None:
    path.write_bytes(_exported())


def _trained_int8(path: Path) -> None:
    _trained(path.parent / "fp32.onnx")
    _int8(path, str(path.parent / "fp32.onnx"))


def _int8(path: Path, model: str = "rt-x4") -> None:
    data = path.parent / "photographs"
    _photos(data)  # those of the lines with verify: a model calibrated on fewer of them fails there
    result = call(["convert", model, "-o", str(path), "--precision", "int8", "--data", str(data)])
    assert result.exit_code == 0, result.stderr


def _bench_result(path: Path) -> None:
    path.write_bytes((ROOT / "benchmarks" / "results" / "scaling-pixels.json").read_bytes())


def _bench_here(path: Path) -> None:
    """A result of this machine, because a baseline of another one is refused."""
    assert call(smaller(["bench", "-o", str(path)])).exit_code == 0


def _engine(capability: tuple[int, int]) -> Callable[[Path], None]:
    """Writer of an engine file for a GPU, without an engine in it."""

    def write(path: Path) -> None:
        from tests.triton.test_repository import engine, sidecar_path

        made = engine(path.parent, capability)
        sidecar_path(made).rename(sidecar_path(path))
        made.rename(path)

    return write


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")


MAKERS: Mapping[str, Callable[[Path], object]] = {
    "examples/colosseum.png": lambda path: _picture(path, 24, 32),
    "photo.jpg": lambda path: _picture(path, 12, 16),
    "scan.tif": _scan,
    "photos": _photos,
    "holiday": _holiday,
    "somebody-elses.onnx": _unknown_model,
    "other.onnx": _unknown_model,
    "somebody-elses.pth": _community,
    "animevideo.pth": _community,
    "animevideo.onnx": lambda path: repeating_model(path, 4),
    "photo.png": lambda path: _picture(path, 12, 16),
    "my_net.py": _text(NET),
    "net.pth": _own_weights,
    "net.pt2": _program,
    "mine.onnx": lambda path: repeating_model(path, 2),
    "trained.onnx": _trained,
    "net.onnx": _trained,
    "trained-int8.onnx": _trained_int8,
    "fast.onnx": _int8,
    "rt-x4.engine": _engine((9, 0)),
    "rt-x4-rtx.engine": _engine((9, 0)),
    "rt-x4-h100.engine": _engine((9, 0)),
    "rt-x4-l4.engine": _engine((8, 9)),
    "film.mkv": _film,
    "in.rgb": lambda path: path.write_bytes(bytes(640 * 360 * 3)),
    "padded.rgb": lambda path: path.write_bytes(bytes(296 * 50 * 2)),
    "in.y4m": _y4m,
    "export/rt-x4.toml": _text(RECIPE),
    "mine.toml": _text(RECIPE),
    "run": _checkpoint,
    "before.json": _bench_result,
    "result.json": _bench_result,
    "baseline.json": _bench_here,
}
"""Name of a file or folder that the pages use -> what writes it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of an input in a folder of the module. It is made when it is first asked for."""
    folder = tmp_path_factory.mktemp("inputs")

    def make(name: str) -> Path:
        path = folder / name.replace("/", "-") / Path(name).name
        if not path.parent.exists():
            path.parent.mkdir()
            MAKERS[name](path)
        return path

    return make


@pytest.fixture
def inputs(line: Line, made: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that has the inputs of the line and nothing else."""
    for word, package in PACKAGES.items():
        if word in line.words:
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    for name in inputs_of(line):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        for source in made(name).parent.glob(f"{target.name}*"):
            (target.parent / source.name).symlink_to(source, target_is_directory=source.is_dir())


def inputs_of(line: Line) -> list[str]:
    """The names of `MAKERS` that the line reads."""
    given = [word.rstrip("/") for word in [*line.words, line.source or ""]]
    if line.source == "|":
        raw = "padded.rgb" if "--stride" in line.words else "in.rgb"
        given.append("in.y4m" if "y4m" in line.words else raw)
    given = [word.removesuffix(":Net") for word in given]
    outputs = [name.rstrip("/") for name in line.outputs]
    return [name for name in dict.fromkeys(given) if name in MAKERS and name not in outputs]


def call(words: list[str], stdin: bytes = b"") -> Result:
    """Call the command line in this process; stdout and stderr apart."""
    try:
        runner = CliRunner(mix_stderr=False)  # type: ignore[call-arg]  # click before 8.2
    except TypeError:
        runner = CliRunner()
    return runner.invoke(main, words, input=stdin)


def smaller(words: list[str]) -> list[str]:
    """The line with the options of `SMALLER`. Models and backends that the line names are kept."""
    matching = [key for key in SMALLER if all(word in words for word in key.split())]
    for option, value in SMALLER[max(matching, key=len)].items() if matching else ():
        if option not in words:
            words = [*words, option, value]
        elif option not in ("--model", "--backend"):
            at = words.index(option) + 1
            words = [*words[:at], value, *words[at + 1 :]]
    return words


def parsed(words: list[str]) -> click.Context:
    """Parse a line as the command does. Raises click.UsageError."""
    context = main.make_context("sr-deploy", list(words[:1]), resilient_parsing=True)
    command = main.get_command(context, words[0])
    assert command is not None, f"there is no command {words[0]}"
    rest, name = words[1:], words[0]
    if isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command, name, rest = command.commands[rest[0]], rest[0], rest[1:]
    return command.make_context(name, list(rest), parent=context)


def reason_not_to_run(line: Line) -> str | None:
    """Why the line is only parsed here, or None."""
    tensorrt = importlib.util.find_spec("tensorrt") is not None
    reasons = [reason for part, reason in PARSED_ONLY.items() if part in line.text]
    return next((reason for reason in reasons if tensorrt or "TensorRT" not in reason), None)


@each_line
@pytest.mark.usefixtures("inputs")
def test_every_line_is_one_that_the_command_takes(line):
    assert parsed(list(line.words)).command.name in line.words


# Lines that differ only in options of SMALLER are one run: train with and without --minutes, for example.
RUNS = list({tuple(smaller(list(line.words))): line for line in reversed(LINES)}.values())


@pytest.mark.parametrize("line", RUNS, ids=[f"{line.page}: {line.text}" for line in RUNS])
@pytest.mark.usefixtures("inputs")
def test_every_line_runs_on_small_inputs(line, monkeypatch):
    if reason := reason_not_to_run(line):
        pytest.skip(reason)
    if line.words[0] == "bench":
        monkeypatch.setattr("sr_deploy.cli.bench.run.calibrate", partial(calibrate, seconds=0.01))
    if line.words[0] == "train":
        monkeypatch.setattr("sr_deploy.training.run.loop.plot_curves", lambda *_: None)
    stdin = Path(inputs_of(line)[0]).read_bytes() if line.source else b""
    result = call(smaller(list(line.words)), stdin)
    codes, message = next((RESULTS[key] for key in RESULTS if line.text.startswith(key)), ({0}, ""))
    assert result.exit_code in codes, result.stderr or result.exception
    if result.exit_code > 1:
        assert message in result.stderr
        return
    dry = "--dry-run" in line.words
    assert [name for name in line.outputs if Path(name).exists() is dry] == []
    if line.target:
        assert len(result.stdout_bytes) > len(stdin)


@pytest.mark.parametrize("page", PAGES)
def test_every_install_line_names_extras_that_exist(page):
    extras = set(
        re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    text = (ROOT / page).read_text(encoding="utf-8")
    named = {
        extra for found in re.findall(r"(?:\.|sr-deploy)\[([\w,]+)\]", text) for extra in found.split(",")
    }
    assert named <= extras


@pytest.mark.parametrize("page", PAGES)
def test_every_line_in_running_text_has_options_that_exist(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for found in _INLINE.findall(text):
        words = shlex.split(found.partition("sr-deploy ")[2])
        context = main.make_context("sr-deploy", words[:1], resilient_parsing=True)
        command = main.get_command(context, words[0])
        if words[0].startswith("-"):
            continue
        assert command is not None, found
        for word in words[1:]:
            if isinstance(command, click.Group) and word in command.commands:
                command = command.commands[word]
        known = {name for option in command.params for name in option.opts} | {"--help", "--debug"}
        assert [word for word in words if word.startswith("-") and word not in known] == [], found


REPEATED = ("--resume", "--overwrite")


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_a_page_can_be_typed_one_after_the_other(page):
    """No line writes a file, or begins a run, that a line before it has written."""
    written = [
        output
        for line in in_order(page)
        for output in line.outputs
        if not set(REPEATED) & set(line.words) and not output.endswith("/")
    ]
    assert sorted(written) == sorted(set(written))


def test_the_lines_of_a_training_run_in_order_in_one_folder(made, tmp_path, monkeypatch):
    """The walk of somebody who trains: each line finds what the lines before it left."""
    pytest.importorskip("torch")
    monkeypatch.setattr("sr_deploy.training.run.loop.plot_curves", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    Path("export").mkdir()
    for name in ("photos", "photo.jpg", "export/rt-x4.toml"):
        Path(name).symlink_to(made(name))
    for line in in_order("docs/training.md"):
        result = call(smaller(list(line.words)))
        assert result.exit_code == 0, (line.text, result.stderr)
        if line.target == "mine.toml":  # of the written recipe a smaller net is trained, on smaller crops
            assert "features = 16" in result.stdout
            Path("mine.toml").write_text(RECIPE, encoding="utf-8")
    assert read_image(Path("photo-x4.png")).width == 4 * read_image(Path("photo.jpg")).width
    assert Path("run", "commands.txt").read_text(encoding="utf-8").count("sr-deploy train mine.toml") == 2


def test_no_entry_of_the_tables_is_out_of_date():
    texts = [line.text for line in LINES]
    assert len(texts) > 40
    for key in [*RESULTS, *PARSED_ONLY, *PACKAGES]:
        assert [text for text in texts if key in text], key
    for key in SMALLER:
        assert [line for line in LINES if set(key.split()) <= set(line.words)], key
    used = {name for line in LINES for name in inputs_of(line)}
    assert set(MAKERS) == used


def test_lines_are_found_in_pipes_after_others_and_before_comments():
    text = "a -b | sr-deploy pipe --format y4m |\n  c -d && .venv/bin/sr-deploy info x < in > out  # sr-deploy no"
    (line,) = joined(text)
    assert list(calls("p", line)) == [
        Line("p", ("pipe", "--format", "y4m"), "|", "|"),
        Line("p", ("info", "x"), "in", "out"),
    ]


def test_a_wrong_line_is_noticed():
    for text in ("models --colour", "info", "upscale a.png --threads many", "cache list --days 3"):
        with pytest.raises(click.UsageError):
            parsed(text.split())
