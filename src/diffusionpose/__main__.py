"""`python -m diffusionpose`, also under torchrun."""

from diffusionpose.cli import main

if __name__ == "__main__":
    main()
