"""One `fit` and one `evaluate` for every system of the course.

A lesson with a model says in a `Recipe` what is trained, on what, how it is measured and what
each budget means. `fit` trains it, on a CPU, a GPU or several (Hugging Face accelerate), with
AdamW, warm-up and cosine, clipping, and bf16 on CUDA. Every random choice of step t is drawn
from (seed, t), so a run that was killed and resumed ends with the same numbers as one that was
not. Nothing here needs Jupyter.
"""

import ast
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from lessons.kit.data import Category, DataSet, Sample, Segments, is_crowd
from lessons.kit.errors import LessonsError

BUDGETS = ("test", "quick", "full")


def budget() -> str:
    """The budget that LESSONS_BUDGET names: "test", "quick" (the default) or "full".

    Raises LessonsError for any other word.
    """
    name = os.environ.get("LESSONS_BUDGET") or "quick"
    if name not in BUDGETS:
        raise LessonsError(f"LESSONS_BUDGET is {name!r}: choose one of {', '.join(BUDGETS)}")
    return name


@dataclass(frozen=True)
class Budget:
    """How long to train: `steps` updates of `batch` images.

    `size` is the side of the training images in pixels: scenes are drawn at that size, real
    images are cropped to it. `count` limits the training images, `validated` the held-out
    ones. `evaluations` are spread over the run; the last one is at its end.
    """

    steps: int
    batch: int = 8
    size: int = 128
    count: int | None = None
    validated: int | None = None
    evaluations: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05  # the share of the steps in which the learning rate grows
    clip: float = 1.0  # the largest norm of the gradient
    mirror: bool = True  # half of the images, at random
    turn: bool = False  # by 0, 90, 180 or 270 degrees: for images that have no up

    def __post_init__(self):
        for name in ("steps", "batch", "size", "evaluations", "count", "validated"):
            value = getattr(self, name)
            if value is None and name in ("count", "validated"):
                continue
            if type(value) is not int or value < 1:
                raise LessonsError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name in ("learning_rate", "clip", "weight_decay", "warm_up"):
            value, may_be_0 = getattr(self, name), name in ("weight_decay", "warm_up")
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not (0 < value < math.inf or (may_be_0 and value == 0)):
                least = "of at least" if may_be_0 else "above"
                raise LessonsError(f"{name} must be a number {least} 0, not {value!r}")
        for name in ("mirror", "turn"):
            if type(getattr(self, name)) is not bool:
                raise LessonsError(f"{name} must be True or False, not {getattr(self, name)!r}")


def from_full(full: Budget, *, steps: int = 200) -> dict[str, Budget]:
    """All three budgets of a system, from its `full` one.

    "quick" is `steps` steps of 8 of a thousand images, "test" four steps that only show that
    everything runs.
    """
    quick = replace(full, steps=steps, batch=8, count=1000, evaluations=1)
    tiny = replace(quick, steps=4, batch=2, size=64, count=8, validated=4)
    return {"test": tiny, "quick": quick, "full": full}


def by_heart(few: Budget, *, steps: int = 600, batch: int = 2) -> dict[str, Budget]:
    """All three budgets for learning few images by heart: `few` is "test".

    The others take `steps` steps of `batch` images. Nothing is mirrored and there is one
    evaluation, at the end.
    """
    few = replace(few, mirror=False, evaluations=1)
    longer = replace(few, steps=steps, batch=batch)
    return {"test": few, "quick": longer, "full": longer}


