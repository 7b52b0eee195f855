"""What a run depends on besides its recipe, in `run.json`: data, weights, and by session the software."""

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
    """What `run.json` says.

    Raises:
        ConfigError: If it cannot be read.
    """
    facts = run / FACTS
    try:
        return dict(json.loads(facts.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{facts}: cannot be read ({first_line(error)})") from None


def check_inputs(run: Path, inputs: Mapping[str, Any]) -> None:
    """That a run is gone on with on its own data, and beside the weights that it had.

    Raises:
        ConfigError: If one of them is another.
    """
    facts = facts_of(run)
    if facts.get("data_sha256") != inputs["data_sha256"]:
        raise ConfigError(f"{run} holds a run on other data: name another folder")
    # Runs of earlier releases do not say.
    if facts.get("validation_sha256") not in (None, inputs["validation_sha256"]):
        raise ConfigError(f"{run} holds a run with other validation data: name another folder")
    for setting, digest in inputs["weights_sha256"].items():
        if facts.get("weights_sha256", {}).get(setting) not in (None, digest):
            raise ConfigError(
                f"{run} holds a run with other weights: {setting}: the file has changed since; name another folder"
            )


def sessions_of(run: Path) -> list[dict[str, Any]]:
    """What trained a run's steps, from the first session to the last; runs of earlier releases kept one."""
    facts = facts_of(run)
    if "sessions" not in facts:
        kept = ("version", "git", "torch", "machine", "threads")
        return [{"first_step": 0} | {key: facts.get(key) for key in kept}]
    return list(facts["sessions"])


def this_session(first_step: int) -> dict[str, Any]:
    """What trains a run's steps from `first_step` on, here and now."""
    return {
        "first_step": first_step,
        "version": __version__,
        "git": git_state(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }


def differences(run: Path) -> Iterator[str]:
    """Says so where what follows need not be what one session would have given."""
    here, before = this_session(0), sessions_of(run)[-1]
    found = [
        f"{key} {here[key]}, not {before.get(key)}"
        for key in ("version", "git", "torch")
        if here[key] != before.get(key)
    ]
    if found:
        yield f"{run} is gone on with otherwise than before: {', '.join(found)}"


def write_facts(
    config: TrainConfig,
    run: Path,
    inputs: Mapping[str, Any],
    ranks: Ranks,
    resumed_at: int | None = None,
) -> None:
    """The resolved recipe, and what the run depends on besides.

    Args:
        config: The recipe.
        run: Run folder.
        inputs: Of `inputs_of`.
        ranks: Of how many processes it is.
        resumed_at: Steps that earlier sessions trained; None for a run's first session.
    """
    first = resumed_at or 0
    # What a session that ended before its checkpoint trained is trained again.
    before = [one for one in sessions_of(run) if one["first_step"] < first] if first else []
    sessions = [*before, this_session(first)]
    content = {**inputs, "processes": ranks.world, "sessions": sessions}
    write_text(run / RECIPE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    write_text(run / FACTS, json.dumps(content, indent=2) + "\n")


def git_state() -> str | None:
    """Commit of the code, with `+` where files differ from it; None where it is no repository."""
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
