"""Extension points: the names that a configuration may use, and where each of them is defined.

One table per extension point. To add a sampler, a loss, a data source, a scan filter, an architecture or a format of exports, write its
function or class and one line here: the schema's choices, the error messages, the modules in a step's key and the tests' parametrisation
derive from the tables. A dotted name (``my_module.hardest``) is that of a user's own code, found as :mod:`bccp.core.user_code` says.

The tables are read at every start, so nothing is imported before it is looked up. Modules that look entries up import the table by its name
(``from bccp.core.registries import LOSSES``), by which :mod:`bccp.pipeline.cache_keys` finds the modules that the work depends on.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from bccp.core import user_code
from bccp.core.errors import BCCPError, nearest


@dataclass(frozen=True)
class Entry:
    """What is known of an entry without importing it.

    Attributes
    ----------
    place : str
        ``module:name``.
    """

    place: str


@dataclass(frozen=True)
class SourceEntry(Entry):
    """A class as :class:`bccp.data.sources.Source`.

    Attributes
    ----------
    needs_path : bool
        ``data.path`` has to be given.
    """

    needs_path: bool = True


@dataclass(frozen=True)
class SamplerEntry(Entry):
    """A function as :class:`bccp.data.replay_samplers.Sampler`.

    Attributes
    ----------
    needs_embeddings : bool
        The others are given None.
    uses_ratio : bool
        The choice depends on how many are asked for, and on the seed.
    """

    needs_embeddings: bool = False
    uses_ratio: bool = True


@dataclass(frozen=True)
class FilterEntry(Entry):
    """A function as those of :mod:`bccp.data.scan_filters`.

    Attributes
    ----------
    parameters : mapping of str to (int, range)
        Its keyword arguments: their values where nothing is said, and what they may be.
    """

    parameters: Mapping[str, tuple[int, range]] = field(default_factory=dict)


@dataclass(frozen=True)
class BackboneEntry(Entry):
    """A function that takes the side of images in px and gives :class:`bccp.models.architectures.Parts`.

    Attributes
    ----------
    published : str or None
        ``module:name`` of a function that gives the file of its published weights.
    """

    published: str | None = None


E = TypeVar("E", bound=Entry)


def found_at(place: str) -> Any:
    """Import what ``module:name`` names."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry(Mapping[str, Any], Generic[E]):
    """The entries of one extension point by name; what a name stands for is imported when it is looked up.

    Parameters
    ----------
    key : str
        The key of the configuration that names them, for messages.
    entries : mapping of str to Entry
        In the order in which they are shown.
    """

    def __init__(self, key: str, entries: Mapping[str, E]) -> None:
        self.key, self.entries = key, dict(entries)

    def __getitem__(self, name: str) -> Any:
        return found_at(self.entries[name].place)

    def __contains__(self, name: object) -> bool:
        return name in self.entries  # a Mapping's own looks the name up, which imports its module

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def find(self, name: str) -> Any:
        """What an entry's name, or the dotted name of a user's own function or class, stands for.

        Raises
        ------
        BCCPError
            If there is no such thing.
        """
        if name in self.entries:
            return self[name]
        self.check(name)
        return user_code.import_object(name, self.key)

    def modules(self) -> list[str]:
        """The modules that hold the entries, each once, sorted."""
        return sorted({entry.place.partition(":")[0] for entry in self.entries.values()})

    def check(self, name: Any) -> None:
        """Refuse what is neither the name of an entry nor a dotted name in a module that can be found; nothing is imported.

        Raises
        ------
        BCCPError
        """
        if user_code.is_dotted_name(name):
            user_code.source_location(name, self.key)
        elif name not in self.entries:
            raise BCCPError(f"{self.key}={name} is unknown: use one of {', '.join(self)}" + nearest(str(name), self))


SOURCES = Registry(
    "data.source",
    {
        "digits": SourceEntry("bccp.data.sources:Digits", needs_path=False),
        "folder": SourceEntry("bccp.data.sources:Folder"),
        "archive": SourceEntry("bccp.data.sources:Archive"),
        "gdrive": SourceEntry("bccp.data.sources:Drive"),
        "kaggle": SourceEntry("bccp.data.sources:Kaggle"),
        "fsspec": SourceEntry("bccp.data.sources:Fsspec"),
        "artifact": SourceEntry("bccp.data.sources:Artifact"),
    },
)

FILTERS = Registry(
    "preprocessing.cleanup",
    {
        "erosion": FilterEntry("bccp.data.scan_filters:erosion", {"size": (3, range(3, 100, 2))}),
        "dilation": FilterEntry("bccp.data.scan_filters:dilation", {"size": (3, range(3, 100, 2))}),
        "adaptive_threshold": FilterEntry(
            "bccp.data.scan_filters:adaptive_threshold", {"block": (31, range(3, 1000, 2)), "offset": (10, range(-255, 256))}
        ),
        "median_filter": FilterEntry("bccp.data.scan_filters:median_filter", {"size": (3, range(3, 100, 2))}),
    },
)

SAMPLERS = Registry(
    "cp_sampling.type",
    {
        "none": SamplerEntry("bccp.data.replay_samplers:sample_none", uses_ratio=False),
        "all": SamplerEntry("bccp.data.replay_samplers:sample_all", uses_ratio=False),
        "random": SamplerEntry("bccp.data.replay_samplers:sample_randomly"),
        "class_balanced": SamplerEntry("bccp.data.replay_samplers:sample_classes_alike"),
        "l1_norm": SamplerEntry("bccp.data.replay_samplers:sample_l1_pairs", needs_embeddings=True),
        "l2_norm": SamplerEntry("bccp.data.replay_samplers:sample_l2_pairs", needs_embeddings=True),
        "cosine_similarity": SamplerEntry("bccp.data.replay_samplers:sample_cosine_pairs", needs_embeddings=True),
        "herding": SamplerEntry("bccp.data.replay_samplers:sample_by_herding", needs_embeddings=True),
        "diverse": SamplerEntry("bccp.data.replay_samplers:sample_diversely", needs_embeddings=True),
    },
)

BACKBONES = Registry(
    "train.model",
    {
        "small_cnn": BackboneEntry("bccp.models.architectures:small_cnn"),
        "resnet_small": BackboneEntry("bccp.models.architectures:resnet_small"),
        "efficientnet_lite0": BackboneEntry(
            "bccp.models.efficientnet_lite:efficientnet_lite0", published="bccp.models.efficientnet_lite:published_weights"
        ),
    },
)
"""The architectures that are defined here; all others are torchvision's."""

LOSSES = Registry(
    "train.loss",
    {
        "cross_entropy": Entry("bccp.models.fitting.losses.cross_entropy:cross_entropy"),
        "gce": Entry("bccp.models.fitting.losses.gce:gce"),
        "anl_ce": Entry("bccp.models.fitting.losses.anl_ce:anl_ce"),
        "anl_fl": Entry("bccp.models.fitting.losses.anl_fl:anl_fl"),
        "jal_ce": Entry("bccp.models.fitting.losses.jal_ce:jal_ce"),
    },
)

EXPORT_FORMATS = Registry(
    "--format",
    {
        "folder": Entry("bccp.pipeline.exports.formats:write_folder"),
        "jsonl": Entry("bccp.pipeline.exports.formats:write_jsonl"),
        "webdataset": Entry("bccp.pipeline.exports.formats:write_webdataset"),
    },
)
"""What ``bccp export-data`` writes."""
