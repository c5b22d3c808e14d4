"""Upscale pictures with a Triton server that serves what `sr-deploy serve-repo` wrote.

    pip install "tritonclient[http]" opencv-python-headless
    python triton_client.py photo.jpg large.png --model rt-x4 --url localhost:8000

The server takes and returns pixels: uint8 [N, H, W, 3], RGB. This client does not need sr-deploy.
"""

from __future__ import annotations

import argparse
import json

import cv2
import numpy as np
from tritonclient import http as triton


def upscale(client: triton.InferenceServerClient, model: str, pixels: np.ndarray) -> np.ndarray:
    """Upscale RGB pixels, uint8 [H, W, 3], to [H * scale, W * scale, 3].

    Raises InferenceServerException with the server's error text.
    """
    taken = triton.InferInput("pixels", [1, *pixels.shape], "UINT8")
    taken.set_data_from_numpy(pixels[None])
    result = client.infer(model, [taken], outputs=[triton.InferRequestedOutput("upscaled")])
    return result.as_numpy("upscaled")[0]


def scale_of(client: triton.InferenceServerClient, model: str) -> int:
    """Return the model's scale, from the spec in its configuration."""
    parameters = client.get_model_config(model)["parameters"]
    return json.loads(parameters["sr_deploy"]["string_value"])["scale"]


def main() -> None:
    """Read the picture, upscale it, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture")
    parser.add_argument("result")
    parser.add_argument("--model", default="rt-x4")
    parser.add_argument("--url", default="localhost:8000")
    given = parser.parse_args()
    picture = cv2.imread(given.picture, cv2.IMREAD_COLOR)
    if picture is None:
        parser.error(f"{given.picture} cannot be read as a picture")
    with triton.InferenceServerClient(given.url) as client:
        large = upscale(client, given.model, np.ascontiguousarray(picture[..., ::-1]))
        print(f"{given.model}: x{scale_of(client, given.model)}, {large.shape[1]}x{large.shape[0]} pixels")
    cv2.imwrite(given.result, large[..., ::-1])


if __name__ == "__main__":
    main()
