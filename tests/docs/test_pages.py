"""What the pages for Python and for the environment promise."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest

import sr_deploy
from sr_deploy.images.image import Image, decode_image, read_image, write_image
from tests.paths import EXAMPLE, ROOT

PYTHON = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ENVIRONMENT = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
READERS = {"os.environ.get", "os.environ.setdefault", "os.environ.pop", "os.getenv"}
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = _BLOCK.findall(PYTHON + README)
_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PREAMBLES = {
    "bring-your-model.md": "from typing import Any\nnet: Any\n",
    "tensorrt.md": "from typing import Any\nbatch: Any\nframes: Any\ntensor: Any\ntorch: Any\n",
}
"""Page -> declarations of what its examples leave to the reader."""
ALL_EXAMPLES = [
    PREAMBLES.get(page.name, "") + code
    for page in _PAGES
    for code in _BLOCK.findall(page.read_text(encoding="utf-8"))
]
FASTAPI = """
from typing import Any, Callable, TypeVar
_F = TypeVar("_F", bound=Callable[..., Any])
def Body() -> Any: ...
class FastAPI:
    def post(self, path: str) -> Callable[[_F], _F]: ...
class HTTPException(Exception):
    def __init__(self, status_code: int, detail: str) -> None: ...
class Response:
    def __init__(self, content: bytes, media_type: str) -> None: ...
