"""Output files of an evaluation: JSON, picture of the worst people, predictions."""

from dataclasses import dataclass
from pathlib import Path

from diffusionpose.errors import UsageError
from diffusionpose.evaluate import Report, input_files
from diffusionpose.evaluate_options import EvaluateOptions
from diffusionpose.formats.atomic_file import check_target, write_text
from diffusionpose.formats.posetrack_files import write_predictions
from diffusionpose.formats.score_table import TABLE_FORMATS
from diffusionpose.worst_people import PICTURES, worst_people, write_worst


@dataclass(frozen=True)
class Deliveries:
    """Which outputs to write for a report.

    Args:
        table_format: One of `TABLE_FORMATS`.
        json: File for all facts.
        worst: Picture of the 20 worst people.
        predictions: Folder for the predictions, one file per video.
        overwrite: Replace existing files.
    """

    table_format: str = "text"
    json: Path | None = None
    worst: Path | None = None
    predictions: Path | None = None
    overwrite: bool = False

    def check(self, options: EvaluateOptions) -> None:
        """Check, before the evaluation, that the outputs can be written.

        Raises:
            UsageError: If outputs and options contradict each other, or a file exists or is an input.
            DataError: If there are no annotation files.
        """
        if self.table_format not in TABLE_FORMATS:
            known = ", ".join(TABLE_FORMATS)
            raise UsageError(f"unknown --format {self.table_format!r}; choose from {known}")
        for path in (self.json, self.worst):
            if path is not None and path.is_dir():
                raise UsageError(f"{path} is a folder: give the name of a file")
        if self.worst is not None and self.worst.suffix.lower() not in PICTURES:
            raise UsageError(f"--worst {self.worst}: the name must end in {', '.join(PICTURES)}")
        if self.worst is not None and options.data is None:
            raise UsageError("--worst needs the images: give their root folder as --data")
        if self.predictions is not None and options.model is None:
            raise UsageError(
                "--write-predictions needs --model, as predictions are files already: leave it out"
            )
        if self.predictions is not None and options.layout == "coco":
            raise UsageError("--write-predictions does not support --layout coco: leave it out")
        self._check_existing(options)

    def _check_existing(self, options: EvaluateOptions) -> None:
        """Check that no input, nor without `overwrite` any other file, would be replaced."""
        files = (("--json", self.json), ("--worst", self.worst))
        there = [(option, path) for option, path in files if path is not None and path.exists()]
        if self.predictions is not None:
            videos = sorted(self.predictions.glob("*.json"))
            there += [("--write-predictions", path) for path in videos]
        sources = input_files(options) if there else []
        for option, path in there:
            check_target(path, sources, overwrite=self.overwrite, option=option)
        # Not listed among the inputs, as looking for all images may take long.
        if (
            self.worst is not None
            and self.worst.exists()
            and options.data is not None
            and self.worst.resolve().is_relative_to(options.data.resolve())
        ):
            raise UsageError(f"{self.worst} is in the folder of --data: choose another --worst")

    def deliver(self, report: Report, options: EvaluateOptions) -> list[Path]:
        """Write the files; the picture comes last, as reading images may fail.

        Returns:
            The files written, and the folder of predictions.

        Raises:
            UsageError: If a file exists or cannot be written.
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
        """Format the table of figures."""
        return TABLE_FORMATS[self.table_format](report.table)
