"""A prediction and its target: they can be compared, or one sentence says why not."""

from collections.abc import Sequence

from lessons.kit.data.checks import labels_in
from lessons.kit.data.types import Segments


def comparable(
    prediction: Segments, target: Segments, num_classes: int | None = None, scored: bool = False
) -> None:
    """Raises ValueError where a prediction cannot be compared with its target.

    That is where they have two sizes, where a label is none of the classes (if `num_classes` is
    given), and, if they must be `scored`, where the prediction has no scores or NaN.
    """
    if scored and prediction.scores is None:
        raise ValueError("the prediction has no scores")
    if scored and prediction.scores.isnan().any():
        raise ValueError("a score of the prediction is NaN")
    if prediction.size != target.size:
        raise ValueError(f"predicted masks are {prediction.size}, true ones {target.size}")
    if num_classes is not None:
        labels_in(prediction.labels, num_classes, "predicted labels")
        labels_in(target.labels, num_classes, "true labels")


def all_comparable(
    predictions: Sequence[Segments],
    targets: Sequence[Segments],
    num_classes: int,
    scored: bool = False,
) -> None:
    """Raises ValueError as `comparable` does, naming the image, and for lists of two lengths."""
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets")
    for i, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        try:
            comparable(prediction, target, num_classes, scored)
        except ValueError as error:
            raise ValueError(f"image {i}: {error}") from None
