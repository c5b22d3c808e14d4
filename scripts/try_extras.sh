#!/usr/bin/env bash
# Install the extras for GPUs into empty environments, and show what `sr-deploy doctor` says there: without a driver, and
# with a stand-in for one. Not a part of CI: the wheels have 3 GB.
#
#   scripts/try_extras.sh FOLDER
#
# Needs a C compiler, Python 3.11 or later, and an index with the wheels. The packages of TensorRT's libraries on PyPI are
# placeholders that download the real ones from NVIDIA's index; where that fails, the rest of the extra is installed.
set -uo pipefail
folder=$(mkdir -p "${1:?name a folder for the environments}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."

# A driver that starts if STAND_IN is set, and then lists one GPU. TOO_OLD leaves out a function of later drivers.
cat > "$folder/driver.c" <<'END'
#include <stdlib.h>
#include <string.h>
static int code(void) { return getenv("STAND_IN") ? 0 : 100; /* CUDA_ERROR_NO_DEVICE */ }
int cuInit(unsigned flags) { (void)flags; return code(); }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = code() ? 0 : 1; return code(); }
int cuGetErrorString(int error, const char **text) { (void)error; *text = "no CUDA-capable device is detected"; return 0; }
int cuGetErrorName(int error, const char **text) { (void)error; *text = "CUDA_ERROR_NO_DEVICE"; return 0; }
int cuGetExportTable(const void **table, const void *id) { (void)table; (void)id; return 100; }
int cuGetProcAddress_v2(const char *name, void **address, int version, unsigned long flags, void *found)
{
    (void)version; (void)flags; (void)found;
    *address = !strcmp(name, "cuInit") ? (void *)cuInit : !strcmp(name, "cuDriverGetVersion") ? (void *)cuDriverGetVersion :
               !strcmp(name, "cuDeviceGetCount") ? (void *)cuDeviceGetCount : NULL;
    return *address ? 0 : 500;
}
#ifndef TOO_OLD
int cuTensorMapEncodeTiled(void) { return 100; }
#endif
END
mkdir -p "$folder/driver" "$folder/old"
cc -shared -fPIC -o "$folder/driver/libcuda.so.1" "$folder/driver.c"
cc -shared -fPIC -DTOO_OLD -o "$folder/old/libcuda.so.1" "$folder/driver.c"

doctor() { # doctor TITLE ENVIRONMENT [VARIABLE=VALUE...]
    echo "-- $1"
    (cd "$folder" && env -u PYTHONPATH "${@:3}" "$2/bin/sr-deploy" doctor | grep -E "^  (tensorrt|onnxruntime-).* works?\b")
}

for extra in rtx gpu onnxruntime-gpu; do
    echo "== [$extra]"
    there="$folder/$extra"
    python3 -m venv "$there"
    if ! "$there/bin/pip" install -q ".[$extra]" > "$there/pip.log" 2>&1; then
        echo "not as a whole: $(grep -m1 "^      The installation of" "$there/pip.log" || tail -n 1 "$there/pip.log")"
        parts=()
        [ "$extra" = onnxruntime-gpu ] && parts=("onnxruntime-gpu[cuda,cudnn]>=1.31")
        "$there/bin/pip" install -q . "${parts[@]}" >> "$there/pip.log" 2>&1
    fi
    doctor "no driver" "$there"
    [ "$extra" = onnxruntime-gpu ] || continue
    doctor "a driver that shows no GPU" "$there" LD_LIBRARY_PATH="$folder/driver"
    doctor "a driver that is too old" "$there" STAND_IN=1 LD_LIBRARY_PATH="$folder/old"
    doctor "a driver on which CUDA does not start" "$there" STAND_IN=1 LD_LIBRARY_PATH="$folder/driver"
    libraries=$(echo "$there"/lib/python3.*/site-packages/nvidia)
    mv "$libraries" "$folder/nvidia"
    doctor "no CUDA libraries" "$there" STAND_IN=1 LD_LIBRARY_PATH="$folder/driver"
    mv "$folder/nvidia" "$libraries"
done