"""
"""What the example of a server uses of FastAPI, for the type checker: FastAPI itself is not among the test's packages."""
STUBS = {
    "fastapi": FASTAPI,
    "vapoursynth": "from typing import Any\ndef __getattr__(name: str) -> Any: ...\n",
}
"""Package of an example that may be missing here -> what the type checker reads instead."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the photograph that the examples read."""
    pixels = read_image(EXAMPLE).pixels[:96, :128]
    write_image(Image(pixels=pixels.copy()), tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_in_python_runs_as_it_is_printed(folder, code):
    if "fastapi" in code:
        pytest.skip("it is called by a test of its own")
    exec(compile(code, "the example", "exec"), {"__name__": "example"})
    if "photo-x4.png" in code:
        assert (read_image(folder / "photo-x4.png").width, read_image(folder / "photo-x4.png").height) == (
            512,
            384,
        )


def test_the_examples_pass_a_strict_type_check(tmp_path):
    pytest.importorskip(
        "torch", reason="mypy needs the types of torch for the modules that the examples import"
    )
    done = type_check(tmp_path, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def type_check(folder: Path, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `mypy --strict` on all examples of all pages, which are written to `folder`."""
    for number, code in enumerate(ALL_EXAMPLES):
        (folder / f"example_{number}.py").write_text(code, encoding="utf-8")
    for package, text in STUBS.items():
        (folder / f"{package}.pyi").write_text(text, encoding="utf-8")
    files = map(str, sorted(folder.glob("example_*.py")))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", *options, *files]
    surroundings = {**os.environ, "MYPYPATH": str(folder)}
    return subprocess.run(command, cwd=cwd, env=surroundings, capture_output=True, text=True)


BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_the_examples_pass_for_an_installed_package(kind, tmp_path):
    """Types are found in a plain and in an editable install, from a folder that is not the checkout."""
    pytest.importorskip("setuptools", minversion="77", reason="pyproject.toml needs this version to build")
    checkout, place, work = tmp_path / "checkout", tmp_path / "venv", tmp_path / "work"
    unwanted = shutil.ignore_patterns("*.onnx", "__pycache__")
    shutil.copytree(ROOT / "sr_deploy", checkout / "sr_deploy", ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(tmp_path)],
        cwd=checkout,
        check=True,
        capture_output=True,
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (packages,) = [path for path in place.rglob("site-packages") if "lib64" not in path.parts]
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(packages)
    if kind == "wheel":
        assert (packages / "sr_deploy" / "batch" / "compare.html").is_file()
    else:
        assert [path.read_text().strip() for path in packages.glob("*.pth")] == [str(checkout)]
    (packages / "numpy").symlink_to(Path(numpy.__file__).parent)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    work.mkdir()
    # the cache of numpy's types is that of the other test
    done = type_check(
        work, f"--python-executable={python}", f"--cache-dir={tmp_path.parent / 'types'}", cwd=work
    )
    assert done.returncode == 0, done.stdout


def test_the_example_of_a_server_answers(folder, monkeypatch):
    """FastAPI is replaced by the little that the example uses of it."""
    served: dict[str, Callable[..., Any]] = {}

    class Server:
        def post(self, path):
            return lambda function: served.setdefault(path, function)

    class RefusalError(Exception):
        pass

    names = {
        "Body": lambda: None,
        "FastAPI": Server,
        "HTTPException": RefusalError,
        "Response": lambda *a, **k: (a, k),
    }
    monkeypatch.setitem(sys.modules, "fastapi", SimpleNamespace(**names))
    (code,) = [code for code in EXAMPLES if "fastapi" in code]
    place: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "the example", "exec", dont_inherit=True), place)
    with place["upscaler"]:
        (png,), kind = served["/upscale"]((folder / "photo.jpg").read_bytes())
        assert kind == {"media_type": "image/png"}
        assert (decode_image(png).width, decode_image(png).height) == (512, 384)
        with pytest.raises(RefusalError, match="upload: this is a text file"):
            served["/upscale"](b"no picture")


def test_every_public_name_is_on_the_page():
    assert [name for name in sr_deploy.__all__ if f"`{name}" not in PYTHON] == []


def variables(tree: ast.Module) -> Iterator[str]:
    """The names of environment variables in a module: of get, setdefault, [...] and `in`, also through a constant."""
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        key: ast.expr | None = None
        if isinstance(node, ast.Call) and ast.unparse(node.func) in READERS and node.args:
            key = node.args[0]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            key = node.slice
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
            key = node.left
        if isinstance(key, ast.Constant):
            yield str(key.value)
        elif isinstance(key, ast.Name) and key.id in constants:
            yield str(constants[key.id])


def test_every_environment_variable_is_on_its_page():
    found = {
        name
        for path in (ROOT / "sr_deploy").rglob("*.py")
        for name in variables(ast.parse(path.read_text(encoding="utf-8")))
    }
    for path in (ROOT / "sr_deploy" / "capi").glob("*.[ch]"):
        found |= set(re.findall(r'getenv\("(\w+)"\)', path.read_text(encoding="utf-8")))
    assert len(found) > 10
    listed = set(re.findall(r"`([A-Z][A-Z_]+)`", ENVIRONMENT))
    assert found == listed


PATH = re.compile(r"`(\w[\w./*-]*(?:/|\.(?:py|toml|h|c|json|md)))`")


def missing_paths(page: str) -> Iterator[str]:
    """The paths in a page that lead nowhere: from the root, from sr_deploy/, or from the package of the table's row."""
    for line in page.splitlines():
        row = re.match(r"\| \d+ \| `(\w+)/`", line)
        folders = [ROOT, ROOT / "sr_deploy", *([ROOT / "sr_deploy" / row[1]] if row else [])]
        for path in PATH.findall(line):
            if not any(list(folder.glob(path.rstrip("/"))) for folder in folders):
                yield path


def test_every_path_of_the_architecture_exists():
    assert list(missing_paths(ARCHITECTURE)) == []
    assert len(PATH.findall(ARCHITECTURE)) > 40


def test_every_package_is_in_the_architecture():
    parts = [path.name + "/" * path.is_dir() for path in (ROOT / "sr_deploy").iterdir()]
    named = [part for part in parts if part.endswith((".py", "/")) and not part.startswith("_")]
    assert [part for part in named if f"`{part}`" not in ARCHITECTURE] == []


def test_a_path_that_leads_nowhere_is_found():
    assert list(missing_paths("`docs/` `base.py`\n| 4 | `engines/` | `base.py`, `no.py` |")) == [
        "base.py",
        "no.py",
    ]


def test_activating_the_environment_is_said_before_the_first_bare_command():
    bare = re.search(r"^```bash\nsr-deploy ", README, re.MULTILINE)
    assert bare
    assert README.index("source .venv/bin/activate") < bare.start()
    assert README.count("source .venv/bin/activate") == 1


def test_the_readme_has_one_table_of_quality_and_one_of_speed():
    assert re.findall(r"<!-- tables: (\w+) -->", README) == ["quality", "speed"]
