"""What torchrun needs: joining its processes, sums over them, and that one of them speaks.

    torchrun --nproc_per_node=8 train.py --config_file C

Started without torchrun a run is one process, and each function here gives back what it was given.
A collective must be called by all processes, in the same order. Those on values of the CPU go over
gloo, so that no process waits for its GPU to be asked something.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from SSLRemoteSensing.errors import UserError

# How long a process may wait for the others: for process 0 to write, or to score a large scene.
PATIENCE = datetime.timedelta(minutes=30)


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes the run has, on all machines."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """The number of this process on its machine, from 0: the GPU it takes."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_initialized() else 0


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Join the processes that torchrun started for as long as the block (or function) lasts.

    Process 0 alone writes to stdout and stderr. An error of another one is raised with its number;
    one that only follows from the end of another process says so.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "RANK" not in os.environ:
        yield
        return
    # Compiled networks leave their graph for it. To say so loads the compiler, which takes seconds.
    global _total
    _total = torch.compiler.disable(_Total.apply)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        with only_the_first_speaks():
            yield
    except UserError as error:
        raise UserError(f"process {rank()}: {error}" if rank() else str(error)) from error
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UserError(
            f"process {rank()}: lost the others ({' '.join(str(error).split())[:200]}); the run "
            f"ends by the error of the process that ended first"
        ) from error
    except SystemExit:  # all stop at the same step
        dist.destroy_process_group()
        raise
    # After an error the group is left as it is: to take it down can mean to wait for the others.
    wait()
    dist.destroy_process_group()


@contextlib.contextmanager
def only_the_first_speaks() -> Iterator[None]:
    if rank() == 0:
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def total(x: Tensor) -> Tensor:
    """The sum of `x` over the processes, with its gradient."""
    return x if size() == 1 else _total(x)


def gather(x: Tensor) -> Tensor:
    """(N, ...) of each process, one after the other: (size * N, ...), with the gradient."""
    if size() == 1:
        return x
    # Sums with zeros are exact, and embeddings are few bytes: one collective serves both.
    parts = [x if number == rank() else torch.zeros_like(x) for number in range(size())]
    return _total(torch.cat(parts))


class _Total(torch.autograd.Function):
    """Each process's part counts in the losses of all of them, so gradients add up in turn."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient


_total = _Total.apply


def spread(module: torch.nn.Module) -> None:
    """Give all processes the first one's buffers, as the statistics of batch normalization.

    DistributedDataParallel does so at the start of a step, and not at the end of one.
    """
    if size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def mean(values: dict[str, float]) -> dict[str, float]:
    """The mean of each number over the processes."""
    if size() == 1:
        return values
    summed = total(torch.tensor(list(values.values()), dtype=torch.float64))
    return dict(zip(values, (summed / size()).tolist(), strict=True))


def together(value) -> list:
    """`value` of each process, in order; it is pickled, so it must be our own and small."""
    if size() == 1:
        return [value]
    values = [None] * size()
    dist.all_gather_object(values, value)
    return values


def wait() -> None:
    """Go on when all processes have come here."""
    total(torch.zeros(1))


def ask(values: Callable[[], Sequence[int]]) -> Callable[[], list[int]]:
    """A function that gives the largest of each of `values()` over the processes.

    With several processes `values` is called now, and its answers travel until they are asked for.
    """
    if size() == 1:
        return lambda: list(values())
    numbers = torch.tensor(list(values()))
    work = dist.all_reduce(numbers, dist.ReduceOp.MAX, async_op=True)

    def answer() -> list[int]:
        work.wait()
        return numbers.tolist()

    return answer


def require_equal(what: str, value, remedy: str) -> None:
    """Raise a `UserError` where `value` is not the same in all processes."""
    values = together(value)
    if any(other != values[0] for other in values):
        raise UserError(f"{what}: the processes have {values}; {remedy}")


def own_share(items: Sequence) -> Sequence:
    """The items that this process takes, every `size()`-th."""
    return items[rank() :: size()]


def divide_batch(train_cfg: dict) -> dict:
    """`train_cfg` with batch_size = global_batch_size / processes, where that is given.

    Raises:
        UserError: a global_batch_size that does not divide by the number of processes.
    """
    rest = {key: value for key, value in train_cfg.items() if key != "global_batch_size"}
    whole = train_cfg.get("global_batch_size")
    if whole is None:
        return rest
    if whole < 1 or whole % size():
        raise UserError(
            f"train_cfg.global_batch_size={whole}: must be a multiple of the {size()} processes"
        )
    return rest | {"batch_size": whole // size()}
