"""OpenCV, silent: what is wrong with a file, our errors say. Modules that decode or encode import `cv2` from here."""

from __future__ import annotations

import os

import cv2 as cv2

_SILENT = 0

if "OPENCV_LOG_LEVEL" not in os.environ:
    if hasattr(cv2, "setLogLevel"):  # OpenCV 4
        cv2.setLogLevel(_SILENT)
    else:
        cv2.utils.logging.setLogLevel(_SILENT)
