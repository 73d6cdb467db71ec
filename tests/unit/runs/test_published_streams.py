"""The shipped streams of public data: order and scores as published, and every row of the fixtures through them.

`tests/snapshots/prompts` holds what is asked and taught, word for word, and (`FAMILY/STREAM.txt`, `chat/FAMILY.txt`)
how each family of models renders it, with the tokens that are trained on in brackets. After a change that is meant:

    EVERTUNE_RENEW=1 python -m pytest tests/unit/runs/test_published_streams.py
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch
from pretraining.parts import make_model, make_processor, save_checkpoint
from published import rows_of as published_rows

from evertune.cli.catalogue import details
from evertune.data import load_stream
from evertune.data.builders import builder
from evertune.data.builders.pocket import ALL
from evertune.data.formats import format_of
from evertune.data.pocket.world import draw_scene
from evertune.data.stream import stream_file, stream_names
from evertune.data.task import Sample
from evertune.models import FAMILIES, load_lmm
from evertune.models.random_smol import CONFIG as RANDOM
from evertune.models.smol_weights import CONFIG as SMOL
from evertune.runs.api import configure
from evertune.runs.plan.api import plan
from evertune.runs.run import run
from evertune.tools.data.preview import masked

SNAPSHOTS = Path(__file__).parents[2] / "snapshots" / "prompts"
STREAMS = {
    "b1": "okvqa aokvqa gqa textcaps vqav2 ocrvqa flickr30k vizwiz textvqa",
    "b1-reversed": "textvqa vizwiz flickr30k ocrvqa vqav2 textcaps gqa aokvqa okvqa",
    "b2": "flickr30k vizwiz textvqa gqa",
    "b2-reversed": "gqa textvqa vizwiz flickr30k",
    "coin": "ScienceQA TextVQA ImageNet GQA VizWiz Grounding VQAv2 OCRVQA",
    "ucit": "ImageNet-R ArxivQA VizWiz-caption IconQA CLEVR-Math Flickr30k",
    "mllm-dcl": "RS Med AD Sci Fin",
    "mllm-acl": "OCR Math VP APP",
    "cvit": "ScienceQA TextVQA Flickr30k ImageNet GQA VQAv2",
}
KNOWN = "okvqa aokvqa textcaps vqav2 ocrvqa".split()
FETCHED = ["parcel"]
DRAWN = ["pocket-b1", "pocket-b2", "pocket-s"]
STRAIGHT = [name for name in STREAMS if not name.endswith("-reversed")]


def columns_of(name):
    content, _ = stream_file(name)
    return content.known + content.tasks


def rows_of(entry, data, split):
    return published_rows(entry.format, data / entry.root, split=split, **entry.options)


def instruction_of(entry, row):
    return (entry.prompt or format_of(entry.format).PROMPT).format_map(row.fields)


@pytest.mark.parametrize("name", STREAMS)
def test_the_published_order(name):
    content, _ = stream_file(name)
    assert [task.name for task in content.tasks] == STREAMS[name].split()
    assert [task.name for task in content.known] == (KNOWN if name.startswith("b2") else [])


@pytest.mark.parametrize("name", STRAIGHT)
def test_every_row_of_the_fixtures_through_the_stream(name, published):
    for entry in columns_of(name):
        for split in ("train", "test"):
            rows = rows_of(entry, published, split)
            assert len({row.id for row in rows}) == len(rows) >= 1, f"{entry.name} {split}"
            for row in rows:
                assert instruction_of(entry, row).strip() and row.answers[0]
                for image in row.images:
                    assert (published / (entry.images or entry.root) / image).is_file(), row.origin


@pytest.mark.slow
@pytest.mark.parametrize("model", ["random", "tiny-aligned"])
@pytest.mark.parametrize("name", STREAMS)
def test_it_plans(name, model, published):
    """Also the tasks with samples of no image (ScienceQA) or of two."""
    (planned,) = plan(configure(name, model=model, data=str(published)))
    assert [stage.task for stage in planned.stages] == STREAMS[name].split()
    assert planned.train_seconds > 0 and planned.trained_parameters > 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "numbers"), [("coin", {0, 1}), ("mllm-acl", {1, 2})])
def test_it_runs(name, numbers, published, tmp_path):
    """Text, images and pairs of them, trained on and asked, by a method that routes by both."""
    tasks = load_stream(name, data=str(published)).tasks
    assert {len(sample.images) for task in tasks for sample in [*task.train, *task.test]} == numbers
    result = run(name, model="tiny-aligned", methods="eproj", data=str(published), out=tmp_path / "run")
    matrix = result.runs["eproj"].matrix
    assert matrix.finished and len(matrix.R) == len(tasks) + 1


@pytest.mark.parametrize("name", STRAIGHT)
def test_prompts_and_answers_are_those_of_the_snapshot(name, published):
    lines = [f"# What the stream {name} asks, and the answer that is taught (->), on the rows of tests/fixtures."]
    for entry in columns_of(name):
        for split in ("train", "test"):
            for row in rows_of(entry, published, split):
                images = "".join(f" {image}" for image in row.images)
                instruction = instruction_of(entry, row).replace("\n", "\n    ")
                lines.append(f"\n[{entry.name} {split} {row.id}]{images}\n    {instruction}\n -> {row.answers[0]}")
    compare_with_snapshot("\n".join(lines) + "\n", SNAPSHOTS / f"{name}.txt")


def compare_with_snapshot(text, path):
    if os.environ.get("EVERTUNE_RENEW"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), "renew the snapshots if this change is meant (first lines of this file)"


OWN_PROMPT = ("smol", "instructblip")
"""Families whose prompt is the same for all checkpoints. A chat LMM's is its checkpoint's: theirs are in `chat`."""
CHAT = sorted(name for name, family in FAMILIES.items() if family.options)


@pytest.fixture(scope="module", params=OWN_PROMPT)
def family(request, readable_blip):
    """A family's name and a small model of it: `random` has the chat template of `smol`."""
    checkpoint = {"smol": "random", "instructblip": str(readable_blip)}[request.param]
    return request.param, load_lmm(checkpoint, dtype="float32", device=torch.device("cpu"))


