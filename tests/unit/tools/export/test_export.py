"""A run's model as others load it: merged checkpoints and peft adapters, against our own logits."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from email.message import Message
from importlib.metadata import metadata
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import evertune
from evertune import service
from evertune.cli.main import main
from evertune.data.task import Sample
from evertune.models import load_lmm, model_folder
from evertune.runs.api import open_run
from evertune.runs.ledger import finished_cells
from evertune.tools.export import base, export
from evertune.tools.export.card import project_link
from evertune.tools.export.merged import _take_over
from evertune.utils.errors import RunFolderError, UserError


def probe(lmm):
    """Two questions on noise."""
    choose = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 256, (2, 40, 40, 3), generator=choose, dtype=torch.uint8).numpy()
    features = torch.stack(list(lmm.encode([Image.fromarray(image) for image in noise])))
    samples = [Sample(str(n), (Path("x"),), f"what is {n}?", ("red",)) for n in range(2)]
    return lmm.collate(samples, features)


@torch.no_grad()
def logits_of(lmm, batch):
    return lmm.module().eval()(batch).logits


def apart(one, other):
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("blip", "sequential"),
        ("t5", "sequential"),
        ("blip", "lora"),
        ("blip", "olora"),
        ("random", "sequential"),
        ("random", "lora"),
        ("llava", "sequential"),
        ("qwen2_5_vl", "sequential"),
        ("llava", "lora"),
    ],
)
def test_the_folder_has_the_logits_of_the_run(model, method, finished, tmp_path):
    folder = finished(model, method)
    learner = open_run(folder)
    batch = probe(learner.lmm)
    wanted = logits_of(learner.lmm, batch)
    learner.load(0)
    assert apart(logits_of(learner.lmm, batch), wanted) > 1e-2, "it has learned something"
    done = export(folder, tmp_path / "out")
    again = load_lmm(str(tmp_path / "out"), dtype="float32", device=torch.device("cpu"))
    assert apart(logits_of(again, batch), wanted) < 1e-4 and done.apart < 1e-4 * done.largest
    assert not list(tmp_path.rglob("*adapter*")) and again.fingerprint != learner.lmm.fingerprint


@pytest.mark.parametrize("model", ["blip", "llava", "qwen2_5_vl"])
def test_transformers_loads_it_without_us(model, finished, tmp_path):
    """The library's class has the very weights; of a merged layer those that do what two did."""
    folder = finished(model)
    export(folder, tmp_path / "out")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    learner = open_run(folder)
    library = learner.lmm.hf_prefix
    for name, parameter in learner.lmm.trainable().items():
        if ".lora_" not in name:
            assert torch.equal(theirs[name.removeprefix(library)], parameter.detach())
    for name, layer in learner.lmm.module().named_modules():
        if hasattr(layer, "lora_A"):
            whole = layer.base_layer.weight + layer.get_delta_weight("default")
            torch.testing.assert_close(theirs[f"{name.removeprefix(library)}.weight"], whole.detach())


@pytest.mark.slow
def test_an_earlier_stage_and_an_expert(finished, tmp_path):
    folder = finished("blip", "eproj")
    with pytest.raises(UserError, match="say --expert task-0 or task-1 or task-2"):
        export(folder, tmp_path / "out")
    with pytest.raises(UserError, match="unknown expert 'task-2'"):
        export(folder, tmp_path / "out", expert="task-2", stage=2)
    with pytest.raises(UserError, match="no stage 7"):
        export(folder, tmp_path / "out", stage=7)
    assert not (tmp_path / "out").exists()
    export(folder, tmp_path / "out", expert="task-0")
    learner = open_run(folder)
    learner.load(1)
    learner.methods[0].activate("task-0")
    batch = probe(learner.lmm)
    again = load_lmm(str(tmp_path / "out"), dtype="float32", device=torch.device("cpu"))
    assert apart(logits_of(again, batch), logits_of(learner.lmm, batch)) < 1e-4
    with pytest.raises(UserError, match="leave --expert a out"):
        export(finished("blip"), tmp_path / "other", expert="a")


def test_the_only_expert_needs_no_word(finished, tmp_path):
    """It said `say --expert july`, the only one that there was."""
    folder = finished("blip", "eproj")
    done = export(folder, tmp_path / "out", stage=1)
    assert done.expert == "task-0" and "task-0" in (tmp_path / "out" / "README.md").read_text()
    export(folder, tmp_path / "explicit", stage=1, expert="task-0")
    explicit, implicit = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("explicit", "out"))
    assert explicit == implicit


