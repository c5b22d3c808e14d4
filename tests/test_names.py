"""Names in the package: one class, one name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import sr_deploy

PACKAGE = Path(sr_deploy.__file__).parent


def test_every_class_has_a_name_of_its_own():
    found = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(path.relative_to(PACKAGE).as_posix())
    assert len(found) > 200
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}
