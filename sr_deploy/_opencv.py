"""OpenCV, silent: what is wrong with a file, our errors say. Modules that decode or encode import `cv2` from here."""

from __future__ import annotations

import os

import cv2 as cv2

if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
