"""The process in which a system is measured with the student's functions, or without.

A student's function may do anything: raise, never end, leave the process. So the measuring is
done by a process of its own, which writes what came of it into a file: the scores, or the error
and where it happened. `mine.py` starts it and reads the file.
"""

import faulthandler
import importlib
import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch

import lessons
from lessons.kit.data.named import data_set
from lessons.kit.errors import LessonsError
from lessons.kit.homework.words import one_line
from lessons.kit.training.measure import evaluate
from lessons.kit.training.plan import recipe_of
from lessons.kit.training.runs import load_model, read, recalled
from lessons.kit.training.store import plain

SHOWN = 6  # the scene whose answer is kept for the picture
LEARNED = 4  # images of the training step whose losses are computed
CALLS: Counter[str] = Counter()


def counted(name: str) -> Callable[[Callable], Callable]:
    """A decorator that counts the calls of a part: the table says that it ran."""

    def around(function: Callable) -> Callable:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            CALLS[name] += 1
            return function(*arguments, **options)

        return call

    return around


def main(system: str, count: int | None, seconds: float | int, out: str, built: str = "") -> None:
    """Measure a system and write OUT.json and OUT.pt, the answer for one image.

    With `built`, the folder of modules that stand in for the course's. A process that is not
    done in time ends, and OUT.hung says where it was.
    """
    importlib.import_module("lessons.kit.models.backbone")  # seconds that are not the student's
    with open(f"{out}.hung", "w", encoding="utf-8") as hung:
        faulthandler.dump_traceback_later(seconds, exit=True, file=hung)
        try:
            if built:
                lessons.__path__.insert(0, built)
            said, answer = _measured(system, count)
            torch.save(answer, f"{out}.pt")
        except BaseException as error:  # also SystemExit: whatever a student's function raises
            frames = traceback.extract_tb(error.__traceback__)
            said = {
                "error": one_line(traceback.format_exception_only(error)[0]),
                "ours": str(error) if isinstance(error, LessonsError) else "",
                "frames": [(frame.filename, frame.lineno) for frame in reversed(frames)],
            }
        faulthandler.cancel_dump_traceback_later()
    said["calls"] = dict(CALLS)
    Path(f"{out}.json").write_text(json.dumps(plain(said)), encoding="utf-8")
    sys.stdout.flush()


def _measured(system: str, count: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scores on the held-out images, the losses of a few, and the answer for one."""
    report = read(system)
    with recalled(report):
        metrics = recipe_of(report["system"], report["data"], report["options"]).metrics
    images = data_set(report["data"], "validation", report["size"], count)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(system).to(device)
    torch.manual_seed(0)
    scores = evaluate(model, images, metrics)
    scores.pop("per_class", None)

    shown = min(SHOWN, len(images) - 1)
    with torch.no_grad():
        method = "predict_panoptic" if hasattr(model, "predict_panoptic") else "predict_instances"
        (answer,) = getattr(model, method)([images[shown].image.to(device)])
        few = [images[index] for index in range(min(LEARNED, len(images)))]
        torch.manual_seed(0)
        losses = model.train()(
            [each.image.to(device) for each in few], [each.segments.to(device) for each in few]
        )
    answer = answer.to("cpu")
    said = {
        "scores": scores,
        "losses": {key: value.item() for key, value in losses.items()},
        "images": len(images),
        "shown": shown,
        "stuff": method == "predict_panoptic",
    }
    return said, {"masks": answer.masks, "labels": answer.labels, "scores": answer.scores}
