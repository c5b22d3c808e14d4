#!/usr/bin/env bash
# Run the tests that need no torch on several Pythons, each in an environment of its own, and print one line with the counts
# for each. Not a part of CI: each takes minutes.
#
#   scripts/try_pythons.sh FOLDER PYTHON...      for example: scripts/try_pythons.sh /tmp/pythons python3.10 python3.13
#
# Last runs (Linux x86-64, one process): 3.10.13 4294 passed, 53 skipped; 3.12.1 5055 passed, 62 skipped; 3.13.0 4305 passed,
# 49 skipped. 9, 1 and 2 tests failed there, were mended or run again, and pass. 3.11 runs in CI. Free-threaded builds: never run.
#
# The environments stay in FOLDER, with the output of pytest in FOLDER/VERSION.log. PROCESSES is how many processes test at
# once (default: 1). Exit code 1 if a test fails on one of them.
set -uo pipefail
folder=$(mkdir -p "${1:?name a folder for the environments}" && cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
failed=0

for python in "$@"; do
    version=$("$python" -c 'import platform; print(platform.python_version())') || { failed=1; continue; }
    there="$folder/$version"
    [ -x "$there/bin/python" ] || "$python" -m venv "$there" || { failed=1; continue; }
    # PyPI has wheels of VapourSynth for Python 3.12 and later only; the extra installs nothing before that
    if ! "$there/bin/python" -m pip install -q -c constraints.txt -e ".[cpu,openvino,video,ray,rtx,vapoursynth,test]" > "$there/pip.log" 2>&1; then
        echo "$version: not installed: $(tail -n 1 "$there/pip.log")"
        failed=1
        continue
    fi
    "$there/bin/python" -m pytest -n "${PROCESSES:-1}" -q -rfEs --no-header > "$folder/$version.log" 2>&1 || failed=1
    echo "$version: $(grep -E "^=*.*(passed|failed|error).* in " "$folder/$version.log" | tail -n 1 | tr -d =)"
done
exit "$failed"
