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
    """The artifacts that a step reads and writes.

    Attributes
    ----------
    inputs, optional_inputs : tuple of str
        Names of artifacts.
    outputs, optional_outputs : tuple of str
        Names of artifacts; the optional ones are written under some configurations only.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    optional_inputs: tuple[str, ...] = ()
    optional_outputs: tuple[str, ...] = ()

    @property
    def all_inputs(self) -> tuple[str, ...]:
        """Required inputs, then optional ones."""
        return self.inputs + self.optional_inputs

    @property
    def all_outputs(self) -> tuple[str, ...]:
        """Required outputs, then optional ones."""
        return self.outputs + self.optional_outputs


SPECS: dict[str, StepSpec] = {
    "fetch_data": StepSpec((), ("raw_data",)),
    "preprocessing": StepSpec(("raw_data",), ("clean_data",)),
    "segregation": StepSpec(("clean_data",), ("segregated_data", "true_labels"), optional_outputs=("feedback",)),
    "noisy_labels": StepSpec(("clean_data", "segregated_data", "true_labels"), ("given_labels",), ("feedback",)),
    "bayes_cutoff": StepSpec(("clean_data", "segregated_data", "given_labels"), ("cleansed_labels",), ("true_labels",)),
    "cp_sampling": StepSpec(("clean_data", "segregated_data", "cleansed_labels"), ("replay_sample",)),
    "train": StepSpec(("clean_data", "segregated_data", "cleansed_labels"), ("model",), ("replay_sample",)),
    "test": StepSpec(("model", "clean_data", "segregated_data", "true_labels"), ("evaluation",), ("given_labels", "cleansed_labels")),
}
MAKER = {output: step for step, spec in SPECS.items() for output in spec.all_outputs}
"""The step that makes each artifact."""

PIXEL_ARTIFACTS = frozenset({"raw_data", "clean_data", "segregated_data", "evaluation"})
"""Artifacts that hold pixels: with ``tracking.upload_images=false`` W&B gets their digests only."""
