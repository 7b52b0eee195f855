"""Packs a run's averaged weights as the bundled model: half precision, with a model card.

python tools/pack_model.py runs/tiny/model CARD.md src/diffusionpose/assets/models/tiny
"""

import sys
from pathlib import Path

import torch

from diffusionpose import DiffusionPose


def main(source: str, card: str, target: str) -> None:
    model = DiffusionPose.from_pretrained(source)
    model.save_pretrained(target, Path(card).read_text(), torch.float16)


if __name__ == "__main__":
    main(*sys.argv[1:])
