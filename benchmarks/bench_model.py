"""Speed of the network per window, relative to stock torch, ViTPose, and its own matrix products.

    python benchmarks/bench_model.py [SIZE,...]

Weights are random, which does not affect the time. All contestants of a size run in turns on the
same inputs; medians are compared. "stock" is the same network in plain torch with the scan loop of
transformers. "cached" reuses the backbone features of two of the three frames, as `predict` does
while a crop window is held; "of eight" is the time per window in a batch of eight, as in `predict`;
"cached, unpacked" uses torch's own convolutions in the stem. "ViTPose" is one crop through the
backbone of transformers of the same size. The bfloat16 variants also store their weights in
bfloat16. "products" are only the matrix products and convolutions of the cached window, with the
same shapes.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent))
from common import prepare, race, row, start_table

prepare()

import torch
import typer
from torch import Tensor, nn

from diffusionpose import DiffusionPose
from diffusionpose.config import model_config
from diffusionpose.nn import mamba, mobilenet
from diffusionpose.nn.backbone import HybridBackbone, ViTBackbone

EIGHT = 8


def transformers_scan(u: Tensor, delta: Tensor, *others: Tensor, **options: object) -> Tensor:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    # In the layout of that model: contiguous in time.
    return mamba_selective_scan(u.contiguous(), delta.contiguous(), *others, **options)


@contextmanager
def stock_scan() -> Iterator[None]:
    ours = mamba.selective_scan
    mamba.selective_scan = transformers_scan  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        mamba.selective_scan = ours


@contextmanager
def no_packing() -> Iterator[None]:
    ours = mobilenet.can_pack
    mobilenet.can_pack = lambda *_: False
    try:
        yield
    finally:
        mobilenet.can_pack = ours


def matrix_products(run: Callable[[], object], model: nn.Module) -> Callable[[], object]:
    """Return a function that runs only the linear layers and convolutions of a run."""
    calls: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        part.register_forward_hook(lambda part, given, _: calls.append((part, given[0].clone())))
        for part in model.modules()
        if isinstance(part, nn.Linear | nn.Conv2d)
    ]
    run()
    for hook in hooks:
        hook.remove()

    def products() -> None:
        for part, given in calls:
            part(given)

    return products


def measure(size: str) -> dict[str, float]:
    torch.manual_seed(0)
    # Weights created in inference mode have no version counter and could not be packed.
    with torch.inference_mode(False):
        model = DiffusionPose(model_config(size)).eval()
        halved = copy.deepcopy(model)
        halved.hold_bfloat16()
    height, width = model.config.image_size
    images = torch.randint(0, 256, (EIGHT, 3, 3, height, width), dtype=torch.uint8)
    noise = torch.randn(EIGHT, *model.noise_shape)
    old = model.extract(images)[:, :2]

    def cached(model: DiffusionPose = model, windows: int = 1) -> Tensor:
        new = model.extract(images[:windows, 2:])
        features = torch.cat([old[:windows], new], 1)
        return model.generate(model.encode(features), noise[:windows])

    def whole(model: DiffusionPose = model) -> Tensor:
        return model.generate(model.encode(model.extract(images[:1])), noise[:1])

    def in_bfloat16(run: Callable[..., Tensor], *given: object) -> Callable[[], Tensor]:
        def half() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return run(*given)

        return half

    def stock() -> Tensor:
        with stock_scan():
            return whole()

    def unpacked() -> Tensor:
        with no_packing():
            return cached()

    contestants = {
        "whole": whole,
        "whole, bfloat16": in_bfloat16(whole, halved),
        "stock": stock,
        "cached": cached,
        "cached, bfloat16": in_bfloat16(cached, halved),
        "cached, of eight": lambda: cached(windows=EIGHT),
        "cached, of eight, bfloat16": in_bfloat16(cached, halved, EIGHT),
        "products": matrix_products(cached, model),
    }
    if isinstance(model.backbone, HybridBackbone):
        contestants["cached, unpacked"] = unpacked
    if isinstance(model.backbone, ViTBackbone):
        crop = torch.randn(1, 3, height, width)

        def vitpose(model: DiffusionPose = model) -> Tensor:
            assert isinstance(model.backbone, ViTBackbone)
            return model.backbone.vit(crop).feature_maps[-1]

        contestants["ViTPose"] = vitpose
        contestants["ViTPose, bfloat16"] = in_bfloat16(vitpose, halved)
    took = race(contestants, seconds_each=8.0)
    return {name: s / EIGHT if "of eight" in name else s for name, s in took.items()}


def main(sizes: Annotated[str, typer.Argument()] = "tiny,small,base") -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, milliseconds a window\n")
    ratios = []
    start_table(["size", "what", "ms"])
    with torch.inference_mode():
        for size in sizes.split(","):
            times = measure(size)
            for name, took in times.items():
                row([size, name, f"{1e3 * took:.1f}"])

            def ratio(of: str, to: str, times: dict[str, float] = times) -> str:
                return f"{times[of] / times[to]:.2f}" if of in times and to in times else "-"

            ratios.append(
                [
                    size,
                    ratio("stock", "whole"),
                    ratio("stock", "whole, bfloat16"),
                    ratio("cached", "ViTPose"),
                    ratio("cached, bfloat16", "ViTPose, bfloat16"),
                    ratio("cached", "products"),
                    ratio("cached", "cached, unpacked"),
                    ratio("cached", "cached, bfloat16"),
                ]
            )
    print()
    start_table(
        [
            "size",
            "stock / whole",
            "stock / bfloat16",
            "cached / ViTPose",
            "the same, bfloat16",
            "cached / products",
            "cached / unpacked",
            "cached / bfloat16",
        ]
    )
    for cells in ratios:
        row(cells)


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
