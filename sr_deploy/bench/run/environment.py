"""Describe the environment of a measurement: the machine, its limits, its state, and versions."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from sr_deploy.bench.result import BenchMachine, Environment, State
from sr_deploy.system.cgroup import cpu_quota, memory_limit
from sr_deploy.system.cpu import describe_cpu
from sr_deploy.system.memory import available_memory

_CPU0 = Path("/sys/devices/system/cpu/cpu0/cpufreq")
"""Linux's files about the clock of the first processor."""
_DISTRIBUTIONS = (
    "sr-deploy",
    "numpy",
    "opencv-python-headless",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu12-libs",
    "pycuda",
    "torch",
    "ncnn",
)
"""Python distributions whose versions are recorded; the ones that are not installed are left out."""


def describe_environment(busy_elsewhere: float | None = None) -> Environment:
    """Describe the environment as it is now. Asks the GPU driver, which takes a moment."""
    # Imported here because workers import this module too, and need only `load`.
    from sr_deploy.engines.nvidia import find_gpus

    gpus, _ = find_gpus()
    return Environment(
        machine=_machine(tuple(gpu.name for gpu in gpus)),
        state=_state(busy_elsewhere),
        platform=platform.platform(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions=_versions(),
        driver=next((gpu.driver for gpu in gpus if gpu.driver), None),
    )


def load() -> float | None:
    """Number of runnable processes, averaged over the last minute; None if the platform does not report it."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _machine(gpus: tuple[str, ...]) -> BenchMachine:
    """The properties that two results must share to be compared. The quota is read on Linux only."""
    cpu = describe_cpu()
    return BenchMachine(
        cpu=cpu.name,
        architecture=cpu.architecture,
        system=platform.system(),
        cores=cpu.cores,
        usable_cores=cpu.usable_cores,
        features=cpu.features,
        cpu_quota=cpu_quota(),
        memory_limit=memory_limit(),
        gpus=gpus,
    )


def _state(busy_elsewhere: float | None) -> State:
    """The state of the machine now: load, clock and memory. Values that cannot be read are None."""
    return State(
        load=load(),
        busy_elsewhere=busy_elsewhere,
        governor=_read_text(_CPU0 / "scaling_governor"),
        clock_mhz=_clock_now(),
        top_clock_mhz=_read_mhz(_CPU0 / "cpuinfo_max_freq"),
        memory_total=_memory_total(),
        memory_available=available_memory(),
        virtual=_hypervisor(),
    )


def _versions() -> dict[str, str]:
    """Distribution -> version, for sr-deploy and the installed ones of `_DISTRIBUTIONS`."""
    from importlib import metadata

    from sr_deploy.version import __version__

    found = {"sr-deploy": __version__}
    for name in _DISTRIBUTIONS[1:]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _read_text(path: Path) -> str | None:
    """The text of a file without surrounding space; None if it is empty or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _read_mhz(path: Path) -> float | None:
    """A clock in MHz from a file of Linux, which holds kHz; None if it cannot be read."""
    text = _read_text(path)
    return float(text) / 1000 if text and text.isdecimal() else None


def _clock_now() -> float | None:
    """The clock of the first processor in MHz, without cpufreq from /proc/cpuinfo; None if unknown."""
    if (now := _read_mhz(_CPU0 / "scaling_cur_freq")) is not None:
        return now
    return _number_after("cpu MHz", Path("/proc/cpuinfo"))


def _memory_total() -> int | None:
    """The memory of the machine in bytes; /proc/meminfo counts in KiB. None if unknown."""
    total = _number_after("MemTotal", Path("/proc/meminfo"))
    if total is not None:
        return int(total) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _hypervisor() -> str | None:
    """The vendor of the virtual machine by its firmware (DMI), "yes" without a name; None on bare metal."""
    for name in ("sys_vendor", "product_name"):
        if text := _read_text(Path("/sys/devices/virtual/dmi/id") / name):
            return text if "hypervisor" in (_read_text(Path("/proc/cpuinfo")) or "") else None
    return "yes" if " hypervisor" in (_read_text(Path("/proc/cpuinfo")) or "") else None


def _number_after(key: str, path: Path) -> float | None:
    """The first number on the line "key: number" of a file; None if there is none."""
    for line in (_read_text(path) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            try:
                return float(value.split()[0])
            except (ValueError, IndexError):
                return None
    return None
