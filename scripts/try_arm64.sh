#!/usr/bin/env bash
# Run the half of sr-deploy that needs no training in an emulated Debian for arm64, and compare its pictures with those of
# this machine. Not a part of CI: it takes half an hour on an idle machine. docs/notes/arm64.md sums up its log.
#
#   scripts/try_arm64.sh FOLDER [DEBIAN-MIRROR] 2>&1 | tee log
#
# Needs root, x86-64 Linux, and Debian's packages debootstrap and qemu-user-static. A system that FOLDER has already is used
# again. Emulated times say nothing about real machines.
set -euo pipefail
folder=$(mkdir -p "${1:?name a folder for the system}" && cd "$1" && pwd)
mirror=${2:-http://deb.debian.org/debian}
cd "$(dirname "$0")/.."
root=$folder/root
packages=ca-certificates,python3,python3-venv,python3-dev,gcc,libc6-dev
python_version=3.11 # of Debian 12

here() { echo "== $*"; }

# The kernel starts programs for arm64 by this; F: the emulator is opened now, so it need not be in the new root
if [ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]; then
    mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    cat /usr/lib/binfmt.d/qemu-aarch64.conf > /proc/sys/fs/binfmt_misc/register
fi
if [ ! -e "$root/usr/bin/python3" ]; then
    here "Debian 12 for arm64"
    debootstrap --foreign --arch=arm64 --variant=minbase --include=$packages bookworm "$root" "$mirror" > "$folder/debootstrap.log"
    chroot "$root" /debootstrap/debootstrap --second-stage >> "$folder/debootstrap.log"
fi
# Not /sys: ONNX Runtime 1.32 crashes on import where an arm64 program sees the processors of x86 there
for place in proc dev; do
    mountpoint -q "$root/$place" || mount --bind "/$place" "$root/$place"
done
trap 'umount "$root/proc" "$root/dev"' EXIT
there() { chroot "$root" env -i PATH=/srv/venv/bin:/usr/bin:/bin HOME=/root LANG=C.UTF-8 "$@"; }

here "wheels"
rm -rf "$root/srv/wheels" "$root/srv/work"
mkdir -p "$root/srv/wheels" "$root/srv/work"
python3 -m venv "$folder/host"
"$folder/host/bin/pip" install -qq -c constraints.txt ".[cpu,openvino]"
"$folder/host/bin/pip" wheel -qq --no-deps -w "$root/srv/wheels" .
"$folder/host/bin/pip" freeze | grep -v sr-deploy > "$folder/same-versions.txt"
"$folder/host/bin/pip" wheel -qq --no-deps -w "$root/srv/wheels" pyvips # has no wheel on PyPI, and no compiled code
download() {
    local platforms=(manylinux{2014,_2_17,_2_26,_2_27,_2_28,_2_31,_2_34,_2_35}_aarch64) # pip takes the named ones alone
    "$folder/host/bin/pip" download -qq -d "$root/srv/wheels" --only-binary :all: --python-version $python_version \
        "${platforms[@]/#/--platform=}" --find-links "$root/srv/wheels" -c "$folder/same-versions.txt" "$@"
}
download "$root"/srv/wheels/sr_deploy-*.whl setuptools
download onnxruntime
download openvino || echo "no wheel of openvino"
find "$root/srv/wheels" -name '*.whl' -printf '%f\n' | sort

here "README's first command, from the wheels"
rm -rf "$root/srv/venv"
there python3 -m venv /srv/venv
there pip install -q --no-index --find-links /srv/wheels "sr-deploy[cpu]"
cp -r examples scripts/arm64_pixels.py "$root/srv/work/"
there sr-deploy --version
there uname -m
there sh -c 'cd /srv/work && sr-deploy upscale examples/colosseum.png -o colosseum-x4.png'

here "doctor"
there sr-deploy doctor || true

here "info, and bench for a few seconds"
there sr-deploy info rt-x4
there sr-deploy bench --model rt-x2 --sizes 64x64 --samples 3 --seconds 1 --max-seconds 20 || echo "bench failed: $?"

here "the same pictures on this machine and on arm64, whole and in tiles"
"$folder/host/bin/python" scripts/arm64_pixels.py make "$folder/pixels-x86.npz"
cp "$folder/pixels-x86.npz" "$root/srv/work/"
compare() { there sh -c "cd /srv/work && timeout 3000 python arm64_pixels.py compare pixels-x86.npz $1" || echo "compare failed: $?"; }
compare onnxruntime

here "the C library and its example"
there sh -c 'cd /srv/work && sr-deploy capi build -o sdk &&
    cc examples/c/upscale_ppm.c -o upscale_ppm -Isdk/include -Lsdk/lib -lsr_deploy -Wl,-rpath,/srv/work/sdk/lib -lm &&
    python -c "
from sr_deploy import Image, read_image, write_image
small = read_image(\"examples/colosseum.png\").pixels[:60, :90].copy()
write_image(Image(pixels=small), \"in.png\")
open(\"in.ppm\", \"wb\").write(b\"P6 90 60 255\\n\" + small.tobytes())" &&
    ./upscale_ppm rt-x4 in.ppm out.ppm && sr-deploy upscale in.png -o cli.png && python -c "
from sr_deploy import read_image
same = open(\"out.ppm\", \"rb\").read().endswith(read_image(\"cli.png\").pixels.tobytes())
print(\"the C example gives the bytes of upscale\" if same else \"the C example gives other bytes than upscale\")"' ||
    echo "the C example failed: $?"
there sh -c 'cd /srv/work && cc examples/c/threads.c -o threads -Isdk/include -Lsdk/lib -lsr_deploy -Wl,-rpath,/srv/work/sdk/lib -pthread -lm && ./threads rt-x2' || echo "threads failed: $?"
here "OpenVINO"
if there pip install -q --no-index --find-links /srv/wheels "sr-deploy[openvino]"; then
    compare openvino
fi
here "done"
