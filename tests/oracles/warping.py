"""Dynamic time warping by the book: every pair's cheapest cost, one after the other."""

import numpy as np

from diffusionpose.warping import UNKNOWN


def pair_cost(one, other):
    """Mean difference of two rows of angles, the short way round; unknown ones count `UNKNOWN`."""
    costs = []
    for a, b in zip(one, other, strict=True):
        around = abs(a - b) % 360
        costs.append(UNKNOWN if np.isnan(around) else min(around, 360 - around))
    return sum(costs) / len(costs)


def cheapest(first, second, shares_first, shares_second):
    """Cost of the cheapest path from the first pair to the last."""
    best = {(-1, -1): 0.0}
    for i in range(len(first)):
        for j in range(len(second)):
            cost = pair_cost(first[i], second[j])
            best[i, j] = min(
                best.get((i - 1, j - 1), np.inf) + cost * (shares_first[i] + shares_second[j]),
                best.get((i - 1, j), np.inf) + cost * shares_first[i],
                best.get((i, j - 1), np.inf) + cost * shares_second[j],
            )
    return best[len(first) - 1, len(second) - 1]
