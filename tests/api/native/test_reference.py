"""The reference page is held to the routes and models."""

from __future__ import annotations

import re
from pathlib import Path

from api.native import metrics
from api.native.reference import write

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "api.md"


def test_the_page_of_the_api_is_what_routes_and_models_say() -> None:
    assert PAGE.read_text() == write(), "run `python -m api.native.reference > docs/reference/api.md`"


def test_every_metric_is_on_the_page() -> None:
    source = Path(metrics.__file__).read_text()
    names = set(re.findall(r'"(isthmus_\w+)"', source))
    assert len(names) == 8
    for name in names:
        assert f"`{name}" in PAGE.read_text(), name
