"""Speed of inference engines on one window: torch, onnxruntime (also in int8) and OpenVINO.

    python benchmarks/bench_engines.py [MODEL]

Each computes a whole window from three crops to heatmaps; `cached` reuses the features of two
frames, as `predict` does in torch while a crop window is held. The last column is the largest
absolute difference from the heatmaps of torch.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent))
from common import prepare, race, row, start_table

prepare()

import torch
import typer
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor

from diffusionpose.export import export_onnx
from diffusionpose.networks import PoseNetwork, TorchNetwork, load_network


def in_8_bits(path: Path, target: Path) -> Path:
    """Quantise the weights of matrix products to int8, with dynamic activations."""
    float32 = 1
    quantize_dynamic(
        path,
        target,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
        extra_options={"DefaultTensorType": float32},
    )
    return target


def main(model: Annotated[str, typer.Argument()] = "tiny") -> None:
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path)
        networks: dict[str, PoseNetwork] = {
            "torch": load_network(model, cpu),
            "onnxruntime": load_network(path, cpu, engine="onnxruntime"),
            "openvino": load_network(path, cpu, engine="openvino"),
            "onnxruntime, int8": load_network(
                in_8_bits(path, Path(folder) / "int8.onnx"), cpu, engine="onnxruntime"
            ),
        }
    ours = networks["torch"]
    assert isinstance(ours, TorchNetwork)
    torch.manual_seed(0)
    cuts = torch.randint(0, 256, (3, 3, *ours.config.image_size), dtype=torch.uint8)
    noise = torch.randn(1, 1, *ours.noise_shape)

    def window(network: PoseNetwork) -> Callable[[], Tensor]:
        return lambda: network.heatmaps(network.features(cuts)[None], noise)

    old = ours.features(cuts[:2])

    def cached() -> Tensor:
        features = torch.cat([old, ours.features(cuts[2:])])
        return ours.heatmaps(features[None], noise)

    runs = {name: window(network) for name, network in networks.items()}
    times = race({"torch, cached": cached} | runs, seconds_each=10.0)
    expected = runs["torch"]()
    start_table(["engine", "ms", "/ torch", "difference"])
    for name, took in times.items():
        away = (runs[name]() - expected).abs().max() if name in runs else 0.0
        row([name, f"{1e3 * took:.1f}", f"{took / times['torch']:.2f}", f"{float(away):.1e}"])


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
