"""The shipped streams of public data: order and scores as published, and every row of the fixtures through them.

`tests/snapshots/prompts` holds what is asked and taught, word for word. After a change that is meant:

    EVERTUNE_RENEW=1 python -m pytest tests/unit/test_published_streams.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from published import rows_of as published_rows

from evertune.catalogue import details
from evertune.tasks import load_stream
from evertune.tasks.formats import format_of
from evertune.tasks.stream import stream_file

SNAPSHOTS = Path(__file__).parent.parent / "snapshots" / "prompts"
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


@pytest.mark.parametrize("name", STRAIGHT)
def test_prompts_and_answers_are_those_of_the_snapshot(name, published):
    lines = [f"# What the stream {name} asks, and the answer that is taught (->), on the rows of tests/fixtures."]
    for entry in columns_of(name):
        for split in ("train", "test"):
            for row in rows_of(entry, published, split):
                pictures = "".join(f" {image}" for image in row.images)
                asked = instruction_of(entry, row).replace("\n", "\n    ")
                lines.append(f"\n[{entry.name} {split} {row.id}]{pictures}\n    {asked}\n -> {row.answers[0]}")
    text = "\n".join(lines) + "\n"
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("EVERTUNE_RENEW"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), "renew the snapshots if this change is meant (first lines of this file)"


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
    for section in sections[1:]:
        assert "https://" in section["source"] and section["files"] and section["licence"] and section["citation"]
        assert section["folder"] and section["pictures"] and section["prompt"]


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
