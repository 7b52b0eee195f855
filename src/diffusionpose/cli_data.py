"""The `data` commands: check a data set, and synthesise people to train on."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(
    help="Data sets for training and evaluation.", no_args_is_help=True, rich_markup_mode=None
)


@data_app.command("check")
def check_data(
    root: Annotated[
        Path, typer.Argument(help="Root folder of a PoseTrack17, 18, 21 or COCO data set.")
    ],
    split: Annotated[
        str | None, typer.Option(help="Only this split, such as train; all by default.")
    ] = None,
    layout: Annotated[
        str, typer.Option(help="auto, posetrack17, posetrack18 (also 21) or coco.")
    ] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the report as JSON.")
    ] = None,
    images: Annotated[
        bool, typer.Option(help="Look for the images and decode every one of them.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the report.")] = False,
) -> None:
    """Report every problem of a data set, with file and JSON path, and what training can use of it.

    Exit code 0 when there are no problems, 1 when there are some or nothing to check, 2 for wrong
    usage.
    """
    from diffusionpose.data.check import annotation_files
    from diffusionpose.data.check import check_data as check
    from diffusionpose.formats.atomic_file import AtomicFile, check_target, explained
    from diffusionpose.formats.text import json_line

    target = AtomicFile(json_file) if json_file else None
    try:
        if target is not None:
            sources = annotation_files(root, layout)
            check_target(target.path, sources, overwrite=overwrite, option="--json")
        with _status() as show:
            found = check(root, split, layout, images=images, on_file=lambda file: show(file.name))
        if target is not None:
            with explained(target.path):
                target.temporary.write_text(json_line(found.to_dict()) + "\n", encoding="utf-8")
            target.publish()
    finally:
        if target is not None:
            target.discard()
    for line in found.lines():
        print(line)
    if not found.is_clean:
        raise typer.Exit(1)


@data_app.command("synth")
def synthesise_data(
    out: Annotated[
        Path, typer.Argument(help="Folder for the data set; repeating the call continues in it.")
    ],
    motion: Annotated[Path, typer.Option(help="Folder of BVH files in the form of CMU's motions.")],
    garments: Annotated[Path, typer.Option(help="Folder of MakeHuman's clothes, shoes and hair.")],
    backgrounds: Annotated[Path, typer.Option(help="Folder of photos for the backgrounds.")],
    clips: Annotated[int, typer.Option(help="Number of clips, of three frames each.")] = 1000,
    size: Annotated[int, typer.Option(help="Side length of the pictures in pixels.")] = 288,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    split: Annotated[str, typer.Option(help="Name of the split.")] = "train",
) -> None:
    """Make a data set of synthetic people with exact joints: a PoseTrack18 root to train on (docs/how-to/synthetic-people.md).

    Exit code 0 when it is made, 1 when motions, garments or photos cannot be used, 2 for wrong
    usage.
    """
    from diffusionpose.synthesis.make import SynthesisOptions, synthesise

    options = SynthesisOptions(motion, garments, backgrounds, clips, size, seed, split)
    with _status() as show:
        done = synthesise(out, options, on_clip=lambda number: show(f"{number} of {clips} clips"))
    if done.unusable:
        print(f"{len(done.unusable)} motions left out, such as {done.unusable[0]}", file=sys.stderr)
    print(f"{out}: {done.made} clips made, {done.found} already existed")


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """Show a status line on stderr, unless stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("") as line:
        yield lambda text: line.update(escape(text))
