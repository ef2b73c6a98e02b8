"""What torchrun needs: joining its processes, collectives, and that one of them speaks.

    torchrun --nproc_per_node=8 train.py --config_file C

Started without torchrun a run is one process, and each function here gives back what it was given.
A collective must be called by all processes, in the same order. Those on values of the CPU go over
gloo, so that no process waits for its GPU to be asked something.
"""

import contextlib
import datetime
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from SSLRemoteSensing.core.errors import UserError, one_line
from SSLRemoteSensing.core.machine import gpu_count

# How long a process may wait for the others: for the first to write, or to score a large scene. One
# that ended is not waited for: its connections are closed.
PATIENCE = datetime.timedelta(hours=6)
LOST = re.compile(
    r"connection (closed|reset|refused)|broken pipe|timed? ?out|remote process exited", re.I
)

_alone = False


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() and not _alone else 0


def size() -> int:
    """How many processes the run has, on all machines."""
    return dist.get_world_size() if dist.is_initialized() and not _alone else 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """In the block this process is a run of its own: it asks the others for nothing."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Join the processes that torchrun started for as long as the block (or function) lasts.
    Process 0 alone writes to stdout and stderr. An error of another one is raised with its number;
    one that only follows from the end of another process says so."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "RANK" not in os.environ:
        yield
        return
    if "LOCAL_RANK" not in os.environ:
        raise UserError("WORLD_SIZE is set, LOCAL_RANK is not: start the processes with torchrun")
    backend = "cpu:gloo,cuda:nccl" if gpu_count() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        with contextlib.ExitStack() as ends:
            if rank() > 0:
                sink = ends.enter_context(open(os.devnull, "w"))
                ends.enter_context(contextlib.redirect_stdout(sink))
                ends.enter_context(contextlib.redirect_stderr(sink))
            yield
    except UserError as error:
        number = f"process {rank()}: " if rank() else ""
        raise UserError(number + one_line(error)) from error
    except RuntimeError as error:
        if not isinstance(error, dist.DistNetworkError) and not LOST.search(str(error)):
            raise
        raise UserError(
            f"process {rank()}: lost the others ({' '.join(str(error).split())[:200]}); the one "
            f"that ended first says why, and a run goes on by the same command on all machines"
        ) from error
    except SystemExit:  # all stop at the same step
        dist.destroy_process_group()
        raise
    # After an error the group is left as it is: to take it down can mean to wait for the others.
    barrier()
    dist.destroy_process_group()


def all_sum(x: Tensor) -> Tensor:
    """The sum of `x` over the processes. Each one's part counts in the losses of all of them, so
    gradients add up in turn."""
    return x if size() == 1 else _all_sum(x)


def all_gather(x: Tensor) -> Tensor:
    """(N, ...) of each process, one after the other: (size * N, ...), with the gradient."""
    if size() == 1:
        return x
    # Sums with zeros are exact, and embeddings are few bytes: one collective serves both.
    parts = [x if number == rank() else torch.zeros_like(x) for number in range(size())]
    return _all_sum(torch.cat(parts))


class _AllSum(torch.autograd.Function):
    """Each process's part counts in the losses of all of them, so gradients add up in turn."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _AllSum.forward(ctx, gradient)


_all_sum = _AllSum.apply


def keep_out_of_graphs() -> None:
    """Let compiled networks leave their graph for sums over the processes.

    Only where one is compiled: to say so loads the compiler, which takes seconds.
    """
    global _all_sum
    _all_sum = torch.compiler.disable(_AllSum.apply)


def broadcast_buffers(module: torch.nn.Module) -> None:
    """Give all processes the first one's buffers, as the statistics of batch normalization:
    DistributedDataParallel does so at the start of a step, and not at the end of one."""
    if size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def all_mean(values: dict[str, float]) -> dict[str, float]:
    """The mean of each number over the processes."""
    means = all_sum(torch.tensor(list(values.values()), dtype=torch.float64)) / size()
    return dict(zip(values, means.tolist(), strict=True))


def all_gather_object(value) -> list:
    """`value` of each process, in order; it is pickled, so it must be our own and small."""
    values = [value] * size()
    if size() > 1:
        dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Go on when all processes have come here; no process waits for its GPU."""
    all_sum(torch.zeros(1))


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """The block is the first process's, then the others'."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def ask(values: Callable[[], Sequence[int]]) -> Callable[[], list[int]]:
    """A function that gives the largest of each of `values()` over the processes. With several of
    them `values` is called now, and its answers travel until they are asked for."""
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
    values = all_gather_object(value)
    if any(other != values[0] for other in values):
        raise UserError(f"{what}: the processes have {values}; {remedy}")


def require_shared(folder: Path, key: str) -> None:
    """Raise a `UserError` where `folder` is not one and the same for all processes."""
    if size() == 1:
        return
    token = folder / f".shared.{all_gather_object(os.getpid())[0]}"
    if rank() == 0:
        token.touch()
    barrier()
    answers = all_gather_object(token.exists())
    if rank() == 0:
        token.unlink(missing_ok=True)
    if not all(answers):
        raise UserError(
            f"{key}={str(folder)!r}: process {answers.index(False)} sees another folder than the "
            f"first; name one on a disk that all machines share"
        )


def shard(items: Sequence) -> Sequence:
    """The items that this process takes, every `size()`-th."""
    return items[rank() :: size()]
