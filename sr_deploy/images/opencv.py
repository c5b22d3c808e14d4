"""OpenCV without its log output. Modules that need OpenCV import `cv2` from here.

Its messages on stderr would duplicate the errors that sr-deploy raises itself. A user who sets
OPENCV_LOG_LEVEL gets them all the same.
"""

from __future__ import annotations

import os

import cv2 as cv2

_SILENT = 0  # LOG_LEVEL_SILENT

if "OPENCV_LOG_LEVEL" not in os.environ:
    if hasattr(cv2, "setLogLevel"):  # OpenCV 4
        cv2.setLogLevel(_SILENT)
    else:
        cv2.utils.logging.setLogLevel(_SILENT)
