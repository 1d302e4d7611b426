"""A home that commit 27da968, the last one before the package had sub-packages, has written: two pipelines and what came of them.

``data/home_before_packages.tar.xz`` holds the home, the images, and the weights that training started from. It was made like this, under a
host name of its own (``unshare --uts``, ``hostname bccp``) and in a checkout of that commit at ``/tmp/bccp-earlier/checkout`` with its
``.venv``; few digits of the weights and pictures of 20 dpi keep it small::

    export BCCP_HOME=/tmp/bccp-earlier/home LOGNAME=bccp PYTHONPATH=$PWD/src WANDB_MODE=offline
    export MATPLOTLIBRC=/tmp/bccp-earlier/matplotlibrc
    echo "savefig.dpi: 20" > $MATPLOTLIBRC
    .venv/bin/python - <<'P'
    from pathlib import Path
    import torch
    from PIL import Image
    from sklearn.datasets import load_digits
    from bccp import models
    digits = load_digits()
    for number in range(3):
        place = Path(f"/tmp/bccp-earlier/images/{number}")
        place.mkdir(parents=True)
        for index, pixels in enumerate(digits.images[digits.target == number][:16]):
            Image.fromarray((pixels * 15).astype("uint8")).save(place / f"{index:02d}.png")
    state = models.build("small_cnn", 3, image_size=8, dropout=0.2, seed=0).state_dict()
    backbone = {name: (value * 64).round() / 64 for name, value in state.items() if name.startswith("backbone.")}
    torch.save(backbone, "/tmp/bccp-earlier/weights.pt")
    P
    options="data.source=folder data.path=/tmp/bccp-earlier/images preprocessing.image_size=8
    train.weights=/tmp/bccp-earlier/weights.pt train.freeze_backbone=true
    train.epochs=10 train.learning_rate=0.05 train.batch_size=8
    bayes_cutoff.epochs=10 bayes_cutoff.learning_rate=0.05 bayes_cutoff.batch_size=8
    bayes_cutoff.passes=3 bayes_cutoff.refine_epochs=1 test.bootstrap=20
    test.registered_model_name=bccp test.promote=force main.threads=1 main.env_manager=local"
    .venv/bin/python main.py $options noisy_labels.user_accuracy=0.6
    .venv/bin/python main.py $options noisy_labels.user_accuracy=0.9
    cd ..
    sqlite3 home/mlflow.db "pragma wal_checkpoint(truncate); vacuum; pragma wal_checkpoint(truncate)"
    rm -rf home/{cache,data,locks,tmp} home/mlflow.db-* home/mlflow.db.lock home/wandb/{cache,data,tmp,latest-run,*.log} home/wandb/*/logs
    tar --sort=name --owner=0 --group=0 --numeric-owner -cf - home images weights.pt | xz -9e > home_before_packages.tar.xz

One archive by xz, not a zip: the same weights and code lie in it several times, and only the former finds that.
"""

from __future__ import annotations

import sqlite3
import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).parent / "data" / "home_before_packages.tar.xz"

PLACE = "/tmp/bccp-earlier"
"""Where all of it lay when it was made."""

FIRST, SECOND = "2026-12-01_00-46-03-754ab9", "2026-12-01_00-46-33-9e3f39"
"""The pipelines, by the names of their folders: ``noisy_labels.user_accuracy`` of 0.6 and of 0.9, and versions 1 and 2 of the model."""

MODEL = "bccp"
"""The registered model; version 2 is the champion, version 1 was it before."""


def unpack(folder: Path) -> list[str]:
    """Put the home, as ``home``, and what it was made of into a folder, with their places in it wherever the home names them.

    Returns
    -------
    list of str
        The options of both pipelines, but for ``noisy_labels.user_accuracy``.
    """
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    home = folder / "home"
    written = [*(home / "outputs").rglob("*"), *(home / "wandb").glob("*/bccp.json")]  # of artifacts none names a place
    for path in written:
        if path.is_file() and PLACE.encode() in (content := path.read_bytes()):
            path.write_bytes(content.replace(PLACE.encode(), str(folder).encode()))
    with sqlite3.connect(home / "mlflow.db") as database:
        for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            for _, column, *_ in database.execute(f"pragma table_info({table})").fetchall():
                change = f"update {table} set {column} = replace({column}, ?1, ?2) where instr({column}, ?1)"
                database.execute(change, (PLACE, str(folder)))
    database.close()
    overrides = (home / "outputs" / SECOND / ".hydra" / "overrides.yaml").read_text(encoding="utf-8").splitlines()
    options = [line.removeprefix("- ") for line in overrides]
    return [option for option in options if not option.startswith("noisy_labels.user_accuracy")]
