#!/usr/bin/env python
"""Run the commands in an empty home and in a read-only home, and list what they looked up, connected to and wrote.

python scripts/trace_commands.py [--home empty|read-only]

Linux only; needs strace, a C compiler and, for a read-only home as root, unshare. Every system call that
creates, opens for writing, renames or removes a file, and every call about the network, is traced in all processes
of a command. Expected: no look-up, no connection, and no file outside the working folder, the cache and the
temporary folder, which must be empty again. Exit code 1 otherwise. It takes minutes, so CI does not run it.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx

ROOT = Path(__file__).resolve().parent.parent
_TRACED = "network,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
_RECIPE = """
name = "tiny"
precision = "off"
validation = 2
[net]
architecture = "rt"
features = 4
depth = 1
[[phase]]
scale = 2
crop = 8
batch = 4
steps = 12
learning_rate = 1e-2
"""
_COMMANDS = (
    "doctor",
    "formats",
    "models",
    "upscale a.png -o one.png --backend onnxruntime",
    "upscale a.png -o two.png --backend openvino",
    "upscale pictures -o results --backend auto",
    "upscale pictures -o results --backend auto",
    "info rt-x2",
    "stamp foreign.onnx -o stamped.onnx",
    "convert rt-x2 -o half.onnx --precision fp16",
    "convert rt-x2 -o small.onnx --precision int8 --data pictures",
    "verify half.onnx --data pictures",
    "bench --model half.onnx --sizes 64x48 --samples 3 --max-seconds 1 --backend onnxruntime -o bench.json",
    "eval pictures --model rt-x2",
    "train tiny.toml --data pictures --out trained --device cpu",
    "export trained/last.safetensors -o tiny.onnx",
    "serve-repo --model rt-x2 --output repository",
    "video clip.mkv -o large.mkv --model rt-x2",
    "cache list",
    "capi build -o sdk",
)
"""Arguments of sr-deploy. Commands that fail are reported; they are traced all the same."""
_CALL = re.compile(r"^\d+\s+(\w+)\((.*)$")
_PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')
_WRITES = ("O_WRONLY", "O_RDWR", "O_CREAT")


def make_inputs(folder: Path) -> None:
    """Pictures, a clip, a foreign model, a recipe, and a picture for the C library's example."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for number in range(6):
        small = rng.integers(0, 256, (12, 16, 3), np.uint8)
        picture = cv2.resize(small, (96, 72), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "pictures" / f"{number}.png"), picture)
    cv2.imwrite(str(folder / "a.png"), picture)
    cv2.imwrite(str(folder / "a.ppm"), picture)
    writer = cv2.VideoWriter(str(folder / "clip.mkv"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (96, 72))
    for _ in range(4):
        writer.write(picture)
    writer.release()
    model = onnx.load(ROOT / "sr_deploy" / "models" / "rt-x2.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "foreign.onnx")
    (folder / "tiny.toml").write_text(_RECIPE, encoding="utf-8")


def commands(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(what is run, command) for each command, and for the C library's example once that is built."""
    for line in _COMMANDS:
        yield line, [sys.executable, "-m", "sr_deploy", *line.split()]
    example = folder / "example"
    flags = ["-Isdk/include", "-Lsdk/lib", "-lsr_deploy", f"-Wl,-rpath,{folder / 'sdk' / 'lib'}"]
    build = ["cc", str(ROOT / "examples" / "c" / "upscale_ppm.c"), "-o", str(example), *flags]
    subprocess.run(build, cwd=folder, check=True)
    yield "example of the C library", [str(example), "rt-x2", "a.ppm", "large.ppm"]


def environment(home: Path, temporary: Path) -> dict[str, str]:
    """The environment of a user who has just been created."""
    dropped = ("XDG_", "SR_DEPLOY", "ORT_", "CI", "GITHUB", "OPENVINO", "PIP_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return kept | {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def traced(command: list[str], folder: Path, home: Path, *, read_only: bool) -> tuple[int, str, str]:
    """Run `command` under strace. Returns its exit code, its output, and the trace."""
    temporary, log = folder.parent / "tmp", folder.parent / "trace"
    temporary.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    call = ["strace", "-f", "-qq", "-s", "300", "-o", str(log), "-e", f"trace={_TRACED}", *command]
    if read_only and os.geteuid() == 0:  # permissions do not bind root, a mount does
        place = shlex.quote(str(home))
        inner = f"mount --bind {place} {place} && mount -o remount,bind,ro {place} && exec {shlex.join(call)}"
        call = ["unshare", "-m", "sh", "-c", inner]
    done = subprocess.run(
        call, cwd=folder, env=environment(home, temporary), capture_output=True, text=True, timeout=600
    )
    return done.returncode, done.stdout + done.stderr, log.read_text(errors="replace") if log.exists() else ""


def findings(trace: str, folder: Path, home: Path) -> Iterator[str]:
    """What a trace holds that it must not: look-ups, connections, and writes outside of the allowed places."""
    allowed = (
        str(folder),
        str(home / ".cache" / "sr-deploy"),
        str(folder.parent / "tmp"),
        "/dev/",
        "/proc/self",
    )
    for line in trace.splitlines():
        found = _CALL.match(line)
        if found is None:
            continue
        call, rest = found[1], found[2]
        # nscd answers look-ups; where it is missing, libc reads these files for hosts, and others for users
        asked_nscd = "nscd/" in rest and "= -1 ENOENT" not in rest
        if "AF_INET" in rest or asked_nscd or '"/etc/resolv.conf"' in rest or '"/etc/hosts"' in rest:
            yield line
        if call in ("open", "openat") and not any(flag in rest for flag in _WRITES):
            continue
        if "= -1 " in rest or call in ("connect", "bind", "socket", "sendto"):
            continue
        if (
            "__pycache__" in rest
        ):  # the C library's interpreter ignores variables: Python compiles our checkout
            continue
        for path in _PATH.findall(rest):
            if path.startswith("/") and not path.startswith(allowed) and path != str(home / ".cache"):
                yield line
                break


def run(home_kind: str) -> int:
    """Trace all commands with one kind of home. Returns the number of findings."""
    count = 0
    with tempfile.TemporaryDirectory() as place:
        folder, home = Path(place) / "work", Path(place) / "home"
        folder.mkdir()
        home.mkdir()
        make_inputs(folder)
        read_only = home_kind == "read-only"
        if read_only:
            home.chmod(0o555)
        for name, command in commands(folder):
            code, output, trace = traced(command, folder, home, read_only=read_only)
            found = list(dict.fromkeys(findings(trace, folder, home)))
            left = [str(path) for path in (folder.parent / "tmp").rglob("*")]
            count += len(found) + len(left)
            calls = trace.count("\n")
            print(
                f"{home_kind} home: {name}: exit code {code}, {calls} calls, {len(found)} findings",
                flush=True,
            )
            if code:
                print("  " + output.strip()[-300:].replace("\n", "\n  "))
            for line in (*found[:10], *left[:10]):
                print(f"  {line[:240]}")
        home.chmod(0o755)
        files = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
        outside = [name for name in files if read_only or not name.startswith(".cache/sr-deploy/")]
        print(
            f"{home_kind} home: {len(files)} files in it, {len(outside)} of them not expected: {outside[:10]}"
        )
        return count + len(outside)


def main() -> int:
    """Run as a script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", choices=("empty", "read-only"), action="append")
    kinds = parser.parse_args().home or ["empty", "read-only"]
    count = sum(run(kind) for kind in kinds)
    print(f"{count} findings")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
