"""The blocked scan against the step-by-step loop: CPU time on one thread, one interleaved run, medians and ratios."""

import statistics
import sys
import time
from pathlib import Path

import torch

from diffusionpose.nn.selective_scan import selective_scan

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.oracles.scan import selective_scan_loop

SIZES = ((3, 207, 384), (1, 621, 384), (1, 621, 1536))
REPEATS = 3


def inputs(batch: int, length: int, dim: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    last = {name: torch.randn(batch, length, width) for name, width in (("u", dim), ("delta", dim))}
    last |= {name: torch.randn(batch, length, 16) for name in "BC"}
    tensors = {name: tensor.transpose(1, 2) for name, tensor in last.items()}
    tensors["A"] = -torch.arange(1.0, 17).repeat(dim, 1)
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def seconds(function, tensors: dict[str, torch.Tensor], backward: bool) -> float:
    start = time.process_time()
    with torch.set_grad_enabled(backward):
        y = function(**tensors, delta_softplus=True)
        if backward:
            y.sum().backward()
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    print(
        "| batch x length x channels | pass | loop, ms | blocked, ms | ratio |\n|---|---|---|---|---|"
    )
    for size in SIZES:
        tensors = inputs(*size)
        for backward in (False, True):
            times: dict[str, list[float]] = {"loop": [], "blocked": []}
            for _ in range(REPEATS):
                times["loop"].append(seconds(selective_scan_loop, tensors, backward))
                times["blocked"].append(seconds(selective_scan, tensors, backward))
            loop, blocked = (statistics.median(times[name]) * 1e3 for name in ("loop", "blocked"))
            name = "forward + backward" if backward else "forward"
            print(
                f"| {' x '.join(map(str, size))} | {name} | {loop:.0f} | {blocked:.1f} | {loop / blocked:.1f} |"
            )


if __name__ == "__main__":
    main()
