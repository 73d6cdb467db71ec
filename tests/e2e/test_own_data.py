"""Anybody's data through whole runs: a LLaVA-style folder of photographs, and the paper's architecture in miniature."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from matrices import matrices_of

from evertune import run
from evertune.cli.main import main
from evertune.training.answer_files import read_answers


@pytest.fixture(scope="module")
def llava_stream(stream, tmp_path_factory):
    """The photographs of the example as LLaVA's users have them: two lists, images in a folder."""
    folder = tmp_path_factory.mktemp("llava")
    source = stream.parent
    shutil.copytree(source, folder / "images", ignore=shutil.ignore_patterns("*.jsonl", "*.yaml"))
    rows = [json.loads(line) for line in (source / "what.jsonl").read_text().splitlines()]
    train, test = [row for row in rows if "-5" not in row["image"]], [row for row in rows if "-5" in row["image"]]
    conversations = [
        {
            "id": number,
            "image": f"images/{row['image']}",
            "conversations": [
                {"from": "human", "value": f"<image>\n{row['instruction']}"},
                {"from": "gpt", "value": row["answer"]},
                {"from": "human", "value": "Is it a photograph?"},
                {"from": "gpt", "value": "yes"},
            ],
        }
        for number, row in enumerate(train)
    ]
    questions = [
        {
            "question_id": f"q{n}",
            "image": f"images/{row['image']}",
            "text": row["instruction"],
            "answer": row["answer"],
        }
        for n, row in enumerate(test)
    ]
    (folder / "train.json").write_text(json.dumps(conversations))
    (folder / "test.json").write_text(json.dumps(questions))
    task = {"name": "what", "format": "llava", "train": "train.json", "test": "test.json"}
    (folder / "s.yaml").write_text(yaml.safe_dump({"name": "photographs", "tasks": [task]}))
    return folder / "s.yaml"


def test_a_llava_folder(llava_stream, tmp_path):
    settings = ["dtype=float32", "train.epochs=1"]
    result = run(str(llava_stream), model="tiny-aligned", out=tmp_path / "run", settings=settings)
    matrix = result.runs["sequential"].matrix
    assert matrix.finished and matrix.tasks == ["what"] and matrix.cost["samples_trained"] == 60
    rows = read_answers(tmp_path / "run" / "answers" / "01" / "what.jsonl")
    assert [row["id"] for row in rows] == [f"q{n}" for n in range(6)]
    assert all(row["gold"] and row["image"].endswith("-5.jpg") for row in rows)
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["prompts"]["what"] == "{image}What is this?"
    assert "data:image" in result.report.read_text(), "the report shows the photographs"
    again = run(str(llava_stream), model="tiny-aligned", out=tmp_path / "run", settings=settings)
    assert again == result


def test_a_jsonl_with_photographs_is_learned(stream, tmp_path):
    """Thirty photographs of six things, which `tiny` has never seen: as the docs' first example, with enough epochs."""
    settings = ["dtype=float32", "train.epochs=20"]
    what = str(stream.parent / "what.jsonl")
    (matrix,) = matrices_of(run(what, model="tiny-aligned", out=tmp_path / "run", settings=settings))
    (before,), (after,) = matrix.R
    assert before == 0 and after >= 40


def test_the_same_rows_are_the_same_run_in_any_format(llava_stream, mini_blip, tmp_path):
    """What is learned depends on images and texts, not on the file that they came in."""
    folder = llava_stream.parent
    lines = []
    for number, row in enumerate(json.loads((folder / "train.json").read_text())):
        texts = [turn["value"].replace("<image>\n", "") for turn in row["conversations"]]
        for question, answer in ((texts[0], texts[1]), ("\n".join(texts[:3]), texts[3])):
            lines.append(
                {"image": row["image"], "instruction": question, "answer": answer, "id": f"{number}-{len(lines)}"}
            )
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tests = json.loads((folder / "test.json").read_text())
    rows = [
        {"id": r["question_id"], "image": r["image"], "instruction": r["text"], "answer": r["answer"]} for r in tests
    ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {"name": "what", "train": "train.jsonl", "test": "test.jsonl"}
    (folder / "own.yaml").write_text(yaml.safe_dump({"name": "photographs", "tasks": [task]}))
    from evertune.data import load_stream

    assert load_stream(str(folder / "own.yaml")).fingerprint == load_stream(str(llava_stream)).fingerprint


def test_the_page_about_data_shows_what_check_says(stream, capsys, monkeypatch):
    """`docs/data.md`, "Check it first": the tables and the findings that it shows are those of the example."""
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    shown = page.split("## Check it first")[1].split("## LLaVA-style")[0]
    monkeypatch.chdir(stream.parent.parent)
    monkeypatch.setattr("sys.argv", ["evertune", "data", "check", str(stream.relative_to(stream.parent.parent))])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    texts = capsys.readouterr().out
    for line in ("training rows test rows images", "what 29 7 36"):
        assert all(line in " ".join(text.split()) for text in (shown, texts))
    lines = [line.replace(stream.parent.name, "my-photos") for line in texts.splitlines()]
    findings = [line for line in lines if "in training at" in line]
    assert len(findings) == 5 and all(line in shown for line in findings[:2])
    assert "0 errors, 0 warnings, 5 notes." in shown and "0 errors, 0 warnings, 5 notes." in texts
