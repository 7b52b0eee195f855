"""Entry point of `python -m diffusionpose`, which also works under torchrun."""

from diffusionpose.cli import main

if __name__ == "__main__":
    main()
