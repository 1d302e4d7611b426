"""Choose which trusted images are replayed.

Reads ``clean_data``, ``segregated_data``; of ``cleansed_labels``, which it follows, only that the classes are the same.
Writes ``replay_sample``: ``replay_sample.csv`` with the columns ``image, pair, distance``, empty where nothing is replayed.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, json.loads(os.environ.get("BCCP_CONTEXT", "{}")).get("package") or str(Path(__file__).resolve().parents[1] / "src"))

from bccp.core.errors import BCCPError
from bccp.core.step_context import Step
from bccp.data import label_files, replay_samplers, tables
from bccp.data.closest_pairs import n_pairs_for
from bccp.data.dataset import Days, open_days
from bccp.pipeline.step_runner import command_line


def run(step: Step) -> None:
    """Load, choose, save and report."""
    days = open_days(step.input("segregated_data"), step.input("clean_data"))
    n_classes = label_files.read_targets(step.input("cleansed_labels")).shape[1]
    if n_classes != len(days.classes):
        raise BCCPError(f"cleansed_labels has {n_classes} classes, but segregated_data {len(days.classes)}: give versions of one data set")
    sample, why = choose(step, days)
    with step.output("replay_sample") as folder:
        tables.write(sample, folder / "replay_sample.csv")
    distances = sample["distance"][sample["pair"] != ""].astype(float)
    mean = {"mean_distance": distances.mean()} if len(distances) else {}
    step.log_metrics({"images": len(sample), "pairs": len(distances) // 2} | mean)
    step.emit(f"{len(sample)} images are replayed ({why})" if len(sample) else f"nothing is replayed ({why})")


def choose(step: Step, days: Days) -> tuple[pd.DataFrame, str]:
    """The sample and what is to be said of it; ids are sorted, so the order of the data set does not matter."""
    config, ids = step.config, days.ids("monday", "train")
    n_chosen = 2 * n_pairs_for(config.ratio, len(ids))
    if config.type == "none" or config.target_day == "monday":
        return pd.DataFrame(columns=["image", "pair", "distance"]), f"type={config.type}, target_day={config.target_day}"
    share = "all" if config.type == "all" else f"ratio {config.ratio:g}"
    embeddings, why = None, f"{share} of Monday's {len(ids)} training images, {config.type}"
    sampler, entry = replay_samplers.find_sampler(config.type)
    if entry.needs_embeddings and n_chosen:
        from bccp.models.embeddings import shared_features  # torch, which takes a second to import, is needed here only

        embeddings = shared_features(step, days, ids, embedding=config.embedding, recipe=config.monday_model)
        why += f" on {config.embedding}"
    if not n_chosen and entry.uses_ratio:
        sampler, _ = replay_samplers.find_sampler("none")
    rng = np.random.default_rng([config.random_seed, *b"cp_sampling"])
    found = sampler(embeddings, days.labels(ids), n_chosen=n_chosen, rng=rng)
    pairs = ["" if number < 0 else str(number) for number in found.pair]
    return pd.DataFrame({"image": [ids[i] for i in found.image_idx], "pair": pairs, "distance": found.distance}), why


if __name__ == "__main__":
    command_line(run)
