"""The dashboard in W&B: what it shows is what runs log, and saving it twice makes one."""

from __future__ import annotations

import json
import sys

import pytest

from bccp.cli.app import call
from bccp.tracking import wandb_client, wandb_dashboard
from support.dashboard import dashboard_names
from support.wandb_stand_in import ENTITY, Run, WandbStandIn


def test_each_panel_names_what_it_shows_as_wandb_writes_it() -> None:
    spec = wandb_dashboard.workspace("me", "bccp")._to_model().spec.model_dump(by_alias=True, exclude_none=True)
    sections = spec["section"]["panelBankConfig"]["sections"]
    panels = {section["name"]: [(panel["viewType"], panel["config"]) for panel in section["panels"]] for section in sections}
    assert {name: len(of_it) for name, of_it in panels.items()} == {
        "Accuracy over user_accuracy, by method": 3,
        "Accuracy over ratio, by sampler": 3,
        "Noise found": 3,
        "Training": 3,
        "Labels": 2,
    }
    (_, scatter), (_, parallel), (_, bars) = panels["Accuracy over user_accuracy, by method"]
    assert (scatter["xAxis"], scatter["yAxis"]) == ("config:pipeline.value.noisy_labels.user_accuracy", "summary:test/accuracy")
    assert [column["accessor"] for column in parallel["columns"]] == [
        "config:pipeline.value.bayes_cutoff.method",
        "config:pipeline.value.noisy_labels.user_accuracy",
        "summary:test/accuracy",
    ]
    assert (bars["metrics"][0], bars["groupBy"], bars["aggregate"]) == ("test/accuracy", "pipeline.value.bayes_cutoff.method", True)
    assert panels["Accuracy over ratio, by sampler"][0][1]["xAxis"] == "config:pipeline.value.cp_sampling.ratio"
    (kind, curves), *_ = panels["Training"]
    assert (kind, curves["xAxis"], curves["metrics"]) == (
        "Run History Line Plot",
        "train/epoch",
        ["train/epoch_train_loss", "train/epoch_val_loss"],
    )
    tables = {panel["viewType"]: json.dumps(panel["config"]) for panel in sections[-1]["panels"]}
    assert list(tables) == ["Weave"]
    assert "test/errors" in tables["Weave"]
    assert len(dashboard_names("config")) == 4
    assert len(dashboard_names("summary") | dashboard_names("logged")) == 15


def test_saving_it_again_replaces_it(server: WandbStandIn, capsys: pytest.CaptureFixture[str]) -> None:
    server.runs["r"] = Run(ENTITY, "bccp", "r")
    for _ in range(2):
        assert call(["wandb", "dashboard", f"{ENTITY}/bccp"]) == 0
        assert capsys.readouterr().out == f"W&B: the dashboard is {server.url}/{ENTITY}/bccp?nw=bccpoverview\n"
    ((place, view),) = server.views.items()
    assert place == (ENTITY, "bccp", "nw-bccpoverview-v")
    assert view["displayName"] == "BCCP"
    assert all(name in view["spec"] for kind in ("summary", "logged") for name in dashboard_names(kind))


@pytest.mark.parametrize(
    ("arguments", "fault", "sentence"),
    [
        ([""], "", "which project? give the W&B entity and project: bccp wandb dashboard entity/project"),
        (["me/nowhere"], "", "the dashboard cannot be saved in me/nowhere (Project `me/nowhere` not found.  Do you have access"),
        (["me/bccp"], "no package", "the dashboard needs the package wandb-workspaces: pip install 'bccp[dashboard]'"),
        (["me/bccp"], "no key", "a dashboard in W&B needs an account: set WANDB_API_KEY or run `wandb login`"),
        (["me/bccp"], "dead", "W&B does not answer ("),
    ],
)
def test_what_is_missing_is_told_in_one_sentence(
    server: WandbStandIn,
    arguments: list[str],
    fault: str,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.dead = fault == "dead"
    monkeypatch.setattr(wandb_client, "ANSWER_SECONDS", 1)
    if fault == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    if fault == "no package":
        monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert call(["wandb", "dashboard", *arguments]) == (2 if arguments == [""] or fault == "no package" else 1)
    told = capsys.readouterr().err
    assert told.startswith(f"error: {sentence}")
    assert told.count("\n") == 1
