"""A batch that several processes share: what a sum over its images is divided by."""

import torch
from torch import Tensor, distributed


def per_process(count: Tensor | float, images: int) -> Tensor:
    """What this process divides its sum by, so that all together divide by all they counted.

    A loss that is a sum over segments (or queries, or boxes) divided by their number is not the
    mean of what each process would say by itself. So the number is counted in all processes, and
    each takes the part of it that falls to its `images`: `fit` weighs a process by its images,
    and the mean over the processes is then the loss of the whole batch. In a single process it
    is the count itself. Where nothing is counted anywhere it is 1: a sum over nothing stays 0.
    """
    if not isinstance(count, Tensor):
        count = torch.tensor(float(count), dtype=torch.float32)
    total = count.detach()
    if distributed.is_available() and distributed.is_initialized():
        both = torch.stack([total, total.new_tensor(float(images))])
        both = both.to("cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(both)
        total = (both[0] / both[1] * images).to(total.device)
    return torch.where(total == 0, torch.ones_like(total), total)
