"""One small instance of every architecture that spandrel 0.4.2 loads, with random weights of a fixed seed.

The sizes are chosen so that an export takes seconds. Depth and width are smaller than in published checkpoints; the
operators and the logic of sizes are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

_SWIN: dict[str, Any] = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "mlp_ratio": 2.0}

INSTANCES: dict[str, tuple[str, dict[str, Any]]] = {
    "ATD": ("ATD", _SWIN | {"window_size": 8, "category_size": 64, "num_tokens": 16, "reducted_dim": 4, "upscale": 4,
                            "upsampler": "pixelshuffledirect"}),
    "AuraSR": ("AuraSR", {"dim": 8, "image_size": None, "input_image_size": None, "down_dim_mults": (2, 2, 2),
                          "init_dim": 8, "up_dim_mults": (1, 1, 2, 2, 2), "attn_depths": (2, 2, 2, 1, 1),
                          "mid_attn_depth": 1, "skip_connect_scale": 0.4, "self_attn_dim_head": 4,
                          "style_network": {"dim_in": 16, "dim_out": 64, "depth": 2}}),
    "CRAFT": ("CRAFT", {"embed_dim": 48, "depths": [2], "num_heads": [6], "upscale": 4}),
    "Compact": ("Compact", {"num_feat": 16, "num_conv": 4, "upscale": 4}),
    "DAT": ("DAT", {"embed_dim": 64, "split_size": [8, 16], "depth": [4], "num_heads": [2], "expansion_factor": 2.0,
                    "upscale": 4, "upsampler": "pixelshuffledirect"}),
    "DCTLSA": ("DCTLSA", {"nf": 20, "num_modules": 6, "upscale": 4, "num_head": 5}),
    "DITN": ("DITN", {"dim": 12, "ITL_blocks": 2, "SAL_blocks": 2, "UFONE_blocks": 1, "upscale": 4}),
    "DRCT": ("DRCT", _SWIN | {"depths": (6,), "num_heads": (2,), "window_size": 8, "upscale": 4,
                              "upsampler": "pixelshuffle", "gc": 8}),
    "DRUNet": ("DRUNet", {"in_nc": 4, "out_nc": 3, "nc": [8, 16, 24, 32], "nb": 2}),
    "DnCNN": ("DnCNN", {"in_nc": 3, "out_nc": 3, "nc": 16, "nb": 9, "act_mode": "R"}),
    "ESRGAN": ("ESRGAN", {"num_filters": 16, "num_blocks": 2, "scale": 4}),
    "FBCNN": ("FBCNN", {"nc": [8, 16, 24, 512], "nb": 2}),
    "FDAT": ("FDAT", {"embed_dim": 16, "num_groups": 1, "depth_per_group": 2, "num_heads": 2, "mid_dim": 16}),
    "FFTformer": ("FFTformer", {"dim": 8, "num_blocks": [1, 1, 1], "num_refinement_blocks": 1}),
    "GFPGAN": ("GFPGAN", {}),
    "GRL": ("GRL", {"img_size": 64, "embed_dim": 16, "upscale": 4, "upsampler": "pixelshuffledirect", "depths": [2],
                    "num_heads_window": [2], "num_heads_stripe": [2], "window_size": 8, "stripe_size": [8, None],
                    "stripe_groups": [None, 4], "stripe_shift": True, "mlp_ratio": 2.0}),
    "HAT": ("HAT", _SWIN | {"window_size": 8, "upscale": 4, "upsampler": "pixelshuffle", "squeeze_factor": 4,
                            "num_feat": 16}),
    "HVICIDNet": ("HVICIDNet", {"channels": [12, 12, 24, 48]}),
    "IPT": ("IPT", {"patch_size": 24, "n_feats": 4, "num_heads": 12, "num_layers": 1, "scale": [4]}),
    "KBNet": ("KBNet_s", {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}),
    "LaMa": ("LaMa", {"in_nc": 4, "out_nc": 3}),
    "MMRealSR": ("MMRealSR", {"num_in_ch": 3, "num_out_ch": 3, "scale": 4, "num_feat": 8, "num_block": 1,
                              "num_grow_ch": 4}),
    "MixDehazeNet": ("MixDehazeNet", {"embed_dims": [8, 16, 24, 16, 8], "depths": [1, 1, 1, 1, 1]}),
    "MoESR": ("MoESR", {"dim": 16, "n_blocks": 1, "n_block": 1, "upsample_dim": 16}),
    "MoSR": ("MoSR", {"n_block": 2, "dim": 16}),
    "NAFNet": ("NAFNet", {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}),
    "OmniSR": ("OmniSR", {"num_feat": 16, "block_num": 1, "res_num": 1}),
    "PLKSR": ("RealPLKSR", {"dim": 16, "n_blocks": 2, "dysample": True}),
    "RCAN": ("RCAN", {"n_resgroups": 1, "n_resblocks": 2, "n_feats": 16, "reduction": 4}),
    "RGT": ("RGT", {"embed_dim": 64, "depth": [2, 2], "num_heads": [2, 2], "mlp_ratio": 2.0, "upscale": 4}),
    "RealCUGAN": ("UpCunet2x", {}),
    "RestoreFormer": ("RestoreFormer", {"n_embed": 64, "embed_dim": 32, "ch": 32, "z_channels": 32,
                                        "num_res_blocks": 1}),
    "RetinexFormer": ("RetinexFormer", {"n_feat": 8, "stage": 1, "num_blocks": [1, 1, 1]}),
    "SAFMN": ("SAFMN", {"dim": 12, "n_blocks": 2}),
    "SAFMNBCIE": ("SAFMNBCIE", {"dim": 12, "n_blocks": 2, "num_layers": 2, "upscaling_factor": 2}),
    "SCUNet": ("SCUNet", {"config": [1, 1, 1, 1, 1, 1, 1], "dim": 64}),
    "SPAN": ("SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16}),
    "SeemoRe": ("SeemoRe", {"num_experts": 3, "num_layers": 2, "embedding_dim": 24}),
    "SwiftSRGAN": ("SwiftSRGAN", {"num_channels": 16, "num_blocks": 2}),
    "Swin2SR": ("Swin2SR", _SWIN | {"window_size": 8, "upscale": 4, "upsampler": "pixelshuffledirect"}),
    "SwinIR": ("SwinIR", _SWIN | {"window_size": 8, "upscale": 4, "upsampler": "pixelshuffledirect"}),
    "Uformer": ("Uformer", {"img_size": 128, "embed_dim": 8, "depths": [1] * 9,
                            "num_heads": [1, 1, 2, 2, 2, 2, 2, 1, 1]}),
}  # fmt: skip
"""Architecture of spandrel -> (class, arguments)."""


ONE_SIZE = {
    "GFPGAN": "a linear layer of it holds all of a picture of 512x512",
    "IPT": "it cuts the picture into patches by a loop, whose number of rounds depends on the size",
    "Uformer": "it takes the square root of the number of pixels for the side, so it takes squares only",
}
"""Architecture -> why it exports for one size only. Read in its code."""


def weights_of(name: str) -> dict[str, Tensor]:
    """Return the state dict of the instance of an architecture, with random weights."""
    torch.manual_seed(0)
    kind, arguments = INSTANCES[name]
    net = _class_of(name, kind)(**arguments)
    with torch.no_grad():
        for parameter in net.parameters():
            if (
                parameter.numel() and not parameter.abs().max()
            ):  # a branch that starts at zero would hide a wrong export
                parameter.normal_(0, 0.02)
    state: dict[str, Tensor] = net.state_dict()
    return state


def _class_of(name: str, kind: str) -> Callable[..., nn.Module]:
    package = import_module(f"spandrel.architectures.{name}")
    found: Callable[..., nn.Module] = getattr(package, kind, None) or getattr(package, name)
    return found
