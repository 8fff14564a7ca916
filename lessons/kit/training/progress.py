"""How far a run is: its history so far, and the checkpoint from which it goes on."""

import ast
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lessons.kit.errors import LessonsError
from lessons.kit.guard import in_words
from lessons.kit.training.recipe import Budget, Recipe, differences

CHECKPOINT_SECONDS = 20
"""What a run that is killed loses at most, if a step does not take longer."""


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint of a run that is not finished, in its folder."""
    return folder / "checkpoint.pt"


class Progress:
    """How far a run is: what is saved in its checkpoint, beside model and optimizer."""

    def __init__(self, folder: Path | None, recipe: Recipe, plan: Budget, seed: int):
        self.folder = folder
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.open_row: list[dict[str, Tensor]] = []
        self.run = repr((recipe.system, recipe.data, dict(recipe.options), asdict(plan), seed))
        self.clock = self.saved_at = time.perf_counter()

    @property
    def path(self) -> Path:
        return checkpoint_in(self.folder)

    def restore(self, model: nn.Module, optimizer: Any) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LessonsError(f"{self.folder} cannot be made: {error.strerror}") from None
        if not self.path.exists():
            return
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            run, open_row = saved["run"], saved["open_row"]
            reached = saved["step"], saved["seconds"], saved["history"]
        except Exception as error:
            raise LessonsError(
                f"{self.path} cannot be read ({type(error).__name__}): move it away to start anew"
            ) from None
        if run != self.run:
            raise LessonsError(
                f"{self.path} is of another run ({_difference(run, self.run)}): "
                "move it away to start anew"
            )
        try:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError):
            raise LessonsError(
                f"{self.path} is of a model with other weights: move it away to start anew"
            ) from None
        device = next(model.parameters()).device
        self.open_row = [{k: v.to(device) for k, v in terms.items()} for terms in open_row]
        self.step, self.seconds, self.history = reached

    def is_to_be_saved(self, every: int, last: int) -> bool:
        """Whether this step ends with a checkpoint: by its number, or by the clock."""
        if self.folder is None:
            return False
        late = time.perf_counter() - self.saved_at >= CHECKPOINT_SECONDS
        return late or self.step % every == 0 or self.step == last

    def save(self, model: nn.Module, optimizer: Any) -> None:
        """Write the checkpoint whole or not at all."""
        self._look_at_open_row()
        self._tick()
        part = self.path.with_suffix(".part")
        state = {
            "run": self.run,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "open_row": [{k: v.cpu() for k, v in terms.items()} for terms in self.open_row],
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        try:
            torch.save(state, part)
            os.replace(part, self.path)
        except (OSError, RuntimeError) as error:  # torch's own, where a disk is full
            with suppress(OSError):
                part.unlink(missing_ok=True)
            known = isinstance(error, OSError)
            why = in_words(error, self.path) if known else f"{self.path} cannot be written: {error}"
            raise LessonsError(
                f"{why.splitlines()[0]}; it was that of step {self.step}, the one before is "
                "still there: go on with --resume"
            ) from error
        self.saved_at = time.perf_counter()

    def note(self, terms: Mapping[str, Tensor], look: bool) -> None:
        """Add a step's terms to the open row."""
        self.open_row.append({name: value.detach().float() for name, value in terms.items()})
        self.step += 1
        if look:
            self._must_be_finite(self.step, self.open_row[-1])

    def close_row(self, rate: float) -> dict[str, Any]:
        """The means of the open row's terms, as a new row of the history."""
        self._look_at_open_row()
        self._tick()
        names = self.open_row[0]
        row = {"step": self.step, "seconds": self.seconds, "learning_rate": rate}
        for name in names:
            row[name] = float(torch.stack([terms[name] for terms in self.open_row]).mean())
        self.history.append(row)
        self.open_row = []
        return row

    def _tick(self) -> None:
        now = time.perf_counter()
        self.seconds, self.clock = self.seconds + now - self.clock, now

    def _look_at_open_row(self) -> None:
        first = self.step - len(self.open_row) + 1
        for step, terms in enumerate(self.open_row, start=first):
            self._must_be_finite(step, terms)

    def _must_be_finite(self, step: int, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            if not torch.isfinite(value):
                what = "gradient's norm" if name == "gradient" else f"loss {name!r}"
                raise LessonsError(
                    f"training stopped: the {what} became {float(value)} in step {step}; "
                    "a smaller learning rate often helps"
                )


def _difference(old: str, new: str) -> str:
    """What differs between the `Progress.run` of two runs: "seed is 1, not 0"."""
    try:
        runs = [ast.literal_eval(run) for run in (old, new)]
    except (ValueError, SyntaxError):  # an option that is no number, text or list
        return f"{old}, not {new}"
    there, here = (
        {"system": system, "data": data, **options, **plan, "seed": seed}
        for system, data, options, plan, seed in runs
    )
    return differences(there, here)
