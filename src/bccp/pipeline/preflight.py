"""What a late step would refuse, told before an earlier one has run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bccp.core import config_schema, registries, user_code
from bccp.data import segregation
from bccp.labels import expert_labels, feedback


def check(checked: config_schema.Config, steps: Sequence[str], *, isolated: bool) -> None:
    """Refuse files of labels and splits that cannot be read, and names of models, weights, embeddings and own code that nothing has.

    Parameters
    ----------
    checked : Config
    steps : sequence of str
        Those that are asked for; what the others would read is not looked at.
    isolated : bool
        Whether the steps run in environments of their own: which models there are is then for these to say.

    Raises
    ------
    BCCPError
        The one that the step would raise.
    """
    read = set()
    for step in steps:
        used = config_schema.relevant(checked.section(step))
        votes = used.get("feedback_file")
        if votes and votes not in read:  # two steps read the same one
            feedback.read_configured(checked.segregation)
            read.add(votes)
        if used.get("split_file"):
            segregation.read_split_file(Path(used["split_file"]))
        if used.get("audit_file"):
            expert_labels.read_file(Path(used["audit_file"]))
        if isolated:
            continue
        for key, name in config_schema.own_names(step, checked.section(step)):
            user_code.import_object(name, key)
        # torch takes seconds to import, what is our own need not be looked up, and what waits for the data is checked once it is there
        if "model" in used and used["model"] != config_schema.AUTO and (used["model"] not in registries.BACKBONES or used["weights"]):
            from bccp.models.classifier import check_names

            check_names(used["model"], used["weights"])
        if used.get("embedding", "monday_model") != "monday_model":
            from bccp.models.embeddings import check_embedding

            check_embedding(used["embedding"])
