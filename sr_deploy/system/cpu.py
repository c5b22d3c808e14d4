"""What the processor can do and how much of it this process may use. Nothing here raises."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.system.cores import usable_cores

_FLAGS = {
    # name: what Linux, macOS and NumPy call it
    "AVX2": {"avx2", "hw.optional.avx2_0", "AVX2"},
    "FMA": {"fma", "hw.optional.fma", "FMA3"},
    "AVX-512": {"avx512f", "hw.optional.avx512f", "AVX512F"},
    "AVX-512 VNNI": {"avx512_vnni", "hw.optional.avx512vnni", "AVX512VNNI"},
    "AVX VNNI": {"avx_vnni"},
    "AVX-512 BF16": {"avx512_bf16", "AVX512BF16"},
    "AMX BF16": {"amx_bf16"},
    "AMX INT8": {"amx_int8"},
    "NEON": {"asimd", "hw.optional.AdvSIMD", "hw.optional.neon", "NEON", "ASIMD"},
    "FP16": {"asimdhp", "hw.optional.arm.FEAT_FP16", "ASIMDHP"},
    "DOTPROD": {"asimddp", "hw.optional.arm.FEAT_DotProd", "ASIMDDP"},
    "BF16": {"bf16", "hw.optional.arm.FEAT_BF16"},
    "I8MM": {"i8mm", "hw.optional.arm.FEAT_I8MM"},
    "SVE": {"sve", "SVE"},
}


@dataclass(frozen=True, kw_only=True)
class CpuInfo:
    """A processor as this process sees it."""

    name: str
    architecture: str
    cores: int
    """Logical cores of the machine."""
    usable_cores: int
    """Physical ones that affinity and container limits leave, where that is known: what a backend uses."""
    features: tuple[str, ...]
    """Of the instruction sets that matter to neural networks."""


def describe_cpu() -> CpuInfo:
    """The processor of this machine."""
    linux = _linux_facts()
    flags = set((linux.get("flags") or linux.get("Features") or "").split()) or _mac_flags() or _numpy_flags()
    cores = os.cpu_count() or 1
    return CpuInfo(
        name=linux.get("model name")
        or _sysctl("-n", "machdep.cpu.brand_string")
        or platform.processor()
        or "unknown",
        architecture=platform.machine() or "unknown",
        cores=cores,
        usable_cores=usable_cores() or cores,
        features=tuple(name for name, spellings in _FLAGS.items() if spellings & flags),
    )


def _linux_facts() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _sysctl(*arguments: str) -> str:
    """What macOS's `sysctl` prints; empty elsewhere, and where it fails."""
    if platform.system() != "Darwin":
        return ""
    import subprocess  # costs as much as all else here, and only macOS needs it

    try:
        result = subprocess.run(["sysctl", *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _mac_flags() -> set[str]:
    """Those of `hw.optional` that are 1."""
    return set(re.findall(r"^(hw\.optional\.\S+): 1$", _sysctl("hw.optional"), re.MULTILINE))


def _numpy_flags() -> set[str]:
    """What NumPy found out for itself: Windows, and where /proc is not mounted."""
    try:
        import numpy as np

        core = getattr(np, "_core", None) or np.core
        return {name for name, there in core._multiarray_umath.__cpu_features__.items() if there}
    except Exception:  # a private name of NumPy, or no NumPy
        return set()
