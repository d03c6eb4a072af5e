"""Keep the memory that a step or a batch frees for the next one."""

from __future__ import annotations

import ctypes
import os

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MAX_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc keep freed memory in this process, instead of giving large blocks back to the system.

    The feature maps of a step are blocks of megabytes, and so are decoded images. glibc asks the system for each of
    them again, and the system fills it with zeros, page by page, which can take half of the time of a step on CPUs.
    Other C libraries have no such call and are left alone. So are settings of the user's own in `MALLOC_*` variables.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not Linux, or not glibc
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, MAX_INT)
