"""Search the widths of a found architecture's blocks: `space.channels_of`.

This is the second of the paper's two steps: first the blocks, then their channels (its best row, 74.7 % at 328M FLOPs).
"""

from __future__ import annotations

from typing import Any

from spos_cli.config.schema import Config
from spos_cli.errors import ArchitectureError, ConfigError
from spos_cli.space.architecture import read
from spos_cli.space.search_space import parse_width

WIDTHS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)  # as in the recipe imagenet_channels
MAX_NAME = 100  # characters of `name`


def fix_blocks(config: Config) -> dict[str, Any]:
    """Return settings in plain types whose space is that of the widths of `space.channels_of`.

    They no longer name the architecture: a run keeps the space itself, so that it does not depend on the file. The name
    of the run is another one, so that the earlier search stays as it is.

    Raises:
        SposError: there is no such architecture, it is not of the space, or its blocks have no widths.
    """
    assert config.space.channels_of is not None
    arch = read(config.space.channels_of)
    for other in ("bits", "output_widths", "image_sizes"):
        if getattr(config.space, other):
            raise ConfigError(
                f"space.channels_of searches widths only, so it does not work with space.{other}; give space.widths"
                f" beside space.{other}, and both are searched together"
            )
    if arch.widths:
        raise ArchitectureError(f"{arch} has widths already; write its choices only, without @")
    space = config.space.build()
    space.validate(arch)
    try:
        fixed = space.fix_blocks(arch, tuple(map(parse_width, config.space.widths or WIDTHS))).to_dict()
    except ConfigError as error:
        if config.space.widths:
            raise
        usual = ", ".join(map(str, WIDTHS))
        raise ConfigError(f"{error} from {usual}, and give the others as space.widths") from None
    settings, suffix = config.dump(), f"-channels-{arch.id}"
    blocks = {name: fixed[name] for name in ("stages", "choices", "widths")}
    name = config.name[: MAX_NAME - len(suffix)] + suffix
    return {**settings, "name": name, "space": {**settings["space"], **blocks}}
