"""Plot validation metrics against steps over several consecutive runs.

python tools/curves.py curves.png runs/tiny-6-backbone runs/tiny-8-second ...
"""

import json
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import typer

from diffusionpose.training.module import METRICS

mpl.use("Agg")
from matplotlib import pyplot as plt

PREFIX = "val/pck_"


def main(target: Path, runs: Annotated[list[Path], typer.Argument(exists=True)]) -> None:
    figure, axis = plt.subplots(figsize=(8, 4), layout="tight")
    curves: dict[str, tuple[list[int], list[float]]] = {}
    first = 0
    for number, run in enumerate(runs):
        lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
        for line in lines:
            for name in (name for name in line if name.startswith(PREFIX)):
                steps, values = curves.setdefault(name.removeprefix(PREFIX), ([], []))
                steps.append(first + line["step"])
                values.append(line[name])
        last = first + lines[-1]["step"]
        axis.axvspan(first, last, color="0.95" if number % 2 else "0.88", zorder=0)
        axis.text(first, 0.02, f" {run.name}", rotation=90, fontsize=7, va="bottom", transform=axis.get_xaxis_transform())  # fmt: skip
        first = last
    for name, (steps, values) in curves.items():
        axis.plot(steps, values, marker="o", markersize=4, label=name)
    axis.set(xlabel="steps", ylabel="PCK@0.2 of the torso", xlim=(0, first))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
