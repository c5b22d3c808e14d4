"""Draw pictures of text, line art and screens, which photographs do not contain.

The fonts are those that are built into OpenCV: the stroke fonts of A. V. Hershey in OpenCV 4, Rubik (SIL Open Font
License) in OpenCV 5. So the pixels depend on its version. Everything is drawn twice as large and shrunk by averaging,
so edges are smooth.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np

from sr_deploy.system.arrays import Uint8Array

_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX_SMALL,
)  # fmt: skip
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?()-+=%&/"))
Colour = tuple[int, int, int]


def drawing(height: int, width: int, *, seed: int) -> Uint8Array:
    """Return a drawn picture [height, width, 3] uint8, RGB: text, line art or a screen, chosen by `seed`."""
    random = np.random.default_rng(seed)
    canvas = np.empty((2 * height, 2 * width, 3), np.uint8)
    canvas[:] = _colours(random)[0]
    kind = seed % 3
    (_text_page, _line_art, _screen)[kind](canvas, random)
    return cast(Uint8Array, cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA))


def _colours(random: np.random.Generator) -> tuple[Colour, Colour]:
    """Draw a background and a colour that can be read on it: often black and white, else any two."""
    if random.random() < 0.5:
        pair = [(255, 255, 255), (0, 0, 0)]
    else:
        light, dark = random.integers(170, 256, 3), random.integers(0, 90, 3)
        pair = [cast(Colour, tuple(int(n) for n in light)), cast(Colour, tuple(int(n) for n in dark))]
    if random.random() < 0.3:
        pair.reverse()
    return pair[0], pair[1]


def _words(random: np.random.Generator, count: int) -> str:
    """Draw words of random letters."""
    return " ".join("".join(random.choice(_LETTERS, random.integers(2, 9))) for _ in range(count))


def _write(canvas: Uint8Array, at: tuple[int, int], colour: Colour, random: np.random.Generator) -> int:
    """Write a line of text at (x, y of the baseline). Returns the height of the line in pixels."""
    font = int(random.choice(_FONTS)) | (cv2.FONT_ITALIC if random.random() < 0.2 else 0)
    size, stroke = float(random.uniform(0.6, 2.4)), int(random.integers(1, 4))
    cv2.putText(
        canvas, _words(random, int(random.integers(2, 9))), at, font, size, colour, stroke, cv2.LINE_AA
    )
    return int(24 * size) + stroke


def _text_page(canvas: Uint8Array, random: np.random.Generator) -> None:
    """Fill the canvas with lines of text in one or a few colours."""
    background, ink = _colours(random)
    canvas[:] = background
    down = 30
    while down < canvas.shape[0]:
        down += 20 + _write(canvas, (int(random.integers(0, 60)), down), ink, random)
        if random.random() < 0.1:
            background, ink = _colours(random)
            canvas[down - 10 :] = background


def _place(canvas: Uint8Array, random: np.random.Generator) -> tuple[int, int]:
    """Draw a point (x, y) of the canvas."""
    return int(random.integers(0, canvas.shape[1])), int(random.integers(0, canvas.shape[0]))


def _line_art(canvas: Uint8Array, random: np.random.Generator) -> None:
    """Draw curves, ellipses and flat areas, as in comics, diagrams and maps."""
    background, ink = _colours(random)
    canvas[:] = background
    for _ in range(random.integers(20, 60)):
        colour = ink if random.random() < 0.7 else _colours(random)[1]
        stroke = int(random.integers(1, 9))
        what = random.random()
        if what < 0.4:
            middle, axes = _place(canvas, random), tuple(int(n) for n in random.integers(4, 220, 2))
            fill = -1 if random.random() < 0.4 else stroke
            cv2.ellipse(
                canvas, middle, axes, float(random.uniform(0, 180)), 0, 360, colour, fill, cv2.LINE_AA
            )
        elif what < 0.8:
            steps = random.normal(0, 60, (int(random.integers(3, 12)), 2)).cumsum(axis=0)
            points = (np.array(_place(canvas, random)) + steps).astype(np.int32)
            cv2.polylines(canvas, [points], False, colour, stroke, cv2.LINE_AA)
        else:
            start, step = _place(canvas, random), int(random.integers(6, 24))
            for number in range(random.integers(4, 16)):  # hatching
                x, y = start[0] + number * step, start[1]
                cv2.line(canvas, (x, y), (x + 60, y + 160), colour, max(1, stroke // 2), cv2.LINE_AA)


def _screen(canvas: Uint8Array, random: np.random.Generator) -> None:
    """Draw windows with borders, bars, buttons and text, whose edges lie on whole pixels of the finished picture."""
    for _ in range(random.integers(4, 10)):
        background, ink = _colours(random)
        (left, top), (w, h) = _place(canvas, random), random.integers(60, 700, 2)
        left, top, right, bottom = (2 * int(n // 2) for n in (left, top, left + w, top + h))
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), background, -1)
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), ink, 2)
        area = canvas[top + 4 : bottom - 4, left + 4 : right - 4]
        if area.size:
            inside = np.ascontiguousarray(area)
            down = 24
            while down < inside.shape[0]:
                down += 14 + _write(inside, (8, down), ink, random)
            area[:] = inside
