"""Find out whether the GStreamer element works here, for `sr-deploy doctor`. Nothing here raises or builds."""

from __future__ import annotations

import os
import shutil
import subprocess

from sr_deploy.capi.build import find_compiler, python_headers, python_library
from sr_deploy.errors import MissingRuntimeError
from sr_deploy.gstreamer.build import default_folder, gstreamer_flags, plugin_in

_COMMAND = "sr-deploy gstreamer --plugin-path"
_INSPECT_SECONDS = 60
"""Time limit for GStreamer's tool; its first start after an installation reads all plugins."""


def gstreamer_state() -> tuple[bool | None, str]:
    """Return whether the element works (None: it was not built yet), and the reason."""
    try:
        folder = default_folder()
        if folder is None or not (plugin := plugin_in(folder)).file.is_file():
            return _can_build()
        tool = shutil.which("gst-inspect-1.0")
        if tool is None:
            return None, "the plugin is built; apt install gstreamer1.0-tools to try it"
        done = subprocess.run(
            [tool, "sruscale"],
            env={**os.environ, "GST_PLUGIN_PATH": str(plugin.folder)},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_INSPECT_SECONDS,
        )
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
    if done.returncode:
        return False, f"GStreamer does not load {plugin.file}; delete it and run `{_COMMAND}`"
    return True, f'found with: export GST_PLUGIN_PATH="$({_COMMAND})"'


def _can_build() -> tuple[bool | None, str]:
    """Return None and the command that builds the plugin, or False and what is missing for it."""
    try:
        gstreamer_flags()
        find_compiler()
        python_headers()
        python_library()
    except MissingRuntimeError as error:
        return False, str(error)
    return None, f"not built yet; build it with `{_COMMAND}`"
