"""The console script `spos`; also `python -m spos_cli`, for torchrun."""

from __future__ import annotations

from spos_cli.cli import main

if __name__ == "__main__":
    main()
