"""Keys, tokens and passwords of the environment are in no file that a run writes, and in nothing that it says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from evertune.cli import main as cli
from evertune.utils.errors import UserError
from evertune.utils.redaction import without_secrets

SECRETS = {
    "HF_TOKEN": "hf_Qw3rtzuiopasdfghjk",
    "WANDB_API_KEY": "5" * 20 + "deadbeefdeadbeef1234",
    "EVERTUNE_TOKEN": "open-sesame-4711",
    "OPENAI_API_KEY": "sk-verysecret-0815",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
    "HTTPS_PROXY": "http://me:hunter2proxy@127.0.0.1:9",
    "PIP_INDEX_URL": "http://me:hunter2index@127.0.0.1:9/simple",
    "MLFLOW_TRACKING_URI": "http://me:hunter2mlflow@127.0.0.1:9",
    "MLFLOW_TRACKING_PASSWORD": "hunter2again",
}
QUIET = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "WANDB_MODE": "offline"}
WORDS = [word for value in SECRETS.values() for word in (value, value.partition("//me:")[2].partition("@")[0]) if word]


def found_in(text):
    return [word for word in WORDS if word in text]


@pytest.fixture
def secrets(monkeypatch):
    for name, value in {**SECRETS, **QUIET}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.thorough
def test_no_file_of_a_run_and_no_line_holds_a_secret(secrets, toy_stream, tmp_path, monkeypatch):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    command = [
        sys.executable,
        "-m",
        "evertune",
        "run",
        str(toy_stream),
        "--model",
        "random",
        "--out",
        str(tmp_path / "run"),
    ]
    command += ["--track", "mlflow", "--method", "replay", "--limit", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mlflow takes no more metrics" in done.stdout + done.stderr and not found_in(done.stdout + done.stderr)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"config.yaml", "provenance.json", "ledger.jsonl", "metrics.jsonl", "index.html", "matrix.json"} <= names
    assert {path.name: words for path in files if (words := found_in(path.read_bytes().decode("latin-1")))} == {}


def test_what_others_say_is_cleaned_where_it_is_said(secrets, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["evertune", "fetch", "pictograms"])
    from evertune import assets

    refused = f"ERROR: can't reach {SECRETS['PIP_INDEX_URL']}".encode()
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, b"", refused))
    with pytest.raises(UserError, match="could not download") as raised:
        assets.unpacked("easy-vqa")
    assert not found_in(str(raised.value)), found_in(str(raised.value))
    assert "http://(left out)@" in str(raised.value)  # a password may hold @ and /, so all up to the last @ goes

    def fails(**_):
        raise UserError(f"somebody said: {SECRETS['MLFLOW_TRACKING_URI']} {SECRETS['HF_TOKEN']} ?api_key=abc123456")

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit):
        cli.main()
    errors = capsys.readouterr().err
    assert errors.startswith("evertune: somebody said") and not found_in(errors) and "abc123456" not in errors


def test_secrets_are_known_by_name_place_and_value(secrets):
    given = {
        "api_key": "x",
        "learning_rate": 0.1,
        "a": {"token": "y", "url": "https://u:p@h/?key=z"},
        "b": ["hf_Qw3rtzuiopasdfghjk"],
    }
    assert without_secrets(given) == {
        "api_key": "(left out)",
        "learning_rate": 0.1,
        "a": {"token": "(left out)", "url": "https://(left out)@h/?key=(left out)"},
        "b": ["(left out)"],
    }
