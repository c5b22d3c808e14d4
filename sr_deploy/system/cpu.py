"""The processor: its name, its instruction sets, and how many cores this process may use. Nothing raises."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.system.cores import usable_cores

# Instruction sets that matter to neural networks. Name -> its spellings in /proc/cpuinfo on Linux, in sysctl on
# macOS, and in NumPy.
_FLAGS = {
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
    """Name given by the manufacturer, or "unknown"."""
    architecture: str
    """Architecture of the machine, for example x86_64 or arm64."""
    cores: int
    """Number of logical cores of the machine."""
    usable_cores: int
    """Number of physical cores that affinity and container limits leave, if known, else `cores`.
    Backends use as many threads.
    """
    features: tuple[str, ...]
    """Instruction sets that the processor has, as named in `_FLAGS`."""


def describe_cpu() -> CpuInfo:
    """The processor of this machine. Takes milliseconds on Linux; on macOS it starts `sysctl`."""
    linux = _linux_facts()
    # the line is called "flags" on x86 and "Features" on Arm
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
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _sysctl(*arguments: str) -> str:
    """Output of macOS's `sysctl`; empty on other systems or if it fails."""
    if platform.system() != "Darwin":
        return ""
    import subprocess  # takes as long to import as everything else here, and only macOS needs it

    try:
        result = subprocess.run(["sysctl", *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _mac_flags() -> set[str]:
    """Names under `hw.optional` whose value is 1."""
    return set(re.findall(r"^(hw\.optional\.\S+): 1$", _sysctl("hw.optional"), re.MULTILINE))


def _numpy_flags() -> set[str]:
    """Instruction sets that NumPy detected. Used on Windows, and where /proc is not mounted."""
    try:
        import numpy as np

        core = getattr(np, "_core", None) or np.core  # renamed in NumPy 2
        return {name for name, there in core._multiarray_umath.__cpu_features__.items() if there}
    except Exception:  # this name is private and may change; or NumPy is not installed
        return set()
