"""POPE, MME, MMBench and SEED-Bench: their layouts, and scores that were computed by hand."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image
from published import FIXTURES, rows_of

from evertune.data import load_stream
from evertune.data.embedded import folder
from evertune.data.formats import format_of
from evertune.metrics.rules import rule_of, score_cell
from evertune.tools.rescore import rescore
from evertune.utils.errors import DataError


def picture(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pope(tmp_path):
    (tmp_path / "output" / "coco").mkdir(parents=True)
    rows = [
        {"question_id": n, "image": f"COCO_val2014_{n}.jpg", "text": f"Is there a {what} in the image?", "label": label}
        for n, (what, label) in enumerate([("kite", "yes"), ("cow", "no"), ("car", "yes"), ("bus", "no")], start=1)
    ]
    (tmp_path / "output/coco/coco_pope_popular.json").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.fixture
def mme(tmp_path):
    for place, image in (("existence", "existence"), ("posters/questions_answers_YN", "posters/images")):
        for name in ("0001", "0002"):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            (tmp_path / image).mkdir(parents=True, exist_ok=True)
            (tmp_path / image / f"{name}.png").write_bytes(picture())
            text = f"Is {name} a dog? Please answer yes or no.\tYes\nIs {name} a cat? Please answer yes or no.\tNo\n"
            (tmp_path / place / f"{name}.txt").write_text(text)
    return tmp_path


def table(path, rows):
    lines = ["index\thint\tquestion\tA\tB\tC\tD\tanswer\tcategory\timage"]
    path.write_text("\n".join([*lines, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture
def mmbench(tmp_path):
    image = base64.b64encode(picture()).decode()
    rows = [
        (7, "Look closely.", "Which colour?", "red", "blue", "green", "nan", "B", "colour", image),
        (8, "", "Which shape?", "round", "square", "", "", "A", "shape", 7),
    ]
    return table(tmp_path / "MMBench_DEV_EN.tsv", rows)


def test_pope(pope):
    rows = rows_of("pope", pope, split="test", subset="popular")
    assert [(row.id, row.answers) for row in rows] == [("1", ("yes",)), ("2", ("no",)), ("3", ("yes",)), ("4", ("no",))]
    assert rows[0].images == ("COCO_val2014_1.jpg",) and rows[0].fields == {"question": "Is there a kite in the image?"}
    with pytest.raises(DataError, match=r"has no file coco_pope_random.json"):
        rows_of("pope", pope, split="test")
    with pytest.raises(DataError, match="POPE has no training data: list it under 'probes'"):
        rows_of("pope", pope, split="train")
    path = pope / "output/coco/coco_pope_popular.json"
    path.write_text(path.read_text().replace('"no"', '"maybe"', 1))
    with pytest.raises(DataError, match="json:2: 'label' must be yes or no"):
        rows_of("pope", path, split="test")


def test_scores_of_pope():
    """As the authors' script reads answers: the first sentence, and no, not or No as a word of it."""
    said = ["Yes, there is.", "There is not. Yes", "no", "yes", ""]
    golds = [["yes"], ["no"], ["yes"], ["no"], ["no"]]
    assert score_cell(rule_of("pope"), said, golds).each == [1, 1, 0, 0, 0]
    # one yes found, one missed (F1 of yes: precision 1/3 with the empty answer as a false yes, recall 1/2)
    assert score_cell(rule_of("pope-f1"), said, golds).strict == pytest.approx(100 * 2 * 1 / (2 * 1 + 2 + 1))
    assert score_cell(rule_of("pope-yes-ratio"), said, golds).strict == pytest.approx(40)
    assert score_cell(rule_of("pope-f1"), ["no", "no"], [["yes"], ["no"]]).strict == 0


def test_mme(mme):
    rows = rows_of("mme", mme, split="test")
    assert [row.id for row in rows][:3] == ["existence/0001/1", "existence/0001/2", "existence/0002/1"]
    assert [row.answers for row in rows][:2] == [("yes", "existence/0001"), ("no", "existence/0001")]
    assert rows[-1].images == ("posters/images/0002.png",) and len(rows) == 8
    assert len(rows_of("mme", mme, split="test", category="posters")) == 4
    (mme / "existence/0001.txt").write_text("Is it a dog?\tPerhaps\nIs it a cat?\tNo\n")
    found = list(format_of("mme").rows(mme, split="test", category="existence"))
    assert "0001.txt:1: expected a question, a tab, and Yes or No" in str(found[0]) and len(found) == 4
    with pytest.raises(DataError, match="has no questions; expected: a folder per ability"):
        rows_of("mme", mme, split="test", category="count")
    with pytest.raises(DataError, match="MME has no training data"):
        rows_of("mme", mme, split="train")


def test_scores_of_mme():
    """acc counts questions, acc+ pictures with both right; an answer is read in its first four characters."""
    golds = [["yes", "a"], ["no", "a"], ["yes", "b"], ["no", "b"]]
    said = ["Yes, it is", "No.", "Yes", "It is not"]
    assert score_cell(rule_of("mme"), said, golds).each == [1, 1, 1, 0]
    assert score_cell(rule_of("mme-plus"), said, golds).strict == 50
    assert score_cell(rule_of("mme-plus"), said, golds).standard_error is None