Metric = Callable[[Sequence, Sequence[Segments], Sequence[Category]], Mapping[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """What a lesson trains.

    `metrics` says which prediction is measured by what: {"predict_instances":
    evaluate_instances}. `options` are those that made this recipe, so that a recorded run can
    build its model again.
    """

    system: str  # the lesson's module, "mask_rcnn"
    model: Callable[[], nn.Module]
    metrics: Mapping[str, Metric]
    budgets: Mapping[str, Budget]
    data: str = "scenes"
    options: Mapping[str, Any] = field(default_factory=dict)

    def with_budget(self, name: str, **changes: Any) -> "Recipe":
        """The same recipe with parts of one budget changed: `with_budget("quick", steps=50)`."""
        return replace(self, budgets={**self.budgets, name: replace(self.budget(name), **changes)})

    def budget(self, name: str) -> Budget:
        """What a budget means here. Raises LessonsError for one that is not there."""
        if name not in self.budgets:
            raise LessonsError(f"{name!r} is no budget: choose one of {', '.join(self.budgets)}")
        return self.budgets[name]


@dataclass
class Run:
    """What `fit` leaves: the trained model, its history and its scores.

    `history` has a row every few steps with the mean of each loss term since the last row, the
    learning rate and the seconds so far, and, where there was an evaluation, its "scores".
    """

    recipe: Recipe
    budget: str
    seed: int
    model: nn.Module
    history: list[dict[str, Any]]
    scores: dict[str, Any]
    seconds: float  # of training, without the evaluations
    device: str
    peak_memory: int  # bytes: of the GPU's tensors, or of the process on a CPU


# ---------------------------------------------------------------- data


@lru_cache(maxsize=8)
def data_set(name: str, split: str = "train", size: int = 128, count: int | None = None) -> DataSet:
    """A split of a data set by name, kept in memory as bytes: image, ids, labels.

    `name` is "scenes", "four_scenes" (the same four in both splits, for overfitting),
    "nuclei", "pennfudan", "coco" or "ten_coco" (the first ten COCO images, the same in both
    splits); "scenes:SEED" are scenes of another seed. `split` is "train" or "validation".
    `size` is that of scenes, and of the longer side of ten_coco: other real images keep theirs.
    Raises LessonsError for an unknown name and where images are missing.
    """
    if split not in ("train", "validation"):
        raise LessonsError(f"{split!r} is no split: choose train or validation")
    try:
        source = _source(name, split, size)
    except ValueError as error:
        raise LessonsError(f"{name} cannot be had: {error}") from None
    total = len(source) if count is None else min(count, len(source))
    if total == 0:
        raise LessonsError(f"the {split} split of {name} has no images")
    return InMemory(source, total)


def categories(name: str) -> list[Category]:
    """The categories of a data set by name, things first."""
    return _source(name, "validation", 128).categories


def _source(name: str, split: str, size: int) -> DataSet:
    """The data set itself, nothing read or drawn yet."""
    from lessons.kit.real import CocoPanoptic, Nuclei, PennFudan, Smaller
    from lessons.kit.scenes import Scenes

    training = split == "train"
    kind, _, seed = name.partition(":")
    if kind == "scenes" and seed:
        if not seed.isdecimal():
            raise LessonsError(f"scenes:{seed}: a seed is a whole number, as in scenes:7")
        return Scenes(int(seed), 200, size)
    if name == "scenes":
        return Scenes.train(size=size) if training else Scenes.validation(size=size)
    if name == "four_scenes":
        return Scenes.train(4, size=size)
    if name == "nuclei":
        return Nuclei("train" if training else "test")
    if name == "pennfudan":
        return PennFudan()
    if name == "coco":
        return CocoPanoptic()
    if name == "ten_coco":
        return Smaller(CocoPanoptic(), size, 10)
    known = "scenes, scenes:SEED, four_scenes, nuclei, pennfudan, coco, ten_coco"
    raise LessonsError(f"{name!r} is no data set: choose {known}")


class InMemory(Dataset):
    """A data set read (or drawn) once, each sample in bytes: its image and its map of ids.

    A scene of 128×128 takes 65 kB, a tenth of its tensors.
    """

    def __init__(self, source: DataSet, count: int):
        self.categories = source.categories
        workers = 0 if count < 64 or torch.get_num_threads() == 1 else _workers()
        loader = DataLoader(
            _Packed(source, count),
            batch_size=None,
            num_workers=workers,
            generator=torch.Generator(),  # a loader draws a number: not the caller's
        )
        # Copied, because what a worker hands over keeps a file open.
        self.packed = [tuple(part.clone() for part in sample) for sample in loader]

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> Sample:
        image, ids, labels, crowd = self.packed[index]
        masks = ids == torch.arange(1, len(labels) + 1, dtype=ids.dtype)[:, None, None]
        return Sample(image.float() / 255, Segments(masks, labels, is_crowd=crowd))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


class _Packed(Dataset):
    """Each sample of a source as (image uint8, ids int16, labels, is_crowd)."""

    def __init__(self, source: DataSet, count: int):
        self.source, self.count = source, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if index >= self.count:
            raise IndexError(index)
        sample = self.source[index]
        segments = sample.segments
        ids = torch.zeros(segments.size, dtype=torch.int16)
        for k, mask in enumerate(segments.masks, start=1):
            ids[mask] = k
        image = (sample.image * 255).round().to(torch.uint8)
        return image, ids, segments.labels, is_crowd(segments)


class Batches(Dataset):
    """The training batches: batch t depends on (seed, t) only, so a run can start anywhere.

    Every image comes once an epoch, in an order of that epoch, cropped and mirrored as the
    budget says.
    """

    def __init__(self, samples: DataSet, plan: Budget, seed: int):
        self.samples, self.plan, self.seed = samples, plan, seed

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, step: int) -> list[Sample]:
        if step >= len(self):
            raise IndexError(step)
        generator = _generator(self.seed, step)
        first, plan = step * self.plan.batch, self.plan
        chosen = [self.samples[self._index(first + i)] for i in range(plan.batch)]
        return [augment(sample, plan, generator) for sample in chosen]

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.samples))
        return _order(len(self.samples), self.seed, epoch)[place]


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(count, generator=_generator(seed, -1 - epoch)).tolist()


