"""The `compare` command: joint angles of two people, aligned in time."""

from pathlib import Path
from typing import Annotated

import typer

from diffusionpose.errors import UsageError


def compare(
    a: Annotated[Path, typer.Argument(help="A NAME.poses.json file.")],
    b: Annotated[Path, typer.Argument(help="Another one, or the same with another person.")],
    person_a: Annotated[
        int | None,
        typer.Option(min=0, help="Track id in A; by default the person seen in the most frames."),
    ] = None,
    person_b: Annotated[int | None, typer.Option(min=0, help="The same for B.")] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Compare the left of A with the right of B.")
    ] = False,
    band: Annotated[
        float,
        typer.Option(
            help="How far matched moments may be shifted, as a share of the whole: 0.01 to 1 (no limit)."
        ),
    ] = 0.25,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="CSV file of the aligned angles.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="HTML file of the table and charts; opens offline.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Compare the joint angles of two people, aligned in time: mean and largest differences, ranges of motion."""
    from diffusionpose.compare import as_csv, as_text, load_movement
    from diffusionpose.compare import compare as compare_movements
    from diffusionpose.compare_page import compare_html
    from diffusionpose.formats import check_target, write_texts

    if not 0.01 <= band <= 1:
        raise UsageError(f"--band must be between 0.01 and 1, not {band:g}")
    targets = [(name, path) for name, path in (("--out", out), ("--html", html)) if path]
    for name, path in targets:
        check_target(path, [a, b], overwrite=overwrite, option=name)
    if out and html and out.absolute() == html.absolute():
        raise UsageError("--out and --html name the same file: choose different ones")
    found = compare_movements(
        load_movement(a, person_a),
        load_movement(b, person_b, mirrored=mirror),
        band,
        is_mirrored=mirror,
    )
    made = {"--out": as_csv, "--html": compare_html}
    write_texts({path: made[name](found) for name, path in targets})
    print(as_text(found), end="")
    for _, path in targets:
        print(path)
