"""Batch normalisation folded into the convolution before it: two passes over each map fewer.

With fixed statistics a normalisation is a factor and an offset a channel, which the convolution can
carry in its own weights. The results differ in the last bits of float32. Training needs the layers
apart; inference makes a folded copy when it loads the network onto a device.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(module: nn.Module) -> nn.Module:
    """Return a copy of a network without the normalisations that follow a convolution.

    Args:
        module: in evaluation mode; is not changed. Scripted modules are returned as they are.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return module
    clone = copy.deepcopy(module)
    for chain in [m for m in clone.modules() if isinstance(m, nn.Sequential)]:
        for (name, layer), (next_name, following) in list(pairwise(chain.named_children())):
            if (
                isinstance(layer, nn.Conv2d)
                and isinstance(following, nn.BatchNorm2d)
                and following.track_running_stats
            ):
                chain._modules[name] = fuse_conv_bn_eval(layer, following)
                chain._modules[next_name] = nn.Identity()
    return clone