def augment(sample: Sample, plan: Budget, generator: torch.Generator) -> Sample:
    """A random crop of at most size×size pixels, mirrored and turned as the budget says.

    Segments that the crop leaves out are dropped.
    """
    image, segments = sample.image, sample.segments
    masks = segments.masks
    height, width = segments.size
    y, x = (
        int(torch.randint(max(side - plan.size, 0) + 1, (), generator=generator))
        for side in (height, width)
    )
    image = image[:, y : y + plan.size, x : x + plan.size]
    masks = masks[:, y : y + plan.size, x : x + plan.size]
    if plan.mirror and torch.rand((), generator=generator) < 0.5:
        image, masks = image.flip(-1), masks.flip(-1)
    if plan.turn:
        quarters = int(torch.randint(4, (), generator=generator))
        image, masks = image.rot90(quarters, (1, 2)), masks.rot90(quarters, (1, 2))
    kept = masks.flatten(1).any(dim=1)
    return Sample(image, replace(segments, masks=masks)[kept])


def _generator(*numbers: int) -> torch.Generator:
    """A generator whose stream depends on all the numbers."""
    return torch.Generator().manual_seed(_mixed(*numbers))


def _mixed(*numbers: int) -> int:
    """A seed made of several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return mixed


def _workers() -> int:
    return min(os.cpu_count() or 1, 8)


# ---------------------------------------------------------------- training


def fit(
    recipe: Recipe,
    budget_name: str | None = None,
    *,
    seed: int = 0,
    folder: Path | str | None = None,
    checkpoint_every: int = 200,
    progress: bool = True,
) -> Run:
    """Train the recipe's model; the budget is LESSONS_BUDGET's where none is named.

    With a `folder`, a checkpoint is written there every `checkpoint_every` steps, atomically,
    and a run that finds one goes on from it. Raises LessonsError naming the term where a loss
    or a gradient is no longer finite, and where the checkpoint is of another run. The caller's
    random state is left as it was. Under `accelerate launch` or `torchrun` the processes share
    each batch; the first of them evaluates, and its Run alone has scores.
    """
    name = budget_name or budget()
    plan = recipe.budget(name)
    has_gpu = torch.cuda.is_available()
    accelerator = Accelerator(mixed_precision="bf16" if has_gpu else "no", cpu=not has_gpu)
    if plan.batch < accelerator.num_processes:
        raise LessonsError(
            f"a batch of {plan.batch} is too small for {accelerator.num_processes} processes"
        )
    if checkpoint_every < 1:
        raise LessonsError(f"checkpoint_every must be at least 1, not {checkpoint_every}")
    device = accelerator.device
    on_gpu = device.type == "cuda"
    train = data_set(recipe.data, "train", plan.size, plan.count)
    held_out = data_set(recipe.data, "validation", plan.size, plan.validated)
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.manual_seed(seed)
        model = recipe.model()
        optimizer = torch.optim.AdamW(parameter_groups(model, plan.weight_decay))
        model, optimizer = accelerator.prepare(model, optimizer)
        bare = accelerator.unwrap_model(model)
        state = _Progress(Path(folder) if folder else None, recipe, plan, seed)
        state.restore(bare, optimizer)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        batches = Batches(train, plan, seed)
        bar = tqdm(
            _loader(batches, state.step, on_gpu),
            total=plan.steps,
            initial=state.step,
            desc=f"{recipe.system} on {recipe.data}",
            disable=not progress or not accelerator.is_main_process,
        )
        model.train()
        for samples in bar:
            step = state.step
            samples = samples[accelerator.process_index :: accelerator.num_processes]
            # What the model draws belongs to the step (and to the process).
            torch.manual_seed(_mixed(seed, step, 1 + accelerator.process_index))
            losses = model(
                [sample.image.to(device) for sample in samples],
                [sample.segments.to(device) for sample in samples],
            )
            if not losses:
                raise LessonsError(f"training stopped: {recipe.system} returned no losses")
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.parameters(), plan.clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, plan)
            # A look at a number on the GPU waits for it, so there it is done now and then.
            state.note({**losses, "gradient": norm, "loss": loss}, look=not on_gpu)
            optimizer.step()
            evaluated = state.step in evaluation_steps(plan)
            saved = state.folder is not None and (
                state.step % checkpoint_every == 0 or state.step == plan.steps
            )
            if evaluated or saved or state.step % max(1, plan.steps // 100) == 0:
                row = state.close_row(learning_rate(step, plan))
                bar.set_postfix(loss=f"{row['loss']:.3f}")
            if evaluated and accelerator.is_main_process:
                row["scores"] = evaluate(bare, held_out, recipe.metrics)
                model.train()
                state.clock = time.perf_counter()
            if saved and accelerator.is_main_process:
                state.save(bare, optimizer)
            if evaluated or saved:
                accelerator.wait_for_everyone()
        bare = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return Run(
        recipe=recipe,
        budget=name,
        seed=seed,
        model=bare.eval(),
        history=state.history,
        scores=state.history[-1].get("scores", {}),
        seconds=state.seconds,
        device=device_name(device),
        peak_memory=peak_memory(device),
    )


class _Progress:
    """How far a run is: what is saved in its checkpoint, beside model and optimizer."""

    def __init__(self, folder: Path | None, recipe: Recipe, plan: Budget, seed: int):
        self.folder = folder
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.open_row: list[dict[str, Tensor]] = []
        self.run = repr((recipe.system, recipe.data, dict(recipe.options), asdict(plan), seed))
        self.clock = time.perf_counter()

    @property
    def path(self) -> Path:
        return self.folder / "checkpoint.pt"

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
            run = saved["run"]
        except Exception as error:
            raise LessonsError(
                f"{self.path} cannot be read ({type(error).__name__}): delete it to start anew"
            ) from None
        if run != self.run:
            raise LessonsError(
                f"{self.path} is of another run ({_difference(run, self.run)}): "
                "delete it to start anew"
            )
        try:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError):
            raise LessonsError(
                f"{self.path} is of a model with other weights: delete it to start anew"
            ) from None
        self.step, self.seconds, self.history = saved["step"], saved["seconds"], saved["history"]

    def save(self, model: nn.Module, optimizer: Any) -> None:
        """Write the checkpoint whole or not at all."""
        part = self.path.with_suffix(".part")
        torch.save(
            {
                "run": self.run,
                "step": self.step,
                "seconds": self.seconds,
                "history": self.history,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
            },
            part,
        )
        os.replace(part, self.path)

    def note(self, terms: Mapping[str, Tensor], look: bool) -> None:
        """Add a step's terms to the open row."""
        self.open_row.append({name: value.detach().float() for name, value in terms.items()})
        self.step += 1
        if look:
            self._must_be_finite(self.step, self.open_row[-1])

    def close_row(self, rate: float) -> dict[str, Any]:
        """The means of the open row's terms, as a new row of the history."""
        first = self.step - len(self.open_row) + 1
        for step, terms in enumerate(self.open_row, start=first):
            self._must_be_finite(step, terms)
        names = self.open_row[0]
        now = time.perf_counter()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        row = {"step": self.step, "seconds": self.seconds, "learning_rate": rate}
        for name in names:
            row[name] = float(torch.stack([terms[name] for terms in self.open_row]).mean())
        self.history.append(row)
        self.open_row = []
        return row

    def _must_be_finite(self, step: int, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            if not torch.isfinite(value):
                what = "gradient's norm" if name == "gradient" else f"loss {name!r}"
                raise LessonsError(
                    f"training stopped: the {what} became {float(value)} in step {step}; "
                    "a smaller learning rate often helps"
                )


def _difference(old: str, new: str) -> str:
    """What differs between the `_Progress.run` of two runs: "seed is 1, not 0"."""
    try:
        runs = [ast.literal_eval(run) for run in (old, new)]
    except (ValueError, SyntaxError):  # an option that is no number, text or list
        return f"{old}, not {new}"
    there, here = (
        {"system": system, "data": data, **options, **plan, "seed": seed}
        for system, data, options, plan, seed in runs
    )
    return ", ".join(
        f"{name} is {there.get(name)!r}, not {here.get(name)!r}"
        for name in there | here
        if there.get(name) != here.get(name)
    )


def learning_rate(step: int, plan: Budget) -> float:
    """Linear warm-up, then half a cosine down to zero; `step` counts from 0."""
    warm_up = max(1, round(plan.warm_up * plan.steps))
    if step < warm_up:
        return plan.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, plan.steps - warm_up)
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def evaluation_steps(plan: Budget) -> set[int]:
    """The steps after which there is an evaluation; the last one is among them."""
    return {round(plan.steps * (i + 1) / plan.evaluations) for i in range(plan.evaluations)}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, norms and other vectors do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _loader(batches: Batches, start: int, on_gpu: bool) -> Iterable[list[Sample]]:
    """The batches from `start` on; beside a GPU, processes make them ready."""
    return DataLoader(
        Subset(batches, range(start, len(batches))),
        batch_size=None,
        num_workers=_workers() if on_gpu else 0,
    )


