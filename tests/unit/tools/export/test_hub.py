"""`evertune export --push-to-hub`, against a stub of the hub's API."""

from __future__ import annotations

import json
import logging

import pytest
from huggingface_hub import ModelCard
from stub_hub import TOKEN, Hub, served

import evertune
from evertune.cli.main import main
from evertune.tools.export import export
from evertune.utils.errors import UserError


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stub, and a user who is logged in there."""
    hub = Hub()
    with served(hub) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def command(monkeypatch, *arguments):
    """Run `evertune export`; its exit code."""
    monkeypatch.setattr("sys.argv", ["evertune", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def holds(folder, text):
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_checkpoint_is_uploaded_whole_and_the_token_is_nowhere(hub, finished, tmp_path, monkeypatch, capfd, caplog):
    folder, out = finished("llava"), tmp_path / "out"
    caplog.set_level(logging.DEBUG)
    assert command(monkeypatch, folder, "--to", out, "--push-to-hub", "alice/mine", "--private") == 0
    files = dict(hub.repos["alice/mine"]["files"])
    assert hub.repos["alice/mine"]["private"] and files.pop(".gitattributes") == b""
    assert files == {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert hub.commits == ["evertune export: stage 3"]
    said = "".join(capfd.readouterr())
    assert "/alice/mine" in said and "It had" not in said
    assert TOKEN not in said and TOKEN not in caplog.text and not holds(tmp_path, TOKEN) and not holds(folder, TOKEN)
    assert not holds(out, str(tmp_path.parent)), "no path of this machine leaves it"


def test_files_of_an_earlier_upload_stay(hub, finished, tmp_path, monkeypatch, capsys):
    hub.repos["alice/mine"] = {"private": False, "files": {".gitattributes": b"", "notes.md": b"x", "README.md": b"x"}}
    assert command(monkeypatch, finished("random"), "--to", tmp_path / "out", "--push-to-hub", "alice/mine") == 0
    assert "It had 2 files: those of the same name are replaced, the others stay." in capsys.readouterr().out
    files = hub.repos["alice/mine"]["files"]
    assert files["notes.md"] == b"x" and files["README.md"] == (tmp_path / "out" / "README.md").read_bytes()


def test_an_adapter_names_its_base_by_an_id_or_is_not_uploaded(hub, finished, tmp_path):
    folder = finished("llava")
    with pytest.raises(UserError, match="which no other machine can load: give its id on the hub, base_model="):
        export(folder, tmp_path / "out", adapters=True, stage=2, push_to_hub="alice/mine")
    assert not hub.asked and not (tmp_path / "out").exists()
    done = evertune.export(
        folder, tmp_path / "out", adapters=True, stage=2, base_model="llava-hf/x", push_to_hub="alice/mine"
    )
    files = hub.repos["alice/mine"]["files"]
    assert done.url.endswith("/alice/mine") and not holds(tmp_path / "out", str(tmp_path.parent))
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == done.base == "llava-hf/x"
    data = ModelCard(files["README.md"].decode()).data
    assert (data.base_model, data.library_name) == ("llava-hf/x", "peft")


PUBLIC = {"private": False, "files": {}}


@pytest.mark.parametrize(
    ("name", "more", "state", "message"),
    [
        ("mine", {}, {}, "'mine' has no owner: give OWNER/NAME"),
        ("a/b/c", {}, {}, "'a/b/c' is no name of a repository: OWNER/NAME"),
        ("alice/mi--ne", {}, {}, "'alice/mi--ne' is no name of a repository"),
        ("alice/mine", {}, {"token": None}, "not logged in to the Hugging Face hub: run `hf auth login`"),
        ("alice/mine", {}, {"token": "hf_otherOtherOther"}, "does not accept the token"),
        ("alice/mine", {}, {"role": "read"}, "your token of the Hugging Face hub can only read"),
        ("alice/mine", {}, {"address": "http://127.0.0.1:9"}, "hub can't be reached"),
        ("alice/mine", {}, {"offline": True}, "HF_HUB_OFFLINE is set"),
        ("alice/mine", {}, {"refusals": {"whoami": 503}}, "refuses the upload to alice/mine .status 503."),
        ("alice/mine", {"private": True}, {"repos": {"alice/mine": PUBLIC}}, "alice/mine exists and is public"),
    ],
)
def test_what_is_known_before_is_said_before_anything_is_written(
    hub, finished, tmp_path, monkeypatch, caplog, capfd, name, more, state, message
):
    caplog.set_level(logging.DEBUG)
    if "token" in state:
        monkeypatch.setenv("HF_TOKEN", state["token"] or "")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", "offline" in state)
    if "address" in state:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", state["address"])
    for key in ("role", "repos", "refusals"):
        setattr(hub, key, state.get(key, getattr(hub, key)))
    with pytest.raises(UserError, match=message) as refused:
        export(finished("random"), tmp_path / "out", push_to_hub=name, **more)
    assert not (tmp_path / "out").exists() and ("POST", "/api/repos/create") not in hub.asked
    said = f"{refused.value}{caplog.text}{''.join(capfd.readouterr())}"
    assert TOKEN not in said and "hf_other" not in said


@pytest.mark.parametrize(("place", "status"), [("repos/create", 403), ("commit", 403), ("commit", 400)])
def test_a_refused_upload_leaves_the_folder_and_says_how_to_go_on(hub, finished, tmp_path, place, status):
    hub.refusals = {place: status}
    out = tmp_path / "out"
    with pytest.raises(UserError) as refused:
        export(finished("random"), out, push_to_hub="bob/mine")
    said = str(refused.value)
    assert ("you may not write to bob/mine" if status == 403 else "refuses the upload to bob/mine (status 400)") in said
    assert f"{out} was written; upload it with `hf upload bob/mine {out}`" in said and (out / "README.md").exists()
    assert TOKEN not in said


def test_private_needs_a_repository(finished, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, finished("random"), "--to", tmp_path / "out", "--private") != 0
    assert "give --push-to-hub OWNER/NAME too" in " ".join(capsys.readouterr().err.split())
