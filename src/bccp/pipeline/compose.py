"""Composition of the configuration: ``config.yaml`` with overrides."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from bccp.core import paths
from bccp.core.errors import BCCPError


def compose(overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
    """``config.yaml`` with overrides, which are checked; ``with_hydra``: and with Hydra's own section.

    Raises
    ------
    BCCPError
        For the first that cannot be used.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    from bccp.core.overrides import check_overrides, quote_step_list
    from bccp.pipeline import config_source

    config_source.register_source()
    overrides = check_overrides([quote_step_list(word) for word in overrides])
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(paths.ROOT)):
            return hydra.compose(config_name="config", overrides=overrides, return_hydra_config=with_hydra)
    except HydraException as error:
        raise BCCPError(f"the options cannot be used ({str(error).splitlines()[0]}): give each key one value") from error
