"""The digest of our own source files, so that what a cache holds does not outlive the code that made it."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence


def sources_digest(package: str, names: Sequence[str]) -> str:
    """Digest the modules `names` of the imported package `package`, as they are on disk or in a zip archive.

    Returns the digest of nothing where no source is shipped at all, as in a frozen program, whose version has to
    do. Raises RuntimeError where only some are missing: a module was renamed and this list was not.
    """
    spec = sys.modules[package].__spec__
    assert spec is not None, package
    assert spec.submodule_search_locations, f"{package} is not a package"
    folder, digest, missing = spec.submodule_search_locations[0], hashlib.sha256(), list[str]()
    for name in names:
        try:
            data = spec.loader.get_data(os.path.join(folder, f"{name}.py"))  # type: ignore[union-attr]
        except (OSError, AttributeError):
            missing.append(name)
        else:
            digest.update(name.encode() + b"\0" + data)
    if missing and len(missing) < len(names):
        raise RuntimeError(f"{package} has no module {', '.join(missing)}, which a cache key depends on")
    return digest.hexdigest()
