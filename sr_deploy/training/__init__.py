"""All code that imports torch: nets, losses, data, the trainer, checkpoints and export.

No other package may import torch, so that everything else runs without it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from sr_deploy.graph.cache import folder_for_code, trusted_cache_folder


def _own_cache(name: str) -> str:
    """Path of the folder `name` in our cache, or of a temporary one, which the end of the process removes."""
    graphs = trusted_cache_folder()
    place = graphs.parent / name if graphs is not None else None
    if place is None or folder_for_code(place) or not os.access(place, os.W_OK):
        place = Path(tempfile.mkdtemp(prefix="sr-deploy-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
    return str(place)


# torch makes a folder of a known name in the shared temporary folder otherwise, and believes what it finds there
if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = _own_cache("torch")
# matplotlib writes into the home folder otherwise
if "MPLCONFIGDIR" not in os.environ:
    os.environ["MPLCONFIGDIR"] = _own_cache("matplotlib")
