"""The steps of the pipeline: their order, and the artifacts that each reads and writes."""

from __future__ import annotations

from dataclasses import dataclass

STEPS = (
    "fetch_data",
    "preprocessing",
    "segregation",
    "noisy_labels",
    "bayes_cutoff",
    "cp_sampling",
    "train",
    "test",
)
"""The steps, in run order."""


@dataclass(frozen=True)
class StepSpec:
    """What a step reads and writes.

    Attributes
    ----------
    inputs, optional_inputs, outputs : tuple of str
        Names of artifacts.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    optional_inputs: tuple[str, ...] = ()


SPECS: dict[str, StepSpec] = {
    "fetch_data": StepSpec((), ("raw_data",)),
    "preprocessing": StepSpec(("raw_data",), ("clean_data",)),
    "segregation": StepSpec(("clean_data",), ("segregated_data", "true_labels")),
    "noisy_labels": StepSpec(("segregated_data", "true_labels"), ("given_labels",)),
    "bayes_cutoff": StepSpec(("segregated_data", "given_labels"), ("cleansed_labels",), ("true_labels",)),
    "cp_sampling": StepSpec(("segregated_data", "cleansed_labels"), ("replay_sample",)),
    "train": StepSpec(("segregated_data", "cleansed_labels"), ("model",), ("replay_sample",)),
    "test": StepSpec(("model", "segregated_data", "true_labels"), ("evaluation",), ("given_labels", "cleansed_labels")),
}
MAKER = {output: step for step, spec in SPECS.items() for output in spec.outputs}
"""Which step makes an artifact."""


PIXEL_ARTIFACTS = frozenset({"raw_data", "clean_data", "segregated_data", "evaluation"})
"""Artifacts that hold pixels: with ``tracking.upload_images=false`` W&B gets their digests only."""