@pytest.fixture(scope="module")
def readable_blip(tmp_path_factory):
    """InstructBLIP in miniature with a tokenizer of letters, which can write whatever the fixtures say."""
    folder = tmp_path_factory.mktemp("readable-blip") / "mini"
    letters = load_lmm("random", dtype="float32", device=torch.device("cpu")).tokenizer
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    save_checkpoint(make_model(letters, **sizes), make_processor(letters), folder)
    return folder


def test_every_family_with_a_prompt_of_its_own_has_snapshots():
    assert {path.name for path in SNAPSHOTS.iterdir() if path.is_dir()} == {*OWN_PROMPT, "chat"}
    assert [path.stem for path in sorted((SNAPSHOTS / "chat").iterdir())] == CHAT
    straight = {name for name in stream_names() if not name.endswith(("-reversed", "-interleaved", "-mini"))}
    for family in OWN_PROMPT:
        assert {path.stem for path in (SNAPSHOTS / family).iterdir()} == straight == {*STRAIGHT, *DRAWN, *FETCHED}


def test_random_has_the_template_of_smol():
    assert {key: RANDOM[key] for key in ("prompt", "end_token")} == {key: SMOL[key] for key in ("prompt", "end_token")}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The first training row of a task that is built; each is built once for all families."""
    rows = {}

    def first(task):
        options = {**task.options, "train": 40, "test": 20}
        key = json.dumps([task.build, options], sort_keys=True)
        if key not in rows:
            folder = tmp_path_factory.mktemp("drawn")
            builder(task.build).build(folder, **options)
            rows[key] = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
        return rows[key]

    return first


@pytest.mark.parametrize("name", [*STRAIGHT, *DRAWN, *(pytest.param(name, marks=pytest.mark.smol) for name in FETCHED)])
def test_prompts_as_each_family_renders_them(name, family, published, drawn):
    """The first training row of each task, from the very batch that a training would make of it."""
    kind, lmm = family
    lines = [f"# What the family {kind} reads of the stream {name}; in brackets what it is trained on."]
    for task in columns_of(name):
        instruction, answer = first_of(task, published, drawn)
        sample = Sample("1", (), instruction, (answer,))
        tokens = masked(sample, lmm)
        read = "".join(f"[{t.text}]" if t.trained else t.text for t in tokens).replace("][", "")
        assert lmm.prompt(instruction).count("{image}") == 1
        assert "".join(t.text for t in tokens if not t.trained) == lmm.prompt(instruction).replace("{image}", "")
        rendered = lmm.prompt(instruction) + read.removeprefix(lmm.prompt(instruction).replace("{image}", ""))
        lines.append(f"\n[{task.name}]\n    " + rendered.replace("\n", "\n    "))
    compare_with_snapshot("\n".join(lines) + "\n", SNAPSHOTS / kind / f"{name}.txt")


@pytest.mark.parametrize("name", CHAT)
def test_prompts_as_chat_templates_render_them(name, tiny_chat, published):
    """The form of each family's published template, and the places that its own processor keeps for an image."""
    lmm = load_lmm(str(tiny_chat(name)), dtype="float32", device=torch.device("cpu"))
    lines = [f"# What a {name} reads of every public stream; in brackets what it is trained on."]
    for stream in STRAIGHT:
        lines.append(f"\n# {stream}")
        for task in columns_of(stream):
            row = next(row for row in rows_of(task, published, "train") if len(row.images) in lmm.images_per_sample)
            instruction = instruction_of(task, row)
            tokens = masked(Sample("1", tuple(map(Path, row.images)), instruction, row.answers), lmm)
            assert "".join(t.text for t in tokens if t.trained).strip().startswith(row.answers[0].strip())
            read = "".join(f"[{t.text}]" if t.trained else t.text for t in tokens).replace("][", "")
            lines.append(f"\n[{task.name}]\n    " + read.replace("\n", "\n    "))
    compare_with_snapshot("\n".join(lines) + "\n", SNAPSHOTS / "chat" / f"{name}.txt")