def test_the_card(finished, tmp_path):
    folder = finished("blip")
    export(folder, tmp_path / "out", stage=2)
    card = (tmp_path / "out" / "README.md").read_text()
    matrix = json.loads((folder / "matrix.json").read_text())
    assert card.startswith("---\nlibrary_name: transformers\n") and "after 2 of 3 tasks of toy" in card
    scores = " | ".join(f"{score:.1f}" for score in matrix["R"][2])
    assert f"| task-1 | {scores} |" in card and "\n| task-2 |" not in card and "learning rate 0.01" in card


@pytest.mark.slow
def test_a_model_that_was_taught_task_by_task_needs_no_matrix(toy_stream, tmp_path):
    folder, anyhow = tmp_path / "model", service.parsed("gain>=-100")
    service.new(folder, model="random", method="sequential", settings=["dtype=float32", "train.learning_rate=0.01"])
    for entry in yaml.safe_load(toy_stream.read_text())["tasks"]:
        path = toy_stream.parent / f"alone-{entry['name']}.yaml"
        path.write_text(yaml.safe_dump({"name": entry["name"], "tasks": [entry]}))
        condition = service.parsed("gain>1000") if entry["name"] == "task-2" else anyhow
        service.learn(folder, str(path), settings=["train.min_steps=3"], accept_if=condition)
    assert not (folder / "matrix.json").exists()
    export(folder, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    scores = {(c["stage"], c["task"]): f"{c['score']:.1f}" for c in finished_cells(folder).values()}
    assert "after 2 of 2 tasks of model" in card and "task-2" not in card, "that one was discarded"
    assert f"| base | {scores[0, 'task-0']} | - |" in card and "Cells without a score were not evaluated." in card
    assert f"| task-1 | {scores[2, 'task-0']} | {scores[2, 'task-1']} |" in card
    noted = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    trained = next(row["training"] for row in noted if row["event"] == "stage" and row["stage"] == 2)
    assert f"epochs {trained['epochs']:g}, batch size {trained['batch_size']}, gradient accumulation steps 1" in card
    export(folder, tmp_path / "first", stage=1)
    assert "\n| task-1 |" not in (tmp_path / "first" / "README.md").read_text()


def test_a_run_that_was_taught_further_by_hand_shows_that(finished, toy_stream, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished("random"), folder)
    entry = yaml.safe_load(toy_stream.read_text())["tasks"][0]
    path = toy_stream.parent / "further.yaml"
    path.write_text(yaml.safe_dump({"name": "further", "tasks": [{**entry, "name": "further"}]}))
    service.learn(folder, str(path), settings=["train.min_steps=3"], accept_if=service.parsed("gain>=-100"))
    export(folder, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "after 4 of 4 tasks of toy" in card and "\n| further |" in card
    assert "| after | task-0 | task-1 | task-2 | further |" in card


@pytest.mark.parametrize(
    ("headers", "link"),
    [
        ([], "evertune"),
        ([("Project-URL", "Documentation, https://a.example/docs")], "[evertune](https://a.example/docs)"),
        (
            [("Project-URL", "Changelog, https://a.example/c"), ("Project-URL", "Repository, https://a.example")],
            "[evertune](https://a.example)",
        ),
        ([("Home-page", "https://b.example")], "[evertune](https://b.example)"),
    ],
)
def test_a_card_links_what_the_metadata_say(monkeypatch, headers, link):
    made = Message()
    for key, value in headers:
        made[key] = value
    monkeypatch.setattr("evertune.tools.export.card.metadata", lambda _name: made)
    assert project_link() == link


def test_no_card_names_an_address_of_the_project_that_its_metadata_do_not():
    """Wherever text is written that leaves this house."""
    own = {entry.partition(",")[2].strip() for entry in metadata("evertune").get_all("Project-URL") or []}
    place = Path(evertune.__file__).parent
    files = [path for path in place.rglob("*") if path.suffix in (".py", ".md", ".j2", ".html", ".json")]
    for path in files:
        for address in re.findall(r"https?://[^\s)\"'<>]*evertune[^\s)\"'<>]*", path.read_text()):
            assert address in own, f"{path}: {address}"


@pytest.mark.slow
def test_what_can_not_be_merged_is_said(finished, tmp_path):
    with pytest.raises(UserError, match="moelora are mixtures"):
        export(finished("blip", "moelora"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


LICENCE, SECRET = "terms", "a key"


@pytest.fixture
def beside(finished, tmp_path):
    """A stranger's folder with more than a model in it, and a run of that model."""
    run_folder = finished("blip")
    source = shutil.copytree(yaml.safe_load((run_folder / "config.yaml").read_text())["model"], tmp_path / "model")
    (tmp_path / "key").write_text(SECRET)
    for name in ("handler.py", "pytorch_model.bin", "training_args.bin", "x.pkl", ".git/config", ".env", "notes.json",
                 "a/b/tokenizer.json", "run.sh", ".ssh/tokenizer.json"):  # fmt: skip
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(SECRET)
    (source / "LICENSE").write_text(LICENCE)
    (source / "notes.txt").symlink_to(tmp_path / "key")
    (source / "up").symlink_to(tmp_path)
    return run_folder, source


def test_only_listed_files_beside_the_weights_are_exported(beside, tmp_path, monkeypatch):
    run_folder, source = beside
    monkeypatch.setattr("evertune.tools.export.merged.model_folder", lambda name, progress=None: source)
    export(run_folder, tmp_path / "out")
    written = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    expected = {"README.md", "config.json", "generation_config.json", "model.safetensors", "LICENSE"}
    expected |= {"tokenizer.json", "tokenizer_config.json", "processor_config.json"}
    expected |= {f"qformer_tokenizer/{name}" for name in ("tokenizer.json", "tokenizer_config.json")}
    assert written == expected
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert (tmp_path / "out" / "LICENSE").read_text() == LICENCE


@pytest.mark.parametrize("kind", ["link", "folder of links", "pipe"])
def test_a_listed_file_that_is_no_regular_one_of_the_folder_is_refused(beside, tmp_path, monkeypatch, kind):
    run_folder, source = beside
    place = {"link": "LICENSE", "folder of links": "additional_chat_templates", "pipe": "NOTICE"}[kind]
    (source / place).unlink(missing_ok=True)
    if kind == "folder of links":
        (source / place).mkdir()
        (source / place / "x.jinja").symlink_to(tmp_path / "key")
    elif kind == "link":
        (source / place).symlink_to(tmp_path / "key")
    else:
        os.mkfifo(source / place)
    monkeypatch.setattr("evertune.tools.export.merged.model_folder", lambda name, progress=None: source)
    with pytest.raises(UserError, match=rf"{place}\S* is no regular file of the model's folder, so it is not copied"):
        export(run_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_of_the_hub_s_cache_are_followed_to_its_blobs(tmp_path):
    source = tmp_path / "hub" / "models--a--b" / "snapshots" / "0123"
    for folder in (source, source.parent.parent / "blobs", tmp_path / "out"):
        folder.mkdir(parents=True)
    (source.parent.parent / "blobs" / "abc").write_text("{}")
    (source / "tokenizer.json").symlink_to("../../blobs/abc")
    _take_over(source, tmp_path / "out")
    copied = tmp_path / "out" / "tokenizer.json"
    assert copied.read_text() == "{}" and not copied.is_symlink()


def test_a_broken_checkpoint_is_not_exported(finished, tmp_path, monkeypatch):
    """Written wrong, it would answer otherwise than the run: found before it gets its name."""
    from evertune.models import instructblip

    honest = instructblip.InstructBlip.save

    def broken(self, folder):
        self.blip.language_projection.weight.data *= 1.1
        honest(self, folder)

    monkeypatch.setattr(instructblip.InstructBlip, "save", broken)
    with pytest.raises(UserError, match="nothing was exported"):
        export(finished("blip"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method", "setting"),
    [
        ("llava", "sequential", "model_options.scope=projection+lora"),
        ("llava", "sequential", "model_options.scope=dora"),
        ("blip", "lora", ""),
        ("blip", "olora", ""),
        ("blip", "lora-router", ""),
    ],
)
def test_peft_loads_every_stage(model, method, setting, finished, tmp_path):
    folder = finished(model, method, *([setting] if setting else []))
    folders = export(folder, tmp_path / "out", adapters=True).adapters
    assert [path.name for path in folders] == ["01-task-0", "02-task-1", "03-task-2"]
    learner = open_run(folder)
    for number, path in enumerate(folders, start=1):
        learner.load(number)
        if (expert := learner.expert_of(f"task-{number - 1}")) is not None:
            learner.activate(expert)
        batch = probe(learner.lmm)
        wanted = logits_of(learner.lmm, batch)
        fresh = load_lmm(
            json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"],
            dtype="float32",
            device=torch.device("cpu"),
            options={"scope": "projection"} if model == "llava" else {},
        )
        attribute = learner.lmm.hf_prefix.rstrip(".")
        setattr(fresh, attribute, PeftModel.from_pretrained(getattr(fresh, attribute), path).base_model.model)
        assert apart(logits_of(fresh, batch), wanted) < 1e-4


def test_no_adapters_where_none_were_trained(finished, tmp_path):
    with pytest.raises(UserError, match="trains no low-rank matrices"):
        export(finished("blip"), tmp_path / "out", adapters=True)
    assert not list(tmp_path.iterdir())


SMOL = {
    "sequential": ("sequential",),
    "lora": ("lora",),
    "adapters on the projector": ("lora", "options.lora.modules_to_save=none"),
    "olora": ("olora",),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOL)
def test_the_projector_of_smol_stands_beside_its_adapter(name, finished, tmp_path):
    """The library's model with peft's adapter, behind the projector of the file, has the logits of each stage."""
    folder = finished("random", *SMOL[name])
    learner = open_run(folder)
    for number, path in enumerate(export(folder, tmp_path / "out", adapters=True).adapters, start=1):
        assert {p.name for p in path.iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
            "projector.safetensors",
            "README.md",
        }
        learner.load(number)
        batch = probe(learner.lmm)
        wanted = logits_of(learner.lmm, batch)
        fresh = load_lmm("random", dtype="float32", device=torch.device("cpu"))
        plain = AutoModelForCausalLM.from_pretrained(model_folder("random") / "lm", dtype=torch.float32)
        fresh.lm = PeftModel.from_pretrained(plain, path)
        tensors = load_file(path / "projector.safetensors")
        assert all(name.startswith("projector.") for name in tensors)
        fresh.load_state_dict(tensors, strict=False)
        assert apart(logits_of(fresh, batch), wanted) < 1e-4


@pytest.mark.slow
def test_a_layer_with_two_low_rank_matrices_is_no_adapter(finished, tmp_path):
    """Its own of the model, trained in full, and one beside it: a file of peft holds one of them."""
    folder = finished("random", "lora", "options.lora.modules_to_save=lora", "options.lora.target_modules=q_proj")
    with pytest.raises(UserError, match="q_proj has low-rank matrices twice"):
        export(folder, tmp_path / "out", adapters=True)
    assert not list(tmp_path.iterdir())


def test_stages_come_in_the_order_of_learning(finished, tmp_path, monkeypatch):
    """Also from the hundredth on."""
    learner = open_run(finished("random"))
    (first, *_) = learner.stages
    learner.stages = [replace(first, number=number) for number in range(98, 103)]
    monkeypatch.setattr(type(learner), "load", lambda self, number: None)
    monkeypatch.setattr(base, "open_run", lambda run, progress: learner)
    folders = export(finished("random"), tmp_path / "out", adapters=True).adapters
    assert [path.name for path in folders] == [f"{number}-task-0" for number in range(98, 103)]
    assert all((path / "adapter_model.safetensors").is_file() for path in folders)


def test_no_run_and_damaged_ones(finished, tmp_path):
    with pytest.raises(RunFolderError, match="is no run folder"):
        export(tmp_path, tmp_path / "out")
    run = shutil.copytree(finished("blip"), tmp_path / "run")
    provenance = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps({**provenance, "model_fingerprint": "other"}))
    with pytest.raises(RunFolderError, match="was made with another"):
        export(run, tmp_path / "out")
    (run / "config.yaml").write_text("- a list")
    with pytest.raises(RunFolderError, match="config.yaml is damaged"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(finished, tmp_path, monkeypatch, capsys):
    folder = finished("llava")
    for more in ([], ["--adapters"]):
        out = tmp_path / f"out{len(more)}"
        monkeypatch.setattr("sys.argv", ["evertune", "export", str(folder), "--to", str(out), *more])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code and out.is_dir()
    explicit = " ".join(capsys.readouterr().out.split())
    assert "its logits differ from the run's by at most" in explicit and "(the largest is" in explicit
