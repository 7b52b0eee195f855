"""Provenance of a run in `run.json`: data, weights, and the software of each session."""

import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from diffusionpose.errors import ConfigError, first_line
from diffusionpose.formats import write_text
from diffusionpose.recipe import TrainConfig
from diffusionpose.training.sources import Ranks
from diffusionpose.version import __version__

RECIPE, FACTS = "recipe.yaml", "run.json"


def facts_of(run: Path) -> dict[str, Any]:
    """Read `run.json`.

    Raises:
        ConfigError: If it cannot be read.
    """
    facts = run / FACTS
    try:
        return dict(json.loads(facts.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{facts}: cannot be read ({first_line(error)})") from None


def check_inputs(run: Path, inputs: Mapping[str, Any]) -> None:
    """Check that a run is resumed with the same data and initial weights.

    Raises:
        ConfigError: If any of them differs.
    """
    facts = facts_of(run)
    if facts.get("data_sha256") != inputs["data_sha256"]:
        raise ConfigError(f"{run} holds a run on other data; choose another folder")
    # Earlier releases did not record the validation data.
    if facts.get("validation_sha256") not in (None, inputs["validation_sha256"]):
        raise ConfigError(f"{run} holds a run with other validation data; choose another folder")
    for setting, digest in inputs["weights_sha256"].items():
        if facts.get("weights_sha256", {}).get(setting) not in (None, digest):
            raise ConfigError(
                f"{run} holds a run with other weights: {setting} has changed since; choose "
                "another folder"
            )


def sessions_of(run: Path) -> list[dict[str, Any]]:
    """Return the sessions that trained a run, in order; earlier releases recorded only one."""
    facts = facts_of(run)
    if "sessions" not in facts:
        kept = ("version", "git", "torch", "machine", "threads")
        return [{"first_step": 0} | {key: facts.get(key) for key in kept}]
    return list(facts["sessions"])


def this_session(first_step: int) -> dict[str, Any]:
    """Describe the current session, which trains from `first_step` on."""
    return {
        "first_step": first_step,
        "version": __version__,
        "git": git_state(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }


def differences(run: Path) -> Iterator[str]:
    """Warn if the software differs from the last session, so that results may differ, too."""
    here, before = this_session(0), sessions_of(run)[-1]
    found = [
        f"{key} {here[key]}, not {before.get(key)}"
        for key in ("version", "git", "torch")
        if here[key] != before.get(key)
    ]
    if found:
        yield f"{run} is resumed with other software than before: {', '.join(found)}"


def write_facts(
    config: TrainConfig,
    run: Path,
    inputs: Mapping[str, Any],
    ranks: Ranks,
    resumed_at: int | None = None,
) -> None:
    """Write the resolved recipe and the provenance of the run.

    Args:
        config: The recipe.
        run: Run folder.
        inputs: As returned by `train.inputs_of`.
        ranks: Provides the number of processes.
        resumed_at: Steps trained by earlier sessions; None for the first session.
    """
    first = resumed_at or 0
    # Sessions that began after the checkpoint left nothing: their steps are trained again.
    before = [one for one in sessions_of(run) if one["first_step"] < first] if first else []
    sessions = [*before, this_session(first)]
    content = {**inputs, "processes": ranks.world, "sessions": sessions}
    write_text(run / RECIPE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    write_text(run / FACTS, json.dumps(content, indent=2) + "\n")


def git_state() -> str | None:
    """Return the commit of the code, with `+` if files are modified; None outside a repository."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
