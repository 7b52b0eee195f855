"""A report as files: JSON, the picture of the worst people, predictions for other tools. What is there stays."""

from dataclasses import dataclass
from pathlib import Path

from diffusionpose.errors import UsageError
from diffusionpose.evaluate import Report
from diffusionpose.evaluate_options import EvaluateOptions
from diffusionpose.formats.atomic_file import write_text
from diffusionpose.formats.posetrack_files import write_predictions
from diffusionpose.formats.score_table import TABLE_FORMATS
from diffusionpose.worst_people import PICTURES, worst_people, write_worst


@dataclass(frozen=True)
class Deliveries:
    """What is made of a report.

    Args:
        table_format: One of `TABLE_FORMATS`.
        json: File for all facts.
        worst: Picture of the 20 worst people.
        predictions: Folder for the predictions, one file a video.
        overwrite: Replace files that are there.
    """

    table_format: str = "text"
    json: Path | None = None
    worst: Path | None = None
    predictions: Path | None = None
    overwrite: bool = False

    def check(self, options: EvaluateOptions) -> None:
        """What can be known to fail fails before the work.

        Raises:
            UsageError: If the wishes and the options contradict each other, or a file is there.
        """
        if self.table_format not in TABLE_FORMATS:
            known = ", ".join(TABLE_FORMATS)
            raise UsageError(f"--format {self.table_format!r}: there are {known}")
        there = [path for path in (self.json, self.worst) if path is not None and path.exists()]
        there += [] if self.predictions is None else sorted(self.predictions.glob("*.json"))
        for path in (self.json, self.worst):
            if path is not None and path.is_dir():
                raise UsageError(f"{path} is a folder: give a file's name")
        if there and not self.overwrite:
            raise UsageError(f"{there[0]} is there: give another name, or --overwrite")
        if self.worst is not None and self.worst.suffix.lower() not in PICTURES:
            raise UsageError(f"--worst {self.worst}: the name must end in {', '.join(PICTURES)}")
        if self.worst is not None and options.data is None:
            raise UsageError("--worst needs --data, under which the images are")
        if self.predictions is not None and options.model is None:
            raise UsageError("--write-predictions is for --model: predictions are files already")
        if self.predictions is not None and options.layout == "coco":
            raise UsageError("--write-predictions is for PoseTrack, not for --layout coco")

    def deliver(self, report: Report, options: EvaluateOptions) -> list[Path]:
        """Writes the files, the picture last: it reads images.

        Returns:
            The files, and the folder of predictions.

        Raises:
            UsageError: If a file is there, or cannot be written.
            DataError: If an image is missing.
        """
        files = []
        if self.json is not None:
            write_text(self.json, report.to_json())
            files.append(self.json)
        if self.predictions is not None:
            layout = options.layout
            chosen = report.pairs[0].truth.layout if layout == "posetrack" else layout
            videos = [pair.predicted for pair in report.pairs]
            write_predictions(videos, self.predictions, chosen, overwrite=self.overwrite)
            files.append(self.predictions)
        if self.worst is not None:
            clips = report.clips
            assert clips is not None
            write_worst(worst_people(report.pairs), lambda *place: clips(*place)[1], self.worst)
            files.append(self.worst)
        return files

    def table(self, report: Report) -> str:
        """The figures in the wanted format."""
        return TABLE_FORMATS[self.table_format](report.table)
