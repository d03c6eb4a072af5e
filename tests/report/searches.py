"""A search with made-up scores, and the data in a page."""

from __future__ import annotations

import json
import re
from typing import Any

from spos_cli.report.findings import Search
from spos_cli.search.results import ranking
from spos_cli.space.choices import Choice
from spos_cli.space.search_space import SearchSpace, Stage
from tests.runs import make_candidates

MBCONV = tuple(Choice("mbconv", (("expand", 2), ("kernel", kernel))) for kernel in (3, 5))
SPACE = SearchSpace(
    stages=(Stage(1, 16, 1, (Choice("shuffle_xception"), MBCONV[0])), Stage(3, 32)),
    choices=(*MBCONV, Choice("identity")),
    image_size=16,
    classes=10,
    stem_channels=8,
    stem_stride=1,
    head_channels=32,
    widths=(500, 1000, 1250),
)


QUANTIZED = SearchSpace(
    stages=(Stage(2, 16, 1), Stage(2, 32)),
    choices=(Choice("basic", (("kernel", 3),)), Choice("bottleneck", (("kernel", 3),)), Choice("identity")),
    image_size=16,
    classes=10,
    stem_channels=8,
    stem_stride=1,
    head_channels=32,
    widths=(500, 1000),
    bits=(12, 24, 44),
)


def search_in(space: SearchSpace, candidates: int = 80, images: int = 300, **fields: Any) -> Search:
    entries, _ = make_candidates(space, candidates, images, 5)
    return Search(entries, {"flops": None}, ranking(entries)[0].architecture, **fields)


def read_data(text: str) -> dict[str, Any]:
    (script,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    content: dict[str, Any] = json.loads(script)
    return content
