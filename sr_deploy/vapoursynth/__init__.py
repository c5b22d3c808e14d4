"""Upscale a clip in a VapourSynth script.

    from sr_deploy.vapoursynth import Upscale
    clip = Upscale(clip, model="rt-x2")

`clip` builds the filter, `frame` converts one frame, `formats` reads formats and properties.
"""

from sr_deploy.vapoursynth.clip import Upscale as Upscale

__all__ = ["Upscale"]
