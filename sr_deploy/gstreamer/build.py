"""Build the GStreamer plugin for the running Python.

    DIR/gstreamer-1.0/libgstsrdeploy.so   the plugin, for GST_PLUGIN_PATH
    DIR/lib/libsr_deploy.so               the C library, which the plugin loads when an element starts

and the other files of the C library. The two folders may be moved together.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sr_deploy
from sr_deploy.capi.build import build_library, c_string, config_header, find_compiler, run_compiler
from sr_deploy.errors import MissingRuntimeError, OutputError, UsageError
from sr_deploy.graph.cache import cache_folder, folder_for_code

_HERE = Path(__file__).parent.absolute()
_CAPI = _HERE.parent / "capi"
_PACKAGES = ("gstreamer-video-1.0", "gmodule-2.0")
"""Packages of pkg-config that the plugin needs."""
_OLDEST = "1.16"
"""Oldest version of GStreamer whose functions are known to suffice."""


@dataclass(frozen=True)
class Plugin:
    """Paths of a built plugin."""

    folder: Path
    """Folder for GST_PLUGIN_PATH."""
    file: Path
    """The plugin itself."""


def plugin_in(folder: Path) -> Plugin:
    """Return the paths of the plugin in a folder of `build_plugin`, whether it exists or not."""
    inner = folder.absolute() / "gstreamer-1.0"
    return Plugin(inner, inner / f"libgstsrdeploy{'.dylib' if sys.platform == 'darwin' else '.so'}")


def cached_plugin(bundled: Mapping[int, str], *, compiler: str | None = None) -> Plugin:
    """Return the plugin in the user's cache folder, and build it first if it is missing or outdated.

    Raises UsageError if caching is off or others may write to the folder, and the errors of `build_plugin`.
    """
    folder = default_folder()
    if folder is None:
        raise UsageError(
            "caching is off (SR_DEPLOY_CACHE is empty), so there is no folder for the plugin; give one with --output"
        )
    plugin = plugin_in(folder)
    if reason := folder_for_code(folder):
        raise UsageError(f"{folder}: {reason}, so a plugin in it is not trusted; give a folder with --output")
    return plugin if plugin.file.is_file() else build_plugin(folder, bundled, compiler=compiler)


def default_folder() -> Path | None:
    """Return the folder of this installation's plugin in the user's cache folder; None if caching is off.

    Its name depends on the sources, the version and the Python, so no other installation finds it.
    """
    graphs = cache_folder()
    if graphs is None:
        return None
    facts = [sr_deploy.__version__, sys.executable, sys.version, str(_HERE)]
    sources = sorted([*_HERE.glob("*.[ch]"), *_HERE.glob("*.py"), *_CAPI.glob("*.[ch]"), *_CAPI.glob("*.py")])
    data = b"\0".join([*(fact.encode() for fact in facts), *(path.read_bytes() for path in sources)])
    return graphs.parent / "gstreamer" / hashlib.sha256(data).hexdigest()[:16]


def build_plugin(
    folder: Path, bundled: Mapping[int, str], *, compiler: str | None = None, flags: Sequence[str] = ()
) -> Plugin:
    """Build the plugin and the C library into `folder`, which is created if needed.

    `bundled` has the model for each scale, for elements whose property `model` is not set.
    `compiler` and `flags` are those of `sr_deploy.capi.build.build_library`.

    Raises MissingRuntimeError if there is no compiler, no Python.h, no Python library or no header of GStreamer,
    and OutputError if the folder cannot be written or the compiler fails.
    """
    arguments = gstreamer_flags()
    command = find_compiler(compiler)
    library = build_library(folder, compiler=compiler).library
    plugin = plugin_in(folder)
    try:
        plugin.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as work:
            config = Path(work).absolute() / "config.h"
            config.write_bytes(config_header(_macros(library.name, bundled)))
            made = config.with_name(plugin.file.name)
            shared = ["-dynamiclib"] if sys.platform == "darwin" else ["-shared"]
            ours = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-fvisibility=hidden", *shared]
            places = ["-include", str(config), f"-I{_CAPI}", str(_HERE / "sruscale.c"), "-o", str(made)]
            run_compiler([*command, *ours, *places, *arguments, "-ldl", *flags], config.parent, "the plugin")
            os.replace(made, plugin.file)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot build in {folder}: {error}; choose another folder") from error
    return plugin


def gstreamer_flags() -> list[str]:
    """Return the compiler's arguments for GStreamer. Raises MissingRuntimeError if it is not installed."""
    install = (
        "install GStreamer's headers (such as: apt install libgstreamer-plugins-base1.0-dev pkg-config gcc)"
    )
    if sys.platform == "win32":
        raise MissingRuntimeError(
            "the GStreamer plugin is built on Linux and macOS only; use `sr-deploy pipe`"
        )
    tool = shutil.which("pkg-config") or shutil.which("pkgconf")
    if tool is None:
        raise MissingRuntimeError(f"the GStreamer plugin needs pkg-config, which is not there; {install}")
    wanted = [f"{_PACKAGES[0]} >= {_OLDEST}", _PACKAGES[1]]
    done = subprocess.run([tool, "--cflags", "--libs", *wanted], capture_output=True, encoding="utf-8")
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if line.strip()), "no reason given")
        raise MissingRuntimeError(
            f"the GStreamer plugin needs GStreamer {_OLDEST} or later, which pkg-config does not find ({said.strip()}); "
            f"{install}"
        )
    return done.stdout.split()


def _macros(library: str, bundled: Mapping[int, str]) -> dict[str, str]:
    """Return the macros that sruscale.c needs, as C source text."""
    models = ", ".join(f"{{{scale}, {c_string(name)}}}" for scale, name in bundled.items())
    return {
        "SRUSCALE_VERSION": c_string(sr_deploy.__version__),
        "SRUSCALE_LIBRARY": c_string(library),
        "SRUSCALE_PYTHON": c_string(f"{sys.version_info.major}.{sys.version_info.minor}"),
        "SRUSCALE_MODELS": models or '{0, ""}',
    }
