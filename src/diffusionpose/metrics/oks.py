"""COCO keypoint AP, based on object keypoint similarity (OKS) and computed by faster-coco-eval."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusionpose.annotations import AnnotatedPerson
from diffusionpose.errors import MissingExtraError
from diffusionpose.metrics.base import Metric
from diffusionpose.metrics.pairs import VideoPair
from diffusionpose.metrics.similarity import OKS_SIGMAS, person_area

MAX_PEOPLE = 20
"""Number of highest-scoring predictions per frame that are evaluated, as in COCO."""


class OksAP(Metric):
    """COCO keypoint AP over the annotated joints of `POSETRACK15`.

    Distances are relative to the area of the person's box. Eyes and ears are not evaluated, so that
    results on COCO are not comparable with its leaderboard. Predictions that match crowds or people
    without joints are ignored.

    Args:
        pairs: Ground truth and predictions of videos; frames without people in the ground truth are
            skipped.

    Raises:
        MissingExtraError: If faster-coco-eval is not installed.
    """

    columns = ("AP", "AP50", "AP75", "AR")

    def __init__(self, pairs: Sequence[VideoPair]) -> None:
        super().__init__(len(pairs))
        images, videos = _images(pairs)
        self._videos = np.array(videos, np.int64)
        self._evaluation, self._library = _evaluated(images)
        missing = sum(bool(np.isnan(p.score)) for _, found in images for p in found)
        if missing:
            self.warnings.append(
                f"{missing} predicted people have no score of their own; the mean over their "
                "joints is used"
            )

    def row(self, weights: np.ndarray) -> np.ndarray:
        """Return AP over ten OKS thresholds, AP at .50 and .75, and AR in percent."""
        drawn = np.repeat(np.arange(len(self._videos)), weights[self._videos].astype(int))
        if not len(drawn):
            return np.full(len(self.columns), np.nan)
        parameters, per_image = self._evaluation
        parameters.imgIds = drawn.tolist()
        found = self._library.COCOevalAccumulate(parameters, [per_image[index] for index in drawn])
        shape = found["counts"]
        # (thresholds, recalls, categories, areas, maxDets)
        precision = np.reshape(found["precision"], shape)[:, :, 0, 0, 0]
        recall = np.reshape(found["recall"], [shape[0], *shape[2:]])[:, 0, 0, 0]
        rows = (precision, precision[0], precision[5], recall)
        return np.array([100 * part.mean() if (part > -1).all() else np.nan for part in rows])


_Image = tuple[list[AnnotatedPerson], list[AnnotatedPerson]]


def _images(pairs: Sequence[VideoPair]) -> tuple[list[_Image], list[int]]:
    """Return (truth, predictions) of every frame with people, and the index of its video."""
    images, videos = [], []
    for number, pair in enumerate(pairs):
        for truth, predicted in pair.frames:
            if truth.people:
                found = [person for person in predicted.people if person.has_points]
                images.append((list(truth.people), found))
                videos.append(number)
    return images, videos


def _evaluated(images: list[_Image]) -> tuple[tuple[Any, list[Any]], Any]:
    """Return the library's parameters and results per image, and the module to accumulate them."""
    try:
        import faster_coco_eval.faster_eval_api_cpp as library
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise MissingExtraError("faster-coco-eval", "eval") from None
    header = {
        "images": [{"id": index} for index in range(len(images))],
        "categories": [{"id": 1, "name": "person"}],
    }
    truth = COCO(header | {"annotations": _annotations([true for true, _ in images])})
    found = COCO(header | {"annotations": _annotations([found for _, found in images])})
    run = COCOeval_faster(
        truth, found, "keypoints", kpt_oks_sigmas=OKS_SIGMAS.tolist(), separate_eval=True
    )
    run.params.maxDets = [MAX_PEOPLE]
    run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
    run.evaluate()
    # Private attributes, as the library has no public access to the results per image.
    return (run._paramsEval, list(run._evalImgs_cpp)), library


def _annotations(images: list[list[AnnotatedPerson]]) -> list[dict[str, Any]]:
    """Return COCO annotations; ids start at 1, as 0 means "no match" in the library."""
    records = []
    for image, people in enumerate(images):
        for person in people:
            records.append(_annotation(person) | {"id": len(records) + 1, "image_id": image})
    return records


def _annotation(person: AnnotatedPerson) -> dict[str, Any]:
    known = np.isfinite(person.keypoints[:, 0])
    # (0, 0) would be a valid location, so missing joints are put far away; v is 0 for the truth's.
    points = np.where(known[:, None], person.keypoints, 1e9)
    corners = person.keypoints[known]
    if person.box is not None:
        low, high = person.box[:2], person.box[2:]
    elif len(corners):
        low, high = corners.min(axis=0), corners.max(axis=0)
    else:
        low = high = np.zeros(2)
    return {
        "category_id": 1,
        "keypoints": np.column_stack([points, 2.0 * known]).ravel().tolist(),
        "num_keypoints": int(known.sum()),
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "area": person_area(person),
        "iscrowd": int(person.is_crowd),
        "score": _score(person),
    }


def _score(person: AnnotatedPerson) -> float:
    if not np.isnan(person.score):
        return float(person.score)
    known = person.scores[np.isfinite(person.scores)]
    return float(known.mean()) if len(known) else 0.0
