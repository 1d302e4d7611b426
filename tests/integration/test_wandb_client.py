"""Whether there is a login for W&B, as wandb itself sees it, and what of the environment it would refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bccp.core import config
from bccp.core.errors import BCCPError
from bccp.core.runtime.wandb_import import import_wandb
from bccp.pipeline.compose import compose
from bccp.pipeline.runner import run
from bccp.tracking.wandb_client import check_variables, resolve_mode, start_run

KEY = "k" * 40


@pytest.fixture
def user(bare_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's home folder, with no setting of W&B in the environment."""
    folder = bare_home / "user"
    folder.mkdir()
    for name in [*os.environ]:
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    import_wandb().teardown()  # it keeps settings
    yield folder
    import_wandb().teardown()


def entry(machine: str, key: str = KEY) -> str:
    return f"machine {machine}\n  login user\n  password {key}\n"


@pytest.mark.parametrize(
    ("files", "variables", "mode"),
    [
        ({}, {}, "offline"),
        ({".netrc": entry("api.wandb.ai")}, {}, "online"),
        ({".netrc": entry("api.forge.coreweave.com")}, {}, "online"),  # as `wandb login` of wandb 0.31 writes it
        ({".netrc": entry("git.example.org")}, {}, "offline"),
        ({"_netrc": entry("api.wandb.ai")}, {}, "online"),
        ({"mine": entry("api.wandb.ai")}, {"NETRC": "~/mine"}, "online"),
        ({".netrc": entry("wandb.example.org:8080")}, {"WANDB_BASE_URL": "http://wandb.example.org:8080"}, "online"),
        # as `wandb login --host` leaves it
        (
            {".netrc": entry("wandb.example.org"), ".config/wandb/settings": "[default]\nbase_url = http://wandb.example.org\n"},
            {},
            "online",
        ),
        ({".config/wandb/settings": "[default]\nbase_url = http://wandb.example.org\n"}, {}, "offline"),
        ({".config/wandb/settings": f"[default]\napi_key = {KEY}\n"}, {}, "online"),
        ({"w/settings": f"[default]\napi_key = {KEY}\n"}, {"WANDB_CONFIG_DIR": "{user}/w"}, "online"),
        ({".netrc": entry("api.wandb.ai"), ".config/wandb/settings": "[default]\nmode = offline\n"}, {}, "offline"),
        ({".netrc": entry("api.wandb.ai")}, {"WANDB_MODE": "dryrun"}, "offline"),
        ({".netrc": entry("api.wandb.ai")}, {"WANDB_MODE": ""}, "online"),
        ({".netrc": "machine [ no file of this kind"}, {}, "offline"),
        ({}, {"WANDB_API_KEY": KEY}, "online"),
        ({}, {"WANDB_API_KEY": " "}, "offline"),
        ({}, {"WANDB_MODE": "disabled", "WANDB_CONSOLE": "odd"}, "disabled"),
        ({}, {"WANDB_TAGS": "", "WANDB_QUIET": "", "WANDB_BASE_URL": "", "WANDB_INIT_TIMEOUT": "", "WANDB_PROJECT": ""}, "offline"),
    ],
)
def test_a_login_is_seen_as_wandb_sees_it(
    user: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], variables: Mapping[str, str], mode: str
) -> None:
    for name, text in files.items():
        (user / name).parent.mkdir(parents=True, exist_ok=True)
        (user / name).write_text(text, encoding="utf-8")
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(user=user))
    assert resolve_mode("auto") == mode
    assert resolve_mode("disabled") == "disabled"


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("WANDB_MODE", "onlin", "Input should be 'online', 'offline'"),
        ("WANDB_TAGS", "a,,b", "Tag at index 1 is empty"),
        ("WANDB_CONSOLE", "odd", "Input should be 'auto'"),
        ("WANDB_BASE_URL", "api.wandb.ai", "a valid URL"),
        ("WANDB_INIT_TIMEOUT", "10s", "a valid number"),
        ("WANDB_QUIET", "perhaps", "a valid boolean"),
        ("WANDB_PROJECT", "a/b", "Invalid project name"),
        ("WANDB__SERVICE_WAIT", "-1", "cannot be negative"),
    ],
)
def test_a_variable_that_wandb_refuses_is_named_before_anything_starts(
    user: Path, bare_home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(
        BCCPError, match=rf"^the environment variable {variable} is refused by wandb \(.*{reason}.*\): correct it, or unset it$"
    ):
        run(["main.execute_steps=[fetch_data]"])
    assert not (bare_home / "mlflow.db").exists()


def test_a_key_that_wandb_refuses_is_told_and_not_shown(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "tooshort")
    with pytest.raises(
        BCCPError, match=r"the key for W&B is refused by wandb .*: correct WANDB_API_KEY or run `wandb login` again"
    ) as told:
        resolve_mode("auto")
    assert "tooshort" not in str(told.value)


def test_wandb_is_not_imported_where_nothing_can_be_wrong(user: Path) -> None:
    code = "import sys; from bccp.tracking.wandb_client import resolve_mode; print(resolve_mode('auto'), 'wandb' in sys.modules)"
    harmless = {
        "WANDB_MODE": "online",
        "WANDB_ENTITY": "team",
        "WANDB_RUN_ID": "a/b",
        "WANDB_TAGS": "",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    said = subprocess.run([sys.executable, "-c", code], env=os.environ | harmless, capture_output=True, text=True, check=True)
    assert said.stdout == "offline False\n"


def test_what_wandb_refuses_as_a_run_begins_is_told_in_one_sentence(user: Path) -> None:
    check_variables()
    with pytest.raises(BCCPError, match=r"^wandb refuses to begin a run \(Invalid project name.*\): correct its environment variables"):
        start_run(mode="offline", settings={"project": "a/b"})


@pytest.mark.parametrize("name", ["a/b", "a#b", "", "x" * 129])
@pytest.mark.parametrize("key", ["wandb_project", "wandb_entity"])
def test_a_name_that_wandb_does_not_take_is_refused_with_the_configuration(bare_home: Path, name: str, key: str) -> None:
    with pytest.raises(BCCPError, match=f"^tracking.{key}='{name}' is not accepted: use a name of 1 to 128 characters"):
        config.load(compose([f"tracking.{key}='{name}'"]), base=Path.cwd())
    config.load(compose([f"tracking.{key}='{name}'", "tracking.wandb=disabled"]), base=Path.cwd())