# ---------------------------------------------------------------- evaluation


def evaluate(
    model: nn.Module,
    data: DataSet,
    metrics: Mapping[str, Metric],
    batch: int = 8,
) -> dict[str, Any]:
    """The model's scores on a data set: {"ap": …, "ap50": …}, all metrics in one mapping.

    In `per_class` a class has one row with the numbers of all metrics. Predictions are made in
    float32, `batch` images at a time.
    """
    targets = [data[index].segments for index in range(len(data))]
    scores: dict[str, Any] = {}
    for method, metric in metrics.items():
        predictions = predict(model, data, method, batch)
        found = _plain(metric(predictions, targets, data.categories))
        rows, new_rows = scores.get("per_class", {}), found.pop("per_class", {})
        scores |= found
        if rows or new_rows:
            names = dict.fromkeys((*rows, *new_rows))
            scores["per_class"] = {
                name: {**rows.get(name, {}), **new_rows.get(name, {})} for name in names
            }
    return scores


def _plain(value: Any) -> Any:
    """Numbers of NumPy and torch as Python's own, which checkpoints and JSON take."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


@torch.no_grad()
def predict(model: nn.Module, data: DataSet, method: str, batch: int = 8) -> list[Any]:
    """What `model.predict_…` says of each image of a data set, on the CPU."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    answers: list[Any] = []
    for first in range(0, len(data), batch):
        chosen = range(first, min(first + batch, len(data)))
        images = [data[index].image.to(device) for index in chosen]
        answers += [answer.to("cpu") for answer in getattr(model, method)(images)]
    model.train(was_training)
    return answers


# ---------------------------------------------------------------- the machine


def device_name(device: torch.device) -> str:
    """What a run was made on: the GPU's name, or "cpu" with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"


def peak_memory(device: torch.device) -> int:
    """Bytes at most: of the GPU's tensors, or of this process; 0 where that is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
