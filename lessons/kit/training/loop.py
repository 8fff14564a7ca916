"""One `fit` and one `evaluate` for every system of the course.

A lesson with a model says in a `Recipe` what is trained, on what, how it is measured and what
each budget means. `fit` trains it, on a CPU, a GPU or several (Hugging Face accelerate), with
AdamW, warm-up and cosine, clipping, and bf16 on CUDA. Every random choice of step t is drawn
from (seed, t), so a run that was killed and resumed ends with the same numbers as one that was
not. Nothing here needs Jupyter.
"""

import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from lessons.kit.data import DataSet, Sample
from lessons.kit.data.memory import First, shared_by, start_worker, workers
from lessons.kit.data.named import data_set
from lessons.kit.errors import LessonsError
from lessons.kit.training.batches import Batches, mixed
from lessons.kit.training.measure import evaluate
from lessons.kit.training.progress import Progress
from lessons.kit.training.recipe import Budget, Recipe, budget


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
    held_out: DataSet | None = None  # what was evaluated on


def fit(
    recipe: Recipe,
    budget_name: str | None = None,
    *,
    train: DataSet | None = None,
    validation: DataSet | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    checkpoint_every: int = 200,
    progress: bool = True,
) -> Run:
    """Train the recipe's model; the budget is LESSONS_BUDGET's where none is named.

    `train` and `validation` are any data sets with the same categories; where one is None it is
    the recipe's. The budget's `count` and `validated` limit them too. Real images that are read
    as they are needed may be read by processes, beside a GPU. Raises ValueError for what is no
    data set, has no images or other categories.

    With a `folder`, a checkpoint is written there every `checkpoint_every` steps and every 20
    seconds, atomically, and a run that finds one goes on from it. Raises LessonsError naming
    the term where a loss or a gradient is no longer finite, and where the checkpoint is of
    another run. The caller's random state is left as it was.

    Under `torchrun` the processes share each batch and each evaluation; the first one's Run alone
    has scores. A loss that is a mean over the images is that of one process with the whole batch,
    also where the batch does not divide evenly, and so is one whose segments are counted in all
    processes (`per_process`, in lessons 12 to 16). A mean over sampled boxes or over foreground
    pixels is that of each process, as in the published codes.
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
    if accelerator.num_processes == 1 and not has_gpu and "ACCELERATE_USE_CPU" in os.environ:
        print(
            "accelerate launch starts one process on a CPU: torchrun --nproc-per-node starts more"
        )
    device = accelerator.device
    on_gpu = device.type == "cuda"
    recipe, train, held_out = _images(recipe, plan, train, validation)
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.manual_seed(seed)
        model = recipe.model()
        optimizer = torch.optim.AdamW(parameter_groups(model, plan.weight_decay))
        model, optimizer = accelerator.prepare(model, optimizer)
        bare = accelerator.unwrap_model(model)
        state = Progress(Path(folder) if folder else None, recipe, plan, seed)
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
            # The gradient is the processes' mean: a larger part of the batch weighs more in it.
            share = len(samples) * accelerator.num_processes / plan.batch
            # What the model draws belongs to the step (and to the process).
            torch.manual_seed(mixed(seed, step, 1 + accelerator.process_index))
            losses = model(
                [sample.image.to(device) for sample in samples],
                [sample.segments.to(device) for sample in samples],
            )
            if not losses:
                raise LessonsError(f"training stopped: {recipe.system} returned no losses")
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss * share)
            norm = accelerator.clip_grad_norm_(model.parameters(), plan.clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, plan)
            # A look at a number on the GPU waits for it, so there it is done now and then.
            terms = {**losses, "loss": loss}
            if accelerator.num_processes > 1:
                parts = torch.stack([part.detach().float() for part in terms.values()])
                terms = dict(zip(terms, accelerator.reduce(parts * share, "mean"), strict=True))
            state.note({**terms, "gradient": norm}, look=not on_gpu)
            optimizer.step()
            evaluated = state.step in evaluation_steps(plan)
            if evaluated or state.step % max(1, plan.steps // 100) == 0:
                row = state.close_row(learning_rate(step, plan))
                bar.set_postfix(loss=f"{row['loss']:.3f}")
            if evaluated:
                shared = accelerator.num_processes > 1
                row["scores"] = evaluate(bare, held_out, recipe.metrics, shared=shared)
                model.train()
                state.clock = time.perf_counter()
            if accelerator.is_main_process and state.is_to_be_saved(checkpoint_every, plan.steps):
                state.save(bare, optimizer)
            if evaluated:
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
        held_out=held_out,
    )


def _images(
    recipe: Recipe, plan: Budget, train: DataSet | None, validation: DataSet | None
) -> tuple[Recipe, DataSet, DataSet]:
    """What is trained and evaluated on, and the recipe, whose `data` says so."""
    given = {"train": (train, plan.count), "validation": (validation, plan.validated)}
    data, found = [], []
    for split, (images, limit) in given.items():
        if images is None:
            found.append(data_set(recipe.data, split, plan.size, limit))
            data.append(recipe.data)
            continue
        if not all(hasattr(images, name) for name in ("categories", "__len__", "__getitem__")):
            kind = type(images).__name__
            raise ValueError(f"{split} must be a sequence of samples with categories, not {kind}")
        if len(images) == 0:
            raise ValueError(f"{split} has no images")
        found.append(First(images, limit))
        data.append(f"{type(images).__name__} of {len(images)} images")
    kinds = [[(c.name, c.is_thing) for c in images.categories] for images in found]
    if kinds[0] != kinds[1]:
        raise ValueError("train and validation must have the same categories")
    name = data[0] if data[0] == data[1] else f"{data[0]}, held out {data[1]}"
    return replace(recipe, data=name), *found


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


def _loader(batches: Batches, start: int, on_gpu: bool) -> Iterator[list[Sample]]:
    """The batches from `start` on; beside a GPU, processes make them ready.

    An image that cannot be read ends it with the same sentence, whichever process meets it.
    """
    count = workers() if on_gpu else 0
    processes = (count + 1) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun
    loader = DataLoader(
        _Ready(Subset(batches, range(start, len(batches)))),
        batch_size=None,
        num_workers=count,
        worker_init_fn=partial(start_worker, processes),
    )
    with shared_by(processes):
        for samples in loader:
            if isinstance(samples, LessonsError):
                raise samples
            yield samples


class _Ready(Dataset):
    """Batches, or why one cannot be had: what a process raises, torch wraps in a traceback."""

    def __init__(self, batches: Subset):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Sample] | LessonsError:
        try:
            return self.batches[index]
        except LessonsError as error:
            return LessonsError(str(error))


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
