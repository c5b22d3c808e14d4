"""Put the tables of the README where they belong: made from the committed raw results, never typed.

python benchmarks/tables.py            # rewrites README.md between its markers
python benchmarks/tables.py --check    # writes nothing; exit code 1 where README.md is out of date
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from quality import table as quality_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def load(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def quality() -> str:
    record = load("quality-set5.json")
    return quality_table(record) if record else ""


def speed() -> str:
    record = load("upscale.json")
    if not record:
        return ""
    where, frame, tiles = record["environment"], record["frame"], record["tiles"]
    milliseconds = statistics.median(frame["seconds"]) * 1000
    rows = [
        (
            "`Upscaler` on a 480x270 uint8 frame, against a bare ONNX Runtime session on a ready float tensor",
            f"{frame['ratio']:.2f}x ({milliseconds:.0f} ms)",
        ),
        (
            f"12 megapixels in {tiles['tiles']} tiles, against one untiled megapixel, per pixel",
            f"{tiles['ratio']:.2f}x",
        ),
        (
            "`sr-deploy upscale` of one 256x256 picture, start to exit, against importing numpy, cv2 and onnxruntime",
            f"{record['start']['ratio']:.2f}x",
        ),
        (
            "peak memory of 12 megapixels to 192, over the decoded input and output themselves",
            " (of 3 to 48: ".join(
                f"{size['over_bytes'] / 1e9:.2f} GB" for size in record["memory"]["sizes"][::-1]
            )
            + ")",
        ),
    ]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    return (
        f"`python benchmarks/upscale.py --model {record['model']}`, {record['threads']} threads of {where['cpu']}, ratios "
        f"within one run:\n\n| what | cost |\n|---|---|\n{table}\n"
    )


TABLES = {"quality": quality, "speed": speed}


def filled(text: str) -> str:
    for name, make in TABLES.items():
        head, mark, rest = text.partition(f"<!-- tables: {name} -->\n")
        _, end, tail = rest.partition("<!-- end -->")
        if not (mark and end):
            raise SystemExit(f"README.md has no place for the table {name!r}")
        text = head + mark + make() + end + tail
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    page = ROOT / "README.md"
    old = page.read_text(encoding="utf-8")
    new = filled(old)
    if args.check and new != old:
        print("README.md: its tables are not those of benchmarks/results; run python benchmarks/tables.py")
        return 1
    if not args.check:
        page.write_text(new, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
