"""Training history: loss and validation figures of each epoch, or of each penalty that a convex head was tried with."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from bccp.models.weights import State


@dataclass
class History:
    """What happened, one item an epoch; where a head was fitted at once, one item a strength of the penalty that was tried.

    Attributes
    ----------
    train_loss : list of float
        Weighted, of the augmented images while they were trained on; without the L1 norm that some losses add.
    val_loss, val_accuracy : list of float
        Cross-entropy and share of right answers; empty without a validation set. Of the averaged weights, where they are averaged.
    learning_rate : list of float
        At the epoch's end; empty where there are no epochs.
    strength : list of float
        Of the penalty; empty where there are epochs.
    seconds : list of float
        Not in :meth:`table`, as it differs between equal runs.
    best_epoch : int
        From 1 up: the one with the lowest validation loss, else the last. The model has its weights, or was fitted with its penalty.
    last_state : dict of str to Tensor
        The model's (averaged) weights after the last epoch; empty where there are no epochs.
    found_rate : float or None
        The learning rate that a range test has chosen.
    """

    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    strength: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int = 0
    last_state: State = field(default_factory=dict)
    found_rate: float | None = None

    def table(self) -> pd.DataFrame:
        """One row an epoch: ``epoch``, from 1 up, and the figures that there are; in the order of trial also where they are none."""
        figures = {name: getattr(self, name) for name in ("strength", "train_loss", "val_loss", "val_accuracy", "learning_rate")}
        return pd.DataFrame({"epoch": range(1, len(self.train_loss) + 1)} | {k: v for k, v in figures.items() if v})

    def rows(self) -> list[dict[str, float]]:
        """The figures of each epoch."""
        table = self.table().drop(columns="epoch")
        return [{name: float(value) for name, value in zip(table.columns, row, strict=True)} for row in table.to_numpy()]

    def figures(self) -> dict[str, float]:
        """What is reported: how many epochs there were, the best one, its figures, and as ``last_…`` those of the last.

        Without epochs it is the strength of the penalty and its figures.
        """
        rows = self.rows()
        best, last = ({k: v for k, v in row.items() if k.startswith("val_")} for row in (rows[self.best_epoch - 1], rows[-1]))
        if self.strength:
            return {"loss": rows[self.best_epoch - 1]["train_loss"], "strength": self.strength[self.best_epoch - 1]} | best
        figures = {"loss": rows[self.best_epoch - 1]["train_loss"], "epochs": len(rows), "best_epoch": self.best_epoch}
        figures |= {} if self.found_rate is None else {"learning_rate": self.found_rate}
        return figures | best | {f"last_{name}": value for name, value in last.items()}

    def sentence(self) -> str:
        """The choice that was made, in words."""
        if self.strength:
            return f"logistic regression, of {len(self.strength)} penalties tried {self.strength[self.best_epoch - 1]:g} was best"
        return f"epoch {self.best_epoch} of {len(self.train_loss)} was best"
