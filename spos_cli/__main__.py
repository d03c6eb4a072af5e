"""`python -m spos_cli`, for torchrun; also the console script `spos`."""

from __future__ import annotations

from spos_cli.cli import main

if __name__ == "__main__":
    main()
