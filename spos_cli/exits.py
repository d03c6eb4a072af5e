"""How commands start processes, show errors and end with an exit code."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from spos_cli import __version__
from spos_cli.errors import ConfigError, SposError
from spos_cli.files import streams
from spos_cli.files.digests import file_digest
from spos_cli.files.home import expand_argument

if TYPE_CHECKING:
    from spos_cli.config.schema import Config
    from spos_cli.config.training import TrainingConfig
    from spos_cli.engine.distributed import Processes

# What to do if the memory of a GPU is too small.
RAISE_ACCUMULATE = (
    "raise {}.accumulate: the batch of a step stays as it is, and the training goes on from its last checkpoint"
)
LOWER_BATCH_SIZES = "lower search.batch_size and search.calibration_batch_size"
LOWER_BATCH_SIZES_OF_SEARCH = (
    f"{LOWER_BATCH_SIZES}; scores depend on both, so a search that has scores then needs --fresh"
)

MISTAKE_EXIT_CODE = 2  # The user can fix the mistake.
# Commands whose results are in the run folder, so that what they print may be lost.
LONG_COMMANDS = ("supernet-train", "search", "retrain", "audit")


def run_across_processes(
    command: str,
    settings: Config,
    work: Callable[[Processes], None],
    advice: str,
    *,
    images: int | None,
    **arguments: object,
) -> None:
    """Do the work in this process, or start as many processes as the settings ask for, each with this command line.

    Args:
        command: the name of the command. All processes must agree on it, on the settings and on the versions.
        advice: what to do if the work does not fit into the memory of a GPU.
        images: images that each process works on at once. Few images are worth few CPU threads. None: use all threads.
        arguments: arguments of the command that all processes must agree on. For a file, its content is compared.

    Raises:
        ConfigError: the work does not fit into the memory of a GPU, the processes do not agree, or the environment has
            some variables of another launch.
    """
    import torch

    from spos_cli.config.identity import shared_settings
    from spos_cli.engine import accelerator, distributed

    distributed.require_whole_launch()
    if command in LONG_COMMANDS:
        streams.ignore_failed_writes()
    count = distributed.count_processes(settings.devices)
    if count > 1 and not distributed.is_launched():
        accelerator.require_usable(settings.devices)  # Otherwise every process would report it.
        distributed.launch(count, sys.argv[1:], settings.max_restarts, lambda text: print(text, file=sys.stderr))
        return
    same: dict[str, object] = {}
    if distributed.is_launched():
        versions = {"spos": __version__, "torch": str(torch.__version__)}
        contents = {name: digest_file(value) if isinstance(value, Path) else value for name, value in arguments.items()}
        same = {"command": command, "versions": versions, **shared_settings(settings), "arguments": contents}
    timeout = timedelta(minutes=settings.timeout_minutes)
    layer = None if images is None else images * settings.space.build().work_per_layer
    try:
        with distributed.join(settings.devices, settings.threads, timeout, same, layer) as processes:
            work(processes)
    except torch.OutOfMemoryError as error:
        cause = ". ".join(str(error).split(". ")[:3])  # The sentences after these repeat it in other numbers.
        raise ConfigError(f"{cause}; {advice}") from None


def count_images_at_once(training: TrainingConfig) -> int:
    """Return how many images each process of a training works on at once."""
    from spos_cli.engine import distributed

    parts = training.accumulate * distributed.count_all_processes()
    return max(1, training.batch_size // parts)


def digest_file(path: Path) -> str:
    """Return the digest of a file that the command line names; if it cannot be read, its name."""
    try:
        return file_digest(path)
    except OSError:
        return str(path)


def run_and_exit(app: Callable[[], object]) -> NoReturn:
    """Run the command line and end this process with its exit code."""
    streams.protect()
    sys.argv[1:] = map(expand_argument, sys.argv[1:])
    try:
        code = run_for_exit_code(app)
    except Exception:  # a bug
        if not _is_launched():
            raise
        sys.excepthook(*sys.exc_info())
        code = 1
    code = _flush_for_exit_code(code)
    if _is_launched():
        # Everything is written. When the interpreter ends, it can meet threads of gloo and NCCL that are still at work,
        # and they can abort the process. After an error, NCCL can even make it wait for the other processes.
        os._exit(code)
    gc.freeze()  # The interpreter's end would look for cycles in all of PyTorch, which takes half a second.
    sys.exit(code)


def run_for_exit_code(app: Callable[[], object]) -> int:
    """Run the command line, show its error if there is one, and return its exit code. A bug is raised."""
    try:
        app()
    except SposError as error:
        show(error)
        return MISTAKE_EXIT_CODE
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        code = _handle_accident(error)
        if code is None:
            raise
        return code
    return 0


def _flush_for_exit_code(code: int) -> int:
    """Write what is still buffered, and return the exit code of a command that ended with `code`."""
    try:
        streams.flush()
    except SystemExit:  # The reader of stdout has gone.
        return code or streams.BROKEN_PIPE_EXIT_CODE
    except SposError as error:
        show(error)
        return code or MISTAKE_EXIT_CODE
    return code


def _handle_accident(error: Exception) -> int | None:
    """Show an error that is neither a mistake of the user nor a bug, and return its exit code; None for a bug."""
    from spos_cli.engine.interrupt import Interrupted

    if isinstance(error, Interrupted):
        same = "the same command without --fresh" if "--fresh" in sys.argv else "the same command"
        print(f"stopped by {error}; everything is saved, and {same} resumes", file=sys.stderr)
        return 128 + error.number
    if isinstance(error, OSError) and error.filename is not None:  # A name or a permission that no check foresees.
        show(SposError(f"{error.strerror}: {error.filename!s:.200}"))
        return MISTAKE_EXIT_CODE
    distributed = sys.modules.get("spos_cli.engine.distributed")
    if distributed is not None and isinstance(error, distributed.WorkersFailed):
        for message in error.messages:
            print(f"error: {message}", file=sys.stderr)
        return int(error.exit_code)
    if distributed is not None and isinstance(error, distributed.PeerLost):
        if error.silent:  # Otherwise the other process reports it.
            show(error)
        return 1
    return None


def show(error: Exception) -> None:
    """Show an error: let the launcher do so if one has started this process, else print it."""
    distributed = sys.modules.get("spos_cli.engine.distributed")
    if distributed is None or not distributed.report_failure(error):
        has_lines = isinstance(error, ConfigError) and "\n" in str(error)
        print(f"error:{chr(10) if has_lines else ' '}{error}", file=sys.stderr)


def _is_launched() -> bool:
    """Tell whether this is one of several processes; the others may be waiting for it."""
    distributed = sys.modules.get("spos_cli.engine.distributed")
    return distributed is not None and bool(distributed.is_launched())
