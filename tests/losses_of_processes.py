"""The losses and a gradient of three scenes that one or several processes share, for a test.

`torchrun … tests/losses_of_processes.py SYSTEM`: the first process prints them as JSON.
"""

import json
import sys

import torch
from torch import distributed

from lessons.kit.data.scenes import Scenes
from lessons.mask2former import Mask2Former
from lessons.maskformer import MaskFormer

SMALL = {"num_queries": 9, "channels": 16, "hidden": 16, "heads": 2, "decoder_layers": 2}
SYSTEMS = {
    "maskformer": lambda: MaskFormer(8, 4, **SMALL),
    "mask2former": lambda: Mask2Former(8, 4, points=False, **SMALL),  # nothing is drawn
}

distributed.init_process_group("gloo")
rank, processes = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(0)
model = SYSTEMS[sys.argv[1]]()
scenes = [Scenes.train(size=64)[index] for index in range(3)]
own = scenes[rank::processes]  # two scenes and one
share = len(own) * processes / len(scenes)  # as `fit` weighs a process
losses = model([s.image for s in own], [s.segments for s in own])
sum(losses.values()).backward()
gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
said = torch.cat([torch.stack(list(losses.values())).detach(), gradient]) * share / processes
distributed.all_reduce(said)
if rank == 0:
    count = len(losses)
    print(json.dumps({"losses": said[:count].tolist(), "gradient": said[count:].norm().item(),
                      "some": said[count::997].tolist()}))  # fmt: skip
distributed.destroy_process_group()
