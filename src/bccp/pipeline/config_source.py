"""Hydra's view of the checkout: ``config.yaml`` and the groups of :data:`bccp.core.config.ADDED`, and none of its other folders.

Hydra takes every folder below the primary configuration for a group of configurations, and walks through all of them, ``.venv`` and caches
included, wherever it lists groups (``--help``, ``--hydra-help``, shell completion).
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from bccp.core.config import ADDED
from bccp.core.paths import ROOT


class CheckoutSource(FileConfigSource):
    """The checkout as a source of configurations."""

    @staticmethod
    def scheme() -> str:
        """How its address begins."""
        return "bccp"

    def is_group(self, config_path: str) -> bool:
        """Whether a path below the checkout, empty for itself, is a group of configurations."""
        return PurePath(config_path).parts[:1] in {(), *((group,) for group in ADDED)} and super().is_group(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> Any:
        """List the names of groups and configurations in a group, sorted."""
        return super().list(config_path, results_filter) if self.is_group(config_path) else []


class CheckoutSearchPath(SearchPathPlugin):
    """Puts :class:`CheckoutSource` in the place of the whole folder, wherever the checkout is on Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Exchange the element."""
        for element in search_path.get_path():
            if element.path is not None and element.path.removeprefix("file://") == str(ROOT):
                element.path = f"{CheckoutSource.scheme()}://{ROOT}"


def register_source() -> None:
    """Let Hydra use it in this process."""
    Plugins.instance().register(CheckoutSource)
    Plugins.instance().register(CheckoutSearchPath)
