"""Pack a run's averaged weights as the bundled model, in half precision and with a model card.

python tools/pack_model.py runs/tiny/model CARD.md src/diffusionpose/assets/models/tiny
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from diffusionpose import DiffusionPose


def main(source: str, card: Annotated[Path, typer.Argument(exists=True)], target: Path) -> None:
    model = DiffusionPose.from_pretrained(source)
    model.save_pretrained(target, card.read_text(), torch.float16)


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