def first_of(task, published, drawn):
    """Instruction and taught answer of a task's first training row; of a drawn task, of a question made here."""
    if task.build is None:
        row = rows_of(task, published, "train")[0]
        return instruction_of(task, row), row.answers[0]
    if task.build != "pocket":
        row = drawn(task)
        return row["instruction"], row["answer"]
    role = ALL[task.options["role"]]
    choose = random.Random(task.name)
    item = role.ask(draw_scene(choose, layout=role.layouts[0], split="train", kinds=role.kinds), choose)
    return item.instruction, item.answers[0]


def test_scores_of_the_paper():
    scores = {task.name: task.score for task in columns_of("b1")}
    assert scores == {
        "okvqa": "vqa",
        "aokvqa": "option",
        "gqa": "normalised",
        "textcaps": "cider",
        "vqav2": "vqa",
        "ocrvqa": "normalised",
        "flickr30k": "cider",
        "vizwiz": "vqa",
        "textvqa": "vqa",
    }
    assert {task.name: task.score for task in columns_of("b2")} == scores


def test_scores_of_coin():
    assert [task.score for task in columns_of("coin")] == [
        "scienceqa",
        "textvqa",
        "exact",
        "gqa",
        "normalised",
        "box",
        "normalised",
        "ocrvqa",
    ]


@pytest.mark.parametrize("name", STREAMS)
def test_show_says_how_to_get_the_files(name):
    sections = [section for title, section in details(name).items() if not title.startswith(("format ", "options"))]
    shared = details(name).get("all tasks", {})
    for section in ({**shared, **own} for own in sections[2 if shared else 1 :]):
        assert "https://" in section["source"] and section["files"] and section["licence"] and section["citation"]
        assert section["folder"] and section["images"] and section["prompt"]


def test_a_format_in_a_stream_of_ones_own(published):
    path = published / "own.yaml"
    path.write_text(
        "name: own\ntasks:\n"
        "  - {name: cars, format: mllm-cl, root: MLLM-CL, options: {task: AD}}\n"
        "  - {name: kites, format: okvqa, root: OKVQA, images: COCO2014, prompt: '{question} One word.', score: vqa}\n"
    )
    stream = load_stream(str(path))
    assert stream.tasks[0].train[0].instruction == "What is the car in front doing?"
    assert stream.tasks[1].test[0].instruction == "Who invented this lamp? One word."
    assert stream.tasks[1].test[0].answers[0] == "edison" and stream.tasks[1].about["licence"].startswith("annotations")


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        ("{name: a, format: okvqa}", "needs one of: .* 'format' and 'root'"),
        ("{name: a, root: OKVQA}", "'root' needs the 'format'"),
        ("{name: a, format: okvqua, root: x}", "unknown format 'okvqua'; did you mean 'okvqa'"),
        ("{name: a, format: okvqa, root: x, data: y}", "needs one of"),
    ],
)
def test_mistakes_in_the_yaml(tmp_path, task, complaint):
    (tmp_path / "s.yaml").write_text(f"name: s\ntasks: [{task}]")
    with pytest.raises(ValueError, match=complaint):
        load_stream(str(tmp_path / "s.yaml"))
