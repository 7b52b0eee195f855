"""Processing one video of a batch: `process(job)` returns its ledger entry.

Any scheduler may call it, in any process and order. All that the results depend on is in the job's
key.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusionpose.batch.ledger import LedgerEntry
from diffusionpose.errors import (
    CheckpointError,
    DataError,
    DiffusionPoseError,
    InputRefusedError,
    UsageError,
)
from diffusionpose.formats import is_result_of
from diffusionpose.model.pretrained import (
    CONFIG,
    WEIGHTS,
    bundled,
    find_pretrained,
    sha256_of,
)
from diffusionpose.paths import check_regular, is_exported
from diffusionpose.results import FILM, PAGE, SUFFIXES, ResultOptions, files_of_result
from diffusionpose.version import __version__
from diffusionpose.video import VideoReader, open_video
from diffusionpose.video.files import open_regular

if TYPE_CHECKING:
    from diffusionpose.predict import PosePipeline
    from diffusionpose.predict_files import Outcome

THREADS = 1
"""Torch threads per process: more could change the last bits of sums, and so the results."""
WITHOUT_EFFECT = ("model", "detector", "device", "batch_size")
"""Settings that are not in the key: the first two enter by their contents, the last two only affect
speed."""
_CHUNK_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.tmp-[0-9a-f]{8}", re.DOTALL)
_PERSON = re.compile(r"\.person\d+(?=\.\w+\Z)")


@dataclass(frozen=True)
class PipelineOptions:
    """Arguments of `PosePipeline.from_pretrained`; see there and `PredictOptions`."""

    model: str = "tiny"
    detector: str | None = None
    device: str = "auto"
    engine: str | None = None
    precision: str = "float32"
    seed: int = 0
    num_inference_steps: int = 1
    num_hypotheses: int = 1
    flip_test: bool = False
    batch_size: int = 8
    detect_every: int = 1
    hold_crops: bool = True
    find_cuts: bool = True


@dataclass(frozen=True)
class BatchOptions:
    """Settings for every video of a batch.

    Args:
        pipeline: Settings of pose estimation.
        wanted: Formats and postprocessing.
        video: Also write the annotated video.
        hide_faces: Cover faces in the annotated video.
    """

    pipeline: PipelineOptions = field(default_factory=PipelineOptions)
    wanted: ResultOptions = field(default_factory=ResultOptions)
    video: bool = True
    hide_faces: bool = False

    def facts(self) -> dict[str, Any]:
        """Settings that affect the results, or which files there are."""
        pipeline = {k: v for k, v in asdict(self.pipeline).items() if k not in WITHOUT_EFFECT}
        smoother = self.wanted.smoother
        return pipeline | {
            "formats": sorted(set(self.wanted.formats)),
            "min_score": self.wanted.min_score,
            "fill_gaps": self.wanted.fill_gaps,
            "smooth": None if smoother is None else smoother.name,
            "height": self.wanted.export.height,
            "video": self.video,
            "hide_faces": self.hide_faces,
        }


@dataclass(frozen=True)
class Job:
    """One video to process.

    Args:
        source: The video file.
        out: Folder for the results.
        options: Settings.
        weights: From `weights_of`.
        before: Last entry with results in the ledger; if still valid, nothing is done.
        is_owned: Whether existing files with the names of the results belong to the batch.
        overwrite: Whether files that are not results of this video may be replaced.
    """

    source: Path
    out: Path
    options: BatchOptions
    weights: str
    before: LedgerEntry | None = None
    is_owned: bool = False
    overwrite: bool = False

    @property
    def stem(self) -> str:
        """Stem of the result files."""
        return self.source.stem

    def key(self, input_sha256: str) -> str:
        """Compute the SHA-256 of all that the results depend on."""
        parts = {
            "input": input_sha256,
            "name": self.source.name,
            "options": self.options.facts(),
            "weights": self.weights,
            "version": __version__,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def is_anything_there(self) -> bool:
        """Whether any file exists under a name that the results can have."""
        others = {PAGE} if self.options.video else {PAGE, FILM}
        suffixes = [suffix for suffix in SUFFIXES if suffix not in others]
        return bool(files_of_result(self.out, self.stem, suffixes))


def weights_of(options: PipelineOptions) -> str:
    """Compute one SHA-256 over model and detector; a model on the hub is downloaded.

    A detector on the hub is identified by its name, the bundled one by the release.

    Raises:
        CheckpointError: If the model is not found, or a file cannot be read.
    """
    if is_exported(options.model):
        model = Path(options.model)
        parts = [model.name, _digest(model)]
    else:
        folder = find_pretrained(options.model)
        name = options.model if options.model in bundled() else folder.name
        parts = [name, _digest(folder / CONFIG), _digest(folder / WEIGHTS)]
    detector = Path(options.detector or "nanodet").expanduser()
    parts.append(detector.name if detector.exists() else options.detector or "nanodet")
    if detector.is_file():
        parts.append(_digest(detector))
    elif detector.is_dir():
        parts += [_digest(path) for path in sorted(detector.rglob("*")) if path.is_file()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _digest(path: Path) -> str:
    check_regular(path, CheckpointError)
    try:
        return sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


@lru_cache(maxsize=1)
def load_pipeline(options: PipelineOptions) -> "PosePipeline":
    """Load the pipeline, once per process.

    Raises:
        DiffusionPoseError: If the options are impossible or the model is broken, for any video.
    """
    import torch

    from diffusionpose.predict import PosePipeline

    torch.set_num_threads(THREADS)
    settings = asdict(options)
    return PosePipeline.from_pretrained(settings.pop("model"), **settings)


Load = Callable[[PipelineOptions], "PosePipeline"]


def process(job: Job, load: Load = load_pipeline) -> LedgerEntry:
    """Process one video, unless its results are up to date.

    Args:
        job: The video and its settings.
        load: Loads the pipeline; called only if the video can be opened.

    Returns:
        The entry for the ledger; `job.before` itself if it is still valid.

    Raises:
        DiffusionPoseError: If the pipeline cannot be loaded.
    """
    start = time.monotonic()
    entry = LedgerEntry(job.source.name, "rejected")
    try:
        digest, state = _read(job.source)
        entry = replace(entry, key=job.key(digest), input_sha256=digest)
        if job.before is not None and job.before.stands(entry.key, job.out):
            return job.before
        _check_replaced(job, digest)
        reader = open_video(job.source)
    except (InputRefusedError, UsageError) as error:
        return _ended(entry, job, start, str(error))
    with reader:
        pipeline = load(job.options.pipeline)
        try:
            outcome = _predict(pipeline, reader, job)
            if _read_state(job.source) != state:
                raise InputRefusedError(f"{job.source}: changed while being read: run again")
        except (InputRefusedError, UsageError, DataError) as error:
            return _ended(entry, job, start, str(error))
        except DiffusionPoseError as error:
            return _ended(replace(entry, status="crashed"), job, start, str(error))
    return _delivered(entry, job, start, outcome)


def _check_replaced(job: Job, digest: str) -> None:
    """Refuse to replace results of another video with the same name, e.g. of another camera."""
    before = job.before
    if before is None or before.input_sha256 == digest or job.overwrite:
        return
    if any(os.path.lexists(job.out / name) for name in before.files):
        raise UsageError(
            f"{job.stem}.poses.json is the result of another video of that name: choose another --out, or pass "
            "--overwrite"
        )


def _predict(pipeline: "PosePipeline", reader: VideoReader, job: Job) -> "Outcome":
    from diffusionpose.predict_files import predict_files

    return predict_files(
        pipeline,
        reader,
        job.out,
        job.options.wanted,
        video=job.options.video,
        hide_faces=job.options.hide_faces,
        # Another program may have replaced the files since.
        overwrite=job.overwrite or (job.is_owned and not _is_of_another(job, reader)),
    )


def _is_of_another(job: Job, reader: VideoReader) -> bool:
    path = job.out / f"{job.stem}.poses.json"
    return path.is_file() and not is_result_of(path, reader.info)


def _read(source: Path) -> tuple[str, tuple[int, ...]]:
    """Compute the SHA-256 of a file; also return its state before reading."""
    file, _ = open_regular(source)
    digest = hashlib.sha256()
    with file:
        state = _state(os.fstat(file.fileno()))
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest(), state


def _read_state(source: Path) -> tuple[int, ...] | None:
    try:
        return _state(os.stat(source))
    except OSError:
        return None


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _ended(entry: LedgerEntry, job: Job, start: float, message: str) -> LedgerEntry:
    """Complete an entry with its duration and message, without the input's folder."""
    name = job.source.name
    message = message.replace(str(job.source), name).removeprefix(f"{name}: ")
    return replace(entry, message=message, seconds=round(time.monotonic() - start, 3))


def _delivered(entry: LedgerEntry, job: Job, start: float, outcome: "Outcome") -> LedgerEntry:
    verdict = outcome.verdict
    lost = [f"{one.code}: {one.message}" for one in verdict.issues if one.severity == "partial"]
    files = sorted(inner for file in outcome.files for inner in _files(file))
    entry = replace(
        entry,
        status=verdict.status,
        files={file.relative_to(job.out).as_posix(): sha256_of(file) for file in files},
        frames=verdict.num_frames,
        people=outcome.num_people,
    )
    return _ended(entry, job, start, "; ".join([*lost, *outcome.notes]))


def _files(path: Path) -> Iterable[Path]:
    """List a file itself, or the files of a folder."""
    return path.iterdir() if path.is_dir() else [path]


def remove_temporaries(out: Path, stems: Iterable[str]) -> None:
    """Remove temporary files that killed processes left behind for results of these stems."""
    targets = {f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES}
    with suppress(FileNotFoundError), os.scandir(out) as there:
        for one in there:
            found = _TEMPORARY.fullmatch(one.name)
            name = found["name"] if found else ""
            if name in targets or _PERSON.sub("", name) in targets:
                _remove(Path(one.path))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
