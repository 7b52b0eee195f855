"""Average the weights of several models.

python tools/mean_weights.py OUT_FOLDER MODEL MODEL...

The models must have the same configuration and be fine-tuned from the same weights; the mean of
independently trained models is meaningless.
"""

import sys
from pathlib import Path

import torch
import typer

from diffusionpose import DiffusionPose


def main(target: Path, sources: list[str]) -> None:
    model, *others = (DiffusionPose.from_pretrained(source) for source in sources)
    if any(other.config != model.config for other in others):
        sys.exit(f"mean_weights: {', '.join(sources)} have different configurations")
    states = [one.state_dict() for one in (model, *others)]
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }
    model.load_state_dict(mean)
    model.save_pretrained(
        target, f"# {model.config.name}\n\nMean of the weights of {', '.join(sources)}.\n"
    )


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
