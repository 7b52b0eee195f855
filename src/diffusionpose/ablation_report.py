"""Summary of an ablation suite: tables over seeds with differences, and training curves."""

import json
import math
import statistics
from collections.abc import Iterator

from diffusionpose.ablate import AP, PCK, Job, Row, Suite, check_inputs
from diffusionpose.recipe import SourceConfig
from diffusionpose.training.module import METRICS

MEASURED = "Measured here, not the paper's figures: mean ± standard deviation over seeds, with one DDIM step unless stated."
METRICS_SHOWN = {PCK: "PCK@0.2, %", AP: "PoseTrack AP, %"}
SHARES = {PCK: 1.0, AP: 0.01}
"""Factor that turns a metric into a fraction in [0, 1]."""

Results = dict[str, dict[int, dict[str, dict[str, float]]]]
"""Row -> seed -> data set -> steps -> metric as a fraction; NaN where there is none."""


def results(jobs: list[Job]) -> Results:
    """Collect the results of the finished jobs."""
    found: Results = {}
    for job in jobs:
        if job.is_done:
            result = job.result
            found.setdefault(job.row.name, {})[job.seed] = {
                source: {
                    n: SHARES[metric] * _number(value)
                    for n, value in result[metric][source].items()
                }
                for source, metric in job.metrics.items()
            }
    return found


def spread(values: list[float]) -> str:
    """Format mean ± standard deviation in percent; a dash if empty or not all finite."""
    if not values or not all(map(math.isfinite, values)):
        return "-"
    mean = 100 * statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {100 * statistics.stdev(values):.1f}"


def report(suite: Suite, jobs: list[Job]) -> Iterator[str]:
    """Yield a Markdown report: what was measured, then each table with its claim.

    Differences from the reference row are taken seed by seed.

    Raises:
        ConfigError: If results are based on different data or weights.
    """
    check_inputs(jobs)
    found = results(jobs)
    rows = {row.name: row for row in suite.rows}
    sources = {source: METRICS_SHOWN[metric] for source, metric in jobs[0].metrics.items()}
    if suite.tables:
        yield from _measured(jobs)
    for table in suite.tables:
        yield f"## {table.title}"
        yield f"Claim: {table.claim}"
        yield ""
        shown = [rows[name] for name in table.rows]
        if all(len(row.steps) > 1 for row in shown):
            yield from _by_steps(shown, found, sources)
        else:
            yield from _by_difference(shown, rows[table.reference], found, sources)
        yield ""


def _measured(jobs: list[Job]) -> Iterator[str]:
    """State what was measured on which data, since readers will compare it with the paper."""
    people: dict[str, int] = {}
    for job in jobs:
        # Results of earlier releases have no "people".
        people |= job.result.get("people", {}) if job.is_done else {}
    yield MEASURED
    yield ""
    for source in jobs[0].config.validation:
        number = people.get(source.name)
        known = [] if number is None else [f"{number} people"]
        yield f"- {source.name}: {', '.join([*known, *_settings(source)])}"
    yield ""


def _settings(source: SourceConfig) -> Iterator[str]:
    """Describe how a validation set differs from all its frames as they are."""
    yield f"stride {source.stride}"
    if source.subset is not None:
        yield f"subset {source.subset.name}"
    if source.corruption is not None:
        changes = source.corruption.model_dump(exclude_defaults=True)
        yield f"changed by {', '.join(f'{key} {value:g}' for key, value in changes.items())}"


def _by_difference(
    rows: list[Row], reference: Row, found: Results, sources: dict[str, str]
) -> Iterator[str]:
    heads = [
        head
        for source, metric in sources.items()
        for head in (f"{source}, {metric}", f"minus {reference.label}")
    ]
    yield _line(["row", "seeds", *heads])
    yield _line(["---"] * (len(heads) + 2))
    base = found.get(reference.name, {})
    for row in rows:
        own = found.get(row.name, {})
        cells = [row.label, str(len(own))]
        for source in sources:
            values = {seed: shares[source]["1"] for seed, shares in own.items()}
            gains = [values[seed] - base[seed][source]["1"] for seed in values if seed in base]
            cells += [spread(list(values.values())), "" if row is reference else spread(gains)]
        yield _line(cells)


def _by_steps(rows: list[Row], found: Results, sources: dict[str, str]) -> Iterator[str]:
    steps = sorted({n for row in rows for n in row.steps})
    heads = [
        f"{source}, {n} step{'s' if n > 1 else ''}, {metric}"
        for source, metric in sources.items()
        for n in steps
    ]
    yield _line(["row", "seeds", *heads])
    yield _line(["---"] * (len(heads) + 2))
    for row in rows:
        own = found.get(row.name, {}).values()
        cells = [
            spread([shares[source][str(n)] for shares in own if str(n) in shares[source]])
            for source in sources
            for n in steps
        ]
        yield _line([row.label, str(len(own)), *cells])


def _line(cells: list[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def curves(jobs: list[Job], source: str) -> dict[str, list[list[tuple[int, float]]]]:
    """Read validation curves from `metrics.jsonl`: row -> one list of (step, fraction) per seed.

    Epochs without this figure are left out.
    """
    found: dict[str, list[list[tuple[int, float]]]] = {}
    for job in jobs:
        path = job.run / METRICS
        if job.is_done and path.is_file():
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            metric = job.metrics[source]
            key = f"val/{metric}_{source}"
            curve = [
                (line["step"], SHARES[metric] * _number(line[key])) for line in lines if key in line
            ]
            found.setdefault(job.row.name, []).append(curve)
    return found


def _number(value: float | None) -> float:
    """Convert null, which stands for a missing figure in JSON, to NaN."""
    return float("nan") if value is None else value
