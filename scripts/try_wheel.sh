#!/usr/bin/env bash
# Build the sdist and the wheel of the last commit in a clean folder, check them with twine, and install the wheel alone on
# several Pythons. There, every command that needs no checkout has to work in a folder without one. Not a part of CI, which
# runs tests/test_wheel.py: this installs the dependencies anew.
#
#   scripts/try_wheel.sh FOLDER PYTHON...      for example: scripts/try_wheel.sh /tmp/wheel python3.10 python3.13
set -euo pipefail
folder=$(mkdir -p "${1:?name a folder}" && cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
rm -rf "$folder/source" "$folder/dist"
git clone -q --no-hardlinks . "$folder/source"
commit=$(git -C "$folder/source" rev-parse --short=12 HEAD)
constraints=$PWD/constraints.txt
unset PYTHONPATH # or the checkout would be imported

[ -x "$folder/tools/bin/twine" ] || { "$1" -m venv "$folder/tools"; "$folder/tools/bin/pip" install -q build twine; }
"$folder/tools/bin/python" -m build -o "$folder/dist" "$folder/source" > "$folder/build.log" 2>&1
"$folder/tools/bin/twine" check --strict "$folder"/dist/*
ls -l "$folder/dist" | awk 'NR > 1 {print $5, $9}'

for python in "$@"; do
    version=$("$python" -c 'import platform; print(platform.python_version())')
    there=$folder/$version
    rm -rf "$there"
    "$python" -m venv "$there"
    "$there/bin/pip" install -q -c "$constraints" "$(echo "$folder"/dist/*.whl)[cpu,video]" > "$there/pip.log" 2>&1
    mkdir "$there/work"
    cd "$there/work"
    expected="sr-deploy $("$there/bin/python" -c 'import sr_deploy; print(sr_deploy.__version__)') (commit $commit)"
    [ "$("$there/bin/sr-deploy" --version)" = "$expected" ] || { echo "$version: not '$expected'"; exit 1; }
    "$there/bin/python" - << 'END'
from pathlib import Path
import av, numpy, sr_deploy.bench
from sr_deploy import read_image, write_image
photo = read_image(Path(sr_deploy.bench.__file__).with_name("photo.webp"))
Path("photos").mkdir()
for number in range(4):
    picture = type(photo)(pixels=photo.pixels[number * 40 : number * 40 + 96, 100:228].copy())
    write_image(picture, Path("photos", f"{number}.png"))
with av.open("film.mkv", "w") as container:
    stream = container.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for number in range(5):
        pixels = numpy.ascontiguousarray(photo.pixels[number : number + 48, :64])
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    container.mux(stream.encode(None))
Path("raw.rgb").write_bytes(bytes(16 * 12 * 3 * 2))
END
    works=0
    while read -r line; do
        if ! bash -c "PATH=$there/bin:\$PATH; $line" > out.txt 2> err.txt < /dev/null; then
            echo "$version: failed: $line"
            tail -n 5 err.txt
            exit 1
        fi
        works=$((works + 1))
    done << 'END'
sr-deploy --help
sr-deploy models
sr-deploy formats
sr-deploy help pipe
sr-deploy doctor
sr-deploy upscale photos/0.png -o one.png --model rt-x4
sr-deploy upscale photos -o large --model rt-x2 --backend onnxruntime
sr-deploy video film.mkv -o film-x2.mkv --scale 2
sr-deploy pipe --size 16x12 --format rgb24 --scale 2 < raw.rgb > large.rgb
sr-deploy eval photos --model rt-x4
sr-deploy info rt-x4
sr-deploy convert rt-x4 -o fp16.onnx --precision fp16
sr-deploy convert rt-x4 -o int8.onnx --precision int8 --data photos
sr-deploy verify rt-x4 fp16.onnx --data photos
sr-deploy stamp fp16.onnx -o stamped.onnx --name mine
sr-deploy bench --model rt-x4 --backend onnxruntime --sizes 64x48 --samples 3 --seconds 0 --max-seconds 1 --rounds 1 -o bench.json
sr-deploy bench report bench.json -o report.html
sr-deploy cache list
sr-deploy serve-repo --model rt-x4 --backend onnxruntime -o repository
! sr-deploy export no-run -o x.onnx
! sr-deploy train no-recipe.toml --data photos --out run
sr-deploy capi build -o library || [ $? = 4 ]
END
    cd - > /dev/null
    echo "$version: --version tells $commit, and $works commands do what they should"
done
