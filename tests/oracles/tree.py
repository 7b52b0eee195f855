"""Messages on a tree by recursion, straight from Eq. 1, one directed limb at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusionpose.skeleton import Skeleton


def message(
    j: int,
    i: int,
    skeleton: Skeleton,
    psi: Callable[[int], Tensor],
    phi: Callable[[int, int], Tensor],
) -> Tensor:
    """msg_{j -> i} with root mean square 1 over the last axis; phi(i, j) is the edge potential of Eq. 2."""
    value = psi(i) * phi(i, j)
    for k in skeleton.neighbours[j]:
        if k != i:
            value = value * message(k, j, skeleton, psi, phi)
    return value / torch.sqrt((value * value).mean(-1, keepdim=True))
