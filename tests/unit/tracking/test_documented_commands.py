"""The `mlflow` commands that the documentation shows."""

from __future__ import annotations

import re

import pytest

from bccp.core import paths

PAGES = sorted(str(page.relative_to(paths.ROOT)) for page in [paths.ROOT / "README.md", *(paths.ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES)
def test_every_mlflow_command_with_arguments_names_the_store(page: str) -> None:
    text = (paths.ROOT / page).read_text("utf-8")
    fenced = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    commands = [line for block in fenced for line in block.splitlines()]
    commands += re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    shown = [command for command in commands if re.search(r"\bmlflow (run|ui|models|server|gc|artifacts) [^\s-]\S* \S", command)]
    assert shown or page not in ("README.md", "docs/serving.md")
    for command in shown:
        assert command.startswith('MLFLOW_TRACKING_URI="$(python -m bccp.tracking.store)" mlflow '), command
