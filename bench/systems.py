"""A row a system: a training step of eight scenes, and the share of it that the backbone takes."""

import contextlib

import torch
from torch import nn

from bench.timing import report, side_by_side, wait
from lessons.kit.data.scenes import Scenes
from lessons.kit.models.backbone import Backbone
from lessons.kit.training.recorded import recipe_of

IMAGES = 8
SYSTEMS = (
    "mask_rcnn",
    "centroid_offsets",
    "spatial_embedding",
    "panoptic_fpn",
    "maskformer",
    "mask2former",
    "oneformer",
)


def main(device: str = "cpu") -> None:
    for precision in (None, torch.bfloat16) if device == "cuda" else (None,):
        name = "bfloat16" if precision else "float32"
        print(f" forward and backward of {IMAGES} scenes of 128 × 128 on {device}, {name}")
        ways = {"backbone alone": step(Backbone(), device, precision)}
        for system in SYSTEMS:
            torch.manual_seed(0)
            ways[system] = step(recipe_of(system, "scenes", {}).model(), device, precision)
        seconds = side_by_side(ways, repeats=5)
        report(seconds, peer="mask_rcnn")
        for system in SYSTEMS:
            print(f"  {system:<28}{IMAGES / min(seconds[system]):7.0f} images/s")


def step(model: nn.Module, device: str, precision: torch.dtype | None):
    """A training step without the update; of the backbone the sum of its features is the loss."""
    samples = [Scenes.train()[index] for index in range(IMAGES)]
    images = [sample.image.to(device) for sample in samples]
    segments = [sample.segments.to(device) for sample in samples]
    model = model.to(device).train()

    def run() -> None:
        model.zero_grad()
        with torch.autocast(device, precision) if precision else contextlib.nullcontext():
            if isinstance(model, Backbone):
                loss = sum(features.float().mean() for features in model(torch.stack(images)))
            else:
                loss = sum(model(images, segments).values())
        loss.backward()
        wait(device)

    return run


if __name__ == "__main__":
    main()
