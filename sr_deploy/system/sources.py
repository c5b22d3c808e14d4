"""The digest of sr-deploy's own source files.

As part of a cache key, it makes entries of older code invalid.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from sr_deploy.system.files import sha256


def sources_digest(package: str, names: Sequence[str]) -> str:
    """SHA-256 in hexadecimal digits of the modules `names` of the imported package `package`.

    The sources are read from disk or from a zip archive. If no sources are shipped at all, as in a
    frozen program, the result is the digest of nothing; the version number must then distinguish cache
    entries.

    Raises RuntimeError if only some sources are missing: then a module was renamed and the list of
    names was not updated.
    """
    spec = sys.modules[package].__spec__
    assert spec is not None, package
    assert spec.submodule_search_locations, f"{package} is not a package"
    folder, digest, missing = spec.submodule_search_locations[0], sha256(0), list[str]()
    for name in names:
        try:
            # the loader, not open(): it also reads from zip archives
            data = spec.loader.get_data(os.path.join(folder, f"{name}.py"))  # type: ignore[union-attr]
        except (OSError, AttributeError):
            missing.append(name)
        else:
            digest.update(name.encode() + b"\0" + data)  # the name, so that swapping two modules counts
    if missing and len(missing) < len(names):
        raise RuntimeError(f"{package} has no module {', '.join(missing)}, which a cache key depends on")
    return str(digest.hexdigest())
