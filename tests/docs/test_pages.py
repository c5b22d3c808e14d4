"""What the pages for Python and for the environment promise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sr_deploy
from sr_deploy.images.image import Image, read_image, write_image
from tests.paths import EXAMPLE, ROOT

PYTHON = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ENVIRONMENT = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
READERS = {"os.environ.get", "os.environ.setdefault", "os.environ.pop", "os.getenv"}
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PYTHON + README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the photograph that the examples read."""
    pixels = read_image(EXAMPLE).pixels[:96, :128]
    write_image(Image(pixels=pixels.copy()), tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_in_python_runs_as_it_is_printed(folder, code):
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
    for number, code in enumerate(EXAMPLES):
        (tmp_path / f"example_{number}.py").write_text(code, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        *map(str, sorted(tmp_path.glob("*.py"))),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


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
        row = re.match(r"\| \d \| `(\w+)/`", line)
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


def test_the_readme_has_one_table_of_quality_and_one_of_speed():
    assert re.findall(r"<!-- tables: (\w+) -->", README) == ["quality", "speed"]
