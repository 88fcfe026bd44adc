"""Several processes at one training: `torchrun --nproc-per-node N -m cmai_core.training …`.

Each process takes its share of every batch; gradients are averaged by PyTorch's DistributedDataParallel, which
Accelerate sets up (its launcher, `accelerate launch`, does as well as torchrun). Negatives of contrastive losses are
those of the process's own share. Checkpoints and logs are the first process's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cmai_core.errors import OptionError


@dataclass(frozen=True)
class Processes:
    """The processes of a training; `alone` where there is one.

    Attributes:
        rank, count: which of how many. accelerator: Accelerate's object, None alone.
    """

    rank: int = 0
    count: int = 1
    accelerator: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def device(self, asked: str | None) -> str | None:
        """Return this process's device."""
        return asked if self.accelerator is None else str(self.accelerator.device)

    def share(self, batch: int) -> int:
        """Return scenes of a batch for each process.

        Raises:
            OptionError: the batch cannot be divided, or a share would be smaller than four.
        """
        if batch % self.count or batch // self.count < 4:
            raise OptionError(f"A batch of {batch} cannot be shared by {self.count} processes.", "Give --batch.")
        return batch // self.count

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module, whose backward pass averages gradients over the processes."""
        return module if self.accelerator is None else self.accelerator.prepare_model(module)

    def gathered(self, x: Tensor) -> Tensor:
        """Return the rows of all processes, in their order."""
        return x if self.accelerator is None else self.accelerator.gather(x)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


ALONE = Processes()


def processes(device: str | None = None) -> Processes:
    """Return the processes that a launcher started together with this one; `ALONE` without a launcher.

    Raises:
        OptionError: started by a launcher, and Accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return ALONE
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise OptionError("Training with several processes needs Accelerate.", "pip install 'cmai[train]'") from error
    # Steps that train the image tower alone leave the other parameters without a gradient.
    options = DistributedDataParallelKwargs(find_unused_parameters=True)
    on_cpu = (device or ("cuda" if torch.cuda.is_available() else "cpu")).startswith("cpu")
    accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=[options])
    return Processes(accelerator.process_index, accelerator.num_processes, accelerator)