def test_mmbench_in_every_order(mmbench):
    rows = rows_of("mmbench", mmbench.parent, split="test")
    assert [row.id for row in rows] == ["7", "7-1", "7-2", "8", "8-1"]
    assert [row.answers for row in rows] == [("B", "7"), ("A", "7"), ("C", "7"), ("A", "8"), ("B", "8")]
    assert rows[0].fields == {"question": "Look closely.\nWhich colour?", "options": "A. red\nB. blue\nC. green"}
    assert rows[1].fields["options"] == "A. blue\nB. green\nC. red" and rows[3].fields["question"] == "Which shape?"
    assert rows[3].images == rows[0].images and (folder() / rows[0].images[0]).read_bytes() == picture()
    assert rows[0].extras == {"category": "colour"}
    once = rows_of("mmbench", mmbench, split="test", circular=False)
    assert [row.id for row in once] == ["7", "8"]


def test_a_table_of_mmbench_that_has_the_orders_is_asked_as_it_is(mmbench):
    image = base64.b64encode(picture()).decode()
    rows = [
        (7, "", "Which colour?", "red", "blue", "", "", "B", "colour", image),
        (1_000_007, "", "Which colour?", "blue", "red", "", "", "A", "colour", 7),
    ]
    found = rows_of("mmbench", table(mmbench, rows), split="test")
    assert [(row.id, row.answers) for row in found] == [("7", ("B", "7")), ("1000007", ("A", "7"))]
    broken = table(mmbench, [(7, "", "Which?", "red", "blue", "", "", "C", "colour", image)])
    (problem,) = format_of("mmbench").rows(broken, split="test")
    assert "the answer 'C' is none of the 2 options" in str(problem)
    with pytest.raises(DataError, match="MMBench has no training data"):
        rows_of("mmbench", mmbench, split="train")


def test_circular_evaluation():
    golds = [["B", "7"], ["A", "7"], ["C", "7"], ["A", "8"], ["B", "8"]]
    said = ["B", "A. blue", "(c)", "A", "A"]
    assert score_cell(rule_of("choice"), said, golds).strict == 80
    assert score_cell(rule_of("circular"), said, golds).strict == 50


def test_seed_bench_without_videos():
    rows = rows_of("seed-bench", FIXTURES / "data" / "SEED-Bench", split="test")
    assert [(row.id, row.images, row.answers) for row in rows] == [
        ("101", ("11_7",), ("A",)),
        ("102", ("12_8",), ("D",)),
        ("104", ("13_9",), ("C",)),
    ]
    assert rows[0].fields["options"] == "A. One\nB. Two\nC. Three\nD. Four" and rows[1].extras == {"type": "5"}
    with pytest.raises(DataError, match="SEED-Bench has no training data"):
        rows_of("seed-bench", FIXTURES / "data" / "SEED-Bench", split="train")


def test_a_stream_asks_them_as_probes(mme, mmbench, tmp_path):
    """Prompts are filled, and every image is found."""
    path = tmp_path / "s.yaml"
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"instruction": f"say {n}", "answer": str(n)}) for n in range(5))
    )
    path.write_text(
        "name: s\ntasks: [{name: t, data: rows.jsonl}]\nprobes:\n"
        "  - {name: mme, format: mme, root: ., score: mme-plus}\n"
        "  - {name: mmbench, format: mmbench, root: ., score: circular}\n"
    )
    first, second = load_stream(str(path), decode=True).probes
    assert len(first.test) == 8 and len(second.test) == 5
    assert second.test[1].instruction.endswith(
        "C. red\nAnswer with the option's letter from the given choices directly."
    )


@pytest.mark.parametrize(
    ("name", "said", "score"),
    [("mmbench", ["B", "A", "C", "A", "A"], 50), ("mme", ["yes", "no"] * 3 + ["no", "no"], 87.5)],
)
def test_predictions_are_rescored(mme, mmbench, tmp_path, name, said, score):
    gold = mmbench if name == "mmbench" else mme
    ids = [row.id for row in rows_of(name, gold, split="test")]
    file = tmp_path / "merge.jsonl"
    file.write_text("\n".join(json.dumps({"question_id": i, "text": t}) for i, t in zip(ids, said, strict=True)))
    found = rescore(file, format=name, gold=gold)
    assert found.ours[0].strict == score


def test_predictions_for_pope_are_rescored(pope, tmp_path):
    gold, file = pope / "output/coco/coco_pope_popular.json", tmp_path / "merge.jsonl"
    file.write_text(
        "\n".join(json.dumps({"question_id": n, "text": t}) for n, t in enumerate("yes no no no".split(), 1))
    )
    found = rescore(file, format="pope", gold=gold)
    assert [(one.rule, one.strict) for one in found.ours] == [
        ("pope", 75),
        ("pope-f1", pytest.approx(100 * 2 / 3)),
        ("pope-yes-ratio", 25),
    ]
