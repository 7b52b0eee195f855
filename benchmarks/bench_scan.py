"""Speed of the selective scan's engines and of other CPU implementations, on one thread.

    python benchmarks/bench_scan.py

Every contestant includes softplus and bias of the step sizes, skip and gate. Times are medians of
CPU time in interleaved runs; ratios are those of the medians. Peers are the scan of Mamba in
transformers (without custom kernels) and the parallel scan of mamba.py (`pip install mambapy`,
extra `bench`). Errors are relative in the norm, with respect to a loop in float64.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
from common import prepare, race, row, start_table

prepare()

import torch
import torch.nn.functional as F
from tests.oracles.scan import selective_scan_loop
from torch import Tensor

from diffusionpose.nn import native_scan
from diffusionpose.nn.selective_scan import scan_engine, selective_scan

Inputs = dict[str, Tensor]
Scan = Callable[[Inputs], Tensor]
SIZES = ((3, 209, 1536), (1, 627, 1536), (8, 627, 1536), (3, 207, 384))
"""(batch, length, channels): Spatial Mamba, Full-Sequence Mamba of 1 and of 8 windows; tiny."""


def inputs(batch: int, length: int, dim: int) -> Inputs:
    """Create inputs distributed as at Mamba's initialisation, channel-last in memory."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    step = torch.exp(torch.rand(dim, generator=generator) * 4.6 - 6.9)
    rows = {name: draw(batch, length, dim) for name in ("u", "delta", "z")}
    maps = {name: draw(batch, length, 16) for name in ("B", "C")}
    tensors = {name: tensor.transpose(1, 2) for name, tensor in (rows | maps).items()}
    tensors["A"] = -torch.arange(1.0, 17).repeat(dim, 1)
    tensors["D"] = torch.ones(dim)
    tensors["delta_bias"] = step + torch.log(-torch.expm1(-step))
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def ours(engine: str) -> Scan:
    def scan(tensors: Inputs) -> Tensor:
        with scan_engine(engine):
            return selective_scan(**tensors, delta_softplus=True)

    return scan


def transformers_slow(tensors: Inputs) -> Tensor:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    u, delta, *others = (tensors[name] for name in ("u", "delta", "A", "B", "C", "D", "z"))
    return mamba_selective_scan(
        u,
        delta,
        *others,
        delta_bias=tensors["delta_bias"],
        delta_softplus=True,
        use_mambapy=False,
        use_associative_scan=False,
    )


def mambapy_parallel(tensors: Inputs) -> Tensor:
    from mambapy.pscan import pscan

    u, delta, z, b, c = (tensors[name].transpose(1, 2) for name in ("u", "delta", "z", "B", "C"))
    delta = F.softplus(delta + tensors["delta_bias"])
    decay = torch.exp(delta.unsqueeze(-1) * tensors["A"])
    states = pscan(decay, (delta * u).unsqueeze(-1) * b.unsqueeze(2))
    y = (states @ c.unsqueeze(-1)).squeeze(3) + tensors["D"] * u
    return (y * F.silu(z)).transpose(1, 2)


CONTESTANTS: dict[str, Scan] = {
    "native": ours("native"),
    "blocked": ours("blocked"),
    "two-level": ours("two_level"),
    "transformers": transformers_slow,
    "mamba.py": mambapy_parallel,
}


FORWARD_ONLY = {"two-level", "transformers"}
"""Made for export only, or taking half a minute per run with backward."""
CHANNEL_FIRST = {"transformers"}
"""Contestants whose own model uses a layout that is contiguous in time."""


def laid_out(name: str, tensors: Inputs) -> Inputs:
    if name not in CHANNEL_FIRST:
        return tensors
    return {key: tensor.detach().contiguous().requires_grad_() for key, tensor in tensors.items()}


def once(scan: Scan, tensors: Inputs, backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        y = scan(tensors)
        if backward:
            torch.autograd.grad(y.sum(), list(tensors.values()))


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected).norm() / expected.norm())


def errors(tensors: Inputs) -> tuple[float, float]:
    """Return the errors of the native engine: of the output, and of the worst gradient."""
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()}
    expected = selective_scan_loop(**exact, delta_softplus=True)
    found = CONTESTANTS["native"](tensors)
    grads = [
        torch.autograd.grad(y.sum(), list(given.values()))
        for y, given in ((found, tensors), (expected, exact))
    ]
    worst = max(error(one, two) for one, two in zip(*grads, strict=True))
    return error(found, expected.detach()), worst


def extra_memory(tensors: Inputs) -> tuple[float, float]:
    """Return the native engine's peak memory by its output's size, without and with backward."""
    from torch.profiler import profile

    def peak(backward: bool) -> int:
        with profile(profile_memory=True) as profiler:
            once(CONTESTANTS["native"], tensors, backward)
        held = most = 0
        for event in profiler.profiler.kineto_results.events():  # pyright: ignore[reportOptionalMemberAccess]
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        return most

    size = tensors["u"].numel() * 4
    return peak(False) / size, peak(True) / size


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, vectors {native_scan.vectors()[-1]}\n")
    start_table(["batch x length x channels", "pass", "", *CONTESTANTS])
    for size in SIZES:
        tensors = inputs(*size)
        for backward in (False, True):
            medians = race(
                {
                    name: partial(once, scan, laid_out(name, tensors), backward)
                    for name, scan in CONTESTANTS.items()
                    if not (backward and name in FORWARD_ONLY)
                },
                clock=time.process_time,
            )
            took = [medians.get(name) for name in CONTESTANTS]
            what = "forward + backward" if backward else "forward"
            row(
                [
                    " x ".join(map(str, size)),
                    what,
                    "ms",
                    *(f"{1e3 * t:.1f}" if t else "-" for t in took),
                ]
            )
            best = medians["native"]
            row(["", "", "/ native", *(f"{t / best:.1f}" if t else "-" for t in took)])
    tensors = inputs(1, 627, 1536)
    forward, worst = errors(tensors)
    print(f"\nerror against float64: forward {forward:.1e}, worst gradient {worst:.1e}")
    small, large = extra_memory(tensors)
    print(f"extra memory over the output: forward {small:.2f}, with backward {large:.2f}")


if __name__ == "__main__":
    main()
