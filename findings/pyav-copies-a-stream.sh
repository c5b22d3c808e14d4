#!/usr/bin/env bash
# PyAV needs an encoder to copy a video stream, unless it is told that the stream is opaque.
#
# Versions: av 18.1.0 (FFmpeg 8.1 inside), numpy 2.4.6; seen in November 2026.
# Expected: add_stream_from_template() copies a stream's parameters into a container, for packets that are not decoded.
# Seen:     for an AV1 stream it looks for an encoder that is called like the decoder (libdav1d) and fails, although the container
#           takes AV1 and no packet is encoded. With opaque=True the same packets are written and read back.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q av==18.1.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY' 2> errors.txt
import av
import numpy as np

with av.open("source.mkv", "w") as container:
    stream = container.add_stream("libsvtav1", rate=25)
    stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
    for value in range(5):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((96, 128, 3), 40 * value, np.uint8), format="rgb24")))
    container.mux(stream.encode())


def copied(**options):
    with av.open("source.mkv") as source, av.open("copy.mkv", "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], **options)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    with av.open("copy.mkv") as container:
        return sum(1 for _ in container.decode(video=0))


try:
    plain = f"{copied()} frames"
except Exception as error:
    plain = f"{type(error).__name__}: {error}"
opaque = copied(opaque=True)
print("as it is:", plain)
print("opaque=True:", opaque, "frames")
assert "libdav1d" in plain and opaque == 5, "the finding has changed"
PY
