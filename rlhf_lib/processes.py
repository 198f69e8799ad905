"""Several processes, one training run: each samples and scores its share of the batch, and gradients are added up.

    accelerate launch --num_processes 2 -m rlhf_lib.cli train rloo ...                 on two GPUs
    torchrun --standalone --nproc-per-node 2 -m rlhf_lib.cli train rloo ...            on two cores

Accelerate connects the processes that either of the two starts. Started in any other way a run is alone, and every
function here gives back what it was given.

A loss is a mean over *this* process's rows or tokens. The whole batch's loss is not the mean of those means where the
processes hold unequal numbers; it is their sum, each times `weight(its count)`. Hence a loop's two lines:

    (weight(mask.sum()) * loss).backward()
    norm = clip_gradients(parameters, max_grad_norm)      # adds up the processes' gradients first
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def count() -> int:
    """How many processes train together: 1, unless Accelerate or torchrun started several."""
    return int(os.environ.get("WORLD_SIZE", 1))


def index() -> int:
    """This process's number, from 0. Process 0 alone writes files and shows progress."""
    return int(os.environ.get("RANK", 0)) if count() > 1 else 0


def share(items: Sequence) -> list:
    """This process's part of a batch; process 0 has the first. Raises ValueError where the parts would be unequal."""
    if len(items) % count():
        raise ValueError(
            f"{count()} processes cannot share {len(items)} prompts a step: ask for a multiple of {count()}"
        )
    size = len(items) // count()
    return list(items[index() * size : (index() + 1) * size])


def total(value: Tensor | float) -> Tensor | float:
    """The sum of everybody's `value`, a number or tensors of one shape; no gradient flows through it."""
    if count() == 1:
        return value
    if isinstance(value, Tensor):
        return _utils().reduce(value.detach(), "sum")
    # MPS has no float64, and float32 counts exactly up to 16 million
    return total(torch.tensor(float(value), device=_state().device)).item()


def mean(value: Tensor | float) -> Tensor | float:
    """The mean of everybody's `value`: each process counts alike."""
    return value if count() == 1 else total(value) / count()


def weight(own: Tensor | int) -> float:
    """What part of the whole batch's rows or tokens this process holds; 1 for a process alone, 0 if there are none."""
    return 1.0 if count() == 1 else float(own) / max(total(float(own)), 1.0)


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Add up the processes' gradients, in place, and shorten the sum to `max_norm`. Returns the norm it had before."""
    if count() > 1:
        for p in parameters:
            if p.grad is not None:  # as of a head that the loss does not use, in any process
                p.grad = total(p.grad)
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def batchwide(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, mask: Tensor) -> Tensor:
    """`function(x, mask)` of the whole batch's rows, as whitening wants them; what comes back are the own rows, [B, T].

    Every process has equally many rows; the time dimension may differ.
    """
    if count() == 1:
        return function(x, mask)
    utils = _utils()
    rows = [utils.gather(utils.pad_across_processes(t.contiguous(), dim=1)) for t in (x, mask.to(torch.uint8))]
    first = index() * len(x)
    return function(rows[0], rows[1].bool())[first : first + len(x), : x.shape[1]]


@torch.no_grad()
def synchronise(module: nn.Module) -> None:
    """Give every process the trainable weights of process 0."""
    if count() > 1:
        for p in module.parameters():
            if p.requires_grad:
                p.copy_(_utils().broadcast(p.detach()))


@contextmanager
def first_alone() -> Iterator[None]:
    """Process 0 goes through the block before the others enter it."""
    if count() == 1:
        yield
    else:
        with _state().main_process_first():
            yield


def _state():
    """Accelerate's connection between the processes, made on first use; by gloo where the models are on the CPU."""
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError('several processes need Accelerate: pip install "rlhf-lib[smol]"') from error
    state = PartialState(cpu=os.environ.get("RLHF_DEVICE") == "cpu" or not torch.cuda.is_available())
    if state.num_processes != count():
        raise RuntimeError(f"Accelerate connects {state.num_processes} of {count()} processes: start all of them anew")
    return state


def _utils():
    _state()
    from accelerate import utils

    return utils
