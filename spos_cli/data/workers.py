"""Load batches in worker processes, and hand them over through shared memory."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from spos_cli.data.memory import keep_freed_memory

PREFETCH = 2  # batches that each worker makes ahead


class _Piped(NamedTuple):
    """A tensor on its way through a pipe: its values in the order of memory, its shape and its strides."""

    values: NDArray[Any]
    size: tuple[int, ...]
    stride: tuple[int, ...]


def stream(
    dataset: Dataset[Any],
    batches: Iterable[list[Any]],
    workers: int,
    collate: Callable[[Any], Any],
    pin_memory: bool = False,
) -> Iterator[Any]:
    """Return an iterator over batches of a dataset's items. The worker processes end with the iterator.

    Args:
        dataset: items by key, or with `__getitems__` anything made of a list of keys.
        batches: the keys of each batch.
        workers: processes that load; 0 for this process.
        collate: makes a batch of the dataset's items; it may return a named tuple with tensors in it.
        pin_memory: page-locked memory, so that copies to a GPU do not block.
    """
    with warnings.catch_warnings():
        # torch warns about more workers than cores, which are the user's choice.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loaded = iter(
            DataLoader(
                dataset,
                batch_sampler=batches,
                num_workers=workers,
                prefetch_factor=PREFETCH if workers else None,
                collate_fn=functools.partial(_hand_over, collate) if workers else collate,
                pin_memory=pin_memory and torch.accelerator.is_available(),
                worker_init_fn=begin_worker,
                # Without a generator, torch draws a seed from the global one.
                generator=torch.Generator().manual_seed(0),
            )
        )
    return map(_take_over, loaded)


def begin_worker(_: int) -> None:
    """Give a worker one thread and a process group of its own, and let it keep freed memory.

    One thread, since workers share the cores with the training. A group of its own, since Ctrl-C and often SIGTERM go
    to the whole group: the main process handles them, and needs its workers until the step is done.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def _hand_over(collate: Callable[[Any], Any], samples: Any) -> Any:
    """Make a batch in a worker, with its tensors in shared memory as long as there is room.

    A DataLoader would move them there later, in a thread whose errors nobody sees: the batch would be lost, and the
    main process would wait for it forever. Tensors without room go through a pipe, which is slower.
    """
    batch = collate(samples)
    return type(batch)(*map(_share, batch)) if isinstance(batch, tuple) else batch


def _share(field: Any) -> Any:
    """Move a tensor to shared memory, or prepare it for a pipe; return anything else unchanged."""
    if not isinstance(field, Tensor):
        return field
    if _has_room(field.nbytes):
        with contextlib.suppress(RuntimeError):  # The room may be gone by now, or no more files may be open.
            return field.share_memory_()  # type: ignore[no-untyped-call]
    values = field.as_strided((field.numel(),), (1,)).numpy()
    return _Piped(values, tuple(field.shape), field.stride())


def _has_room(size: int) -> bool:
    """Tell whether shared memory has room for `size` bytes of each worker on this machine.

    Older versions of PyTorch do not check before they write, and then the system kills the worker.
    """
    worker, free = get_worker_info(), shared_memory_free()
    workers = (worker.num_workers if worker else 1) * int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return free is None or size * workers <= free


def _take_over(batch: Any) -> Any:
    """Restore a batch of `_hand_over` in the main process."""
    if not isinstance(batch, tuple):
        return batch
    return type(batch)(
        *(
            torch.from_numpy(field.values).as_strided(field.size, field.stride) if isinstance(field, _Piped) else field
            for field in batch
        )
    )


def shared_memory_needed(workers: int, images: int, image_size: int, channels: int) -> int:
    """Count the bytes of shared memory that batches of `images` need on their way from the workers of one process."""
    return PREFETCH * workers * images * channels * image_size**2


def shared_memory_free() -> int | None:
    """Look up how many bytes of shared memory are free; None on systems that do not tell (other than Linux)."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return None
