"""`evertune rescore`: files in each layout, what is said about broken ones, and the table of differences."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from evertune.cli.main import app
from evertune.cli.rescore_view import show_rescored
from evertune.metrics.rules import RULES
from evertune.tools.rescore import rescore
from evertune.tools.rescore.formats import FORMATS
from evertune.tools.rescore.predictions import read_predictions, read_totals
from evertune.utils.errors import DataError, UserError

TEN = ["net"] * 8 + ["tennis net"] * 2


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def merged(folder, answers, name="merge.jsonl"):
    """A file of answers as the LLaVA family writes it."""
    row = {"prompt": "q", "answer_id": "x", "model_id": "m", "metadata": {}}
    lines = [json.dumps({"question_id": i, "text": t, **row}, ensure_ascii=False) for i, t in answers]
    return write(folder / name, "\n".join(lines) + "\n")


def gold_of(folder, answers):
    """A gold file in the layout of CoIN and UCIT."""
    return write(
        folder / "test.json", [{"question_id": i, "image": "x.jpg", "text": "q", "answer": a} for i, a in answers]
    )


LAYOUTS = {
    "plain": ([("a", ["red", "rot"]), (2, "two")], [("a", "rot"), ("2", "two")], 100),
    "coin-vqav2": ([("1", "yes"), ("2", "two")], [("1", "Yes."), ("2", "3")], 50),
    "coin-vizwiz": ([("1.jpg", "yes")], [("1.jpg", "yes")], 100),
    "coin-ocrvqa": ([("1", "Dan Brown"), ("2", "no")], [("1", "dan brown"), ("2", "yes")], 50),
    "coin-imagenet": ([("1", "tree frog"), ("2", "cat")], [("1", "tree frog"), ("2", "frog")], 50),
    "coin-gqa": ([("201", "left"), ("202", "yes")], [("201", "Left."), ("202", "no")], 50),
    "ucit": ([("1", "B"), ("2", "4")], [("1", "b"), ("2", "four")], 100),
    "mllm-cl-ocr": ([("1", ["stop", "STOP"])], [("1", "stop")], 100),
    "cvit-classification": ([("1", ["cat", "tabby"])], [("1", "tabby")], 100),
}


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_lists_of_questions(tmp_path, name):
    golds, answers, wanted = LAYOUTS[name]
    result = rescore(merged(tmp_path, answers), format=name, gold=gold_of(tmp_path, golds))
    assert result.ours[0].strict == pytest.approx(wanted) and result.questions == len(golds)
    assert result.ours[0].rule == FORMATS[name].rules[0]


def test_textvqa(tmp_path):
    gold = write(tmp_path / "TextVQA_0.5.1_val.json", {"data": [{"question_id": 34602, "answers": TEN}]})
    result = rescore(merged(tmp_path, [("34602", "Net")]), format="coin-textvqa", gold=gold)
    assert [one.strict for one in result.ours] == [100, 100]
    assert result.theirs[0].points == 100 and result.theirs[0].differences == ()


def test_scienceqa(tmp_path):
    problems = {
        "1": {"choices": ["cat", "dog"], "answer": 1, "split": "test"},
        "2": {"choices": ["x", "y"], "answer": 0, "split": "train"},
        "3": {"choices": ["x", "y"], "answer": 0, "split": "test"},
    }
    gold = write(tmp_path / "problems.json", problems)
    file = merged(tmp_path, [("1", "I think it is B."), ("3", "A")])
    result = rescore(file, format="coin-scienceqa", gold=gold)
    assert (result.ours[0].strict, result.ours[0].relaxed, result.theirs[0].points) == (50, 100, 50)
    write(tmp_path / "pid_splits.json", {"val": ["3"], "test": ["1", "3"]})
    assert rescore(file, format="coin-scienceqa", gold=gold).questions == 2
    alone = merged(tmp_path, [("3", "A. x")], "val.jsonl")
    assert rescore(alone, format="coin-scienceqa", gold=gold, split="val").ours[0].strict == 100
    with pytest.raises(DataError, match="no 'dev'"):
        rescore(file, format="coin-scienceqa", gold=gold, split="dev")


def test_grounding(tmp_path):
    row = {"question_id": 7, "image": "x.jpg", "text": "q", "answer_bbox": "[0.1, 0.1, 0.5, 0.5]", "size": [640, 480]}
    result = rescore(
        merged(tmp_path, [(7, "[0.1, 0.1, 0.5, 0.5]")]), format="coin-grounding", gold=write(tmp_path / "t.json", [row])
    )
    assert result.ours[0].strict == 100 and result.theirs[0].points == 0
    assert "first and the last character" in result.theirs[0].differences[0].why


def test_official_annotations(tmp_path):
    answers = [{"answer": text, "answer_id": n, "answer_confidence": "yes"} for n, text in enumerate(["yes"] * 10)]
    vqa = write(tmp_path / "v2.json", {"annotations": [{"question_id": 1, "image_id": 9, "answers": answers}]})
    result = rescore(merged(tmp_path, [(1, "Yes.")]), format="vqav2", gold=vqa)
    assert result.ours[0].strict == 100 and result.theirs[0].points == 0
    vizwiz = write(tmp_path / "val.json", [{"image": "V_1.jpg", "question": "q", "answers": answers}])
    file = write(tmp_path / "answers.json", [{"question_id": "V_1.jpg", "answer": "yes"}])
    assert rescore(file, format="vizwiz", gold=vizwiz).ours[1].strict == 100
    gqa = write(tmp_path / "testdev_balanced_questions.json", {"201": {"answer": "left", "isBalanced": True}})
    file = write(tmp_path / "predictions.json", [{"questionId": "201", "prediction": "left"}])
    assert rescore(file, format="coin-gqa", gold=gqa).theirs[0].points == 100


CAPTIONS = {1: ["a dog runs on sand", "a brown dog"], 2: ["two cats sleep at home"], 3: ["an old bus drives"]}


def coco(folder):
    rows = [{"image_id": i, "caption": c, "id": 0} for i, texts in reversed(CAPTIONS.items()) for c in texts]
    return write(folder / "val_coco_type_3000.json", {"images": [{"id": i} for i in CAPTIONS], "annotations": rows})


def test_captions_by_line_or_by_id(tmp_path, monkeypatch):
    monkeypatch.setattr("evertune.tools.rescore.peers.SEVEN", ("bleu-1", "bleu-2"))
    texts = [answers[0] for answers in CAPTIONS.values()]
    by_line = merged(tmp_path, list(zip(["q7", "q8", "q9"], texts, strict=True)))
    result = rescore(by_line, format="ucit-caption", gold=coco(tmp_path))
    assert {one.rule: one.strict for one in result.ours}["bleu-4"] == pytest.approx(100, abs=1e-3)
    by_id = merged(tmp_path, [(i, CAPTIONS[i][0]) for i in (3, 1, 2)])
    found = rescore(by_id, format="ucit-caption", gold=coco(tmp_path))
    assert found.ours == result.ours
    assert found.theirs[0].points < 60, "theirs goes by line whatever the ids are"
    with pytest.raises(DataError, match="2 captions, .* 3 images: their ids do not match"):
        rescore(merged(tmp_path, [("q7", "a"), ("q8", "b")]), format="ucit-caption", gold=coco(tmp_path))


def test_images_are_in_the_order_of_their_numbers(tmp_path, monkeypatch):
    """Ten comes after two: captions are matched by line."""
    monkeypatch.setattr("evertune.tools.rescore.peers.SEVEN", ("bleu-1",))
    words = "red blue green black white grey pink brown gold orange violet".split()
    rows = [{"image_id": n, "caption": f"{word} {word}"} for n, word in enumerate(words, start=1)]
    gold = write(tmp_path / "gold.json", {"annotations": rows[::-1]})
    file = merged(tmp_path, [(f"q{n}", f"{word} {word}") for n, word in enumerate(words)])
    found = rescore(file, format="ucit-caption", gold=gold, scores=["bleu-1"])
    assert found.ours[0].strict == pytest.approx(100) and found.theirs[0].points == pytest.approx(100)


def test_what_needs_java_is_said_and_the_rest_is_scored(tmp_path, monkeypatch):
    monkeypatch.setattr("evertune.metrics.java_scorers.shutil.which", lambda _: None)
    file = merged(tmp_path, [(i, texts[0]) for i, texts in CAPTIONS.items()])
    result = rescore(file, format="ucit-caption", gold=coco(tmp_path))
    assert result.theirs[0].points is None and "install a Java runtime" in result.theirs[0].problem
    assert result.ours[0].strict > 0


def test_ans_gt_needs_no_gold(tmp_path):
    file = write(tmp_path / "ans_gt.json", [{"pred": "B", "ground_truth": "b"}, {"pred": "", "ground_truth": "dog"}])
    result = rescore(file, format="ucit")
    assert [one.points for one in result.theirs] == [50, 100] and result.ours[0].strict == 50 and result.empty == 1
    with pytest.raises(UserError, match="holds no gold answers: name the gold file with --gold"):
        rescore(merged(tmp_path, [("1", "x")]), format="ucit")


def test_the_reported_number_is_met(tmp_path):
    golds = [(str(i), "yes") for i in range(3)]
    file = merged(tmp_path, [("0", "yes"), ("1", "Yes"), ("2", "yes.")])
    write(tmp_path / "Result.text", "Samples: 3\nAccuracy: 66.67%\n")
    result = rescore(file, format="coin-vqav2", gold=gold_of(tmp_path, golds))
    assert result.reported == {"Samples": 3, "Accuracy": 66.67}
    assert [one.reported for one in result.theirs] == [True, False]
    for reported, met in {"66.66": False, "66.67": True, "66.68": False}.items():  # two decimals, rounded
        write(tmp_path / "Result.text", f"Samples: 3\nAccuracy: {reported}%\n")
        assert rescore(file, format="coin-vqav2", gold=gold_of(tmp_path, golds)).theirs[0].reported is met
    write(tmp_path / "Result.text", "Samples: 3\nBleu_1: 50.10\nAverage: 12.00\n[{'x': 1}]")
    assert read_totals(file) == {"Samples": 3, "Bleu_1": 50.1, "Average": 12}


def test_points_of_the_reasons_add_up_to_the_difference(tmp_path):
    golds = [(str(i), "frisbee") for i in range(8)]
    predicted = ["frisbee", "Frisbee.", "", "f", "the frisbee", "dog"]
    file = merged(tmp_path, [(str(i), text) for i, text in enumerate(predicted)])
    result = rescore(file, format="ucit", gold=gold_of(tmp_path, golds), missing="wrong")
    assert result.missing == 2 and result.empty == 1
    for theirs in result.theirs:
        assert sum(one.points for one in theirs.differences) == pytest.approx(theirs.points - result.ours[0].strict)
        assert theirs.differences[-1].answers or theirs.differences
        assert any("leave their average" in one.why for one in theirs.differences)


def test_a_score_of_ones_own_choice(tmp_path):
    file, gold = merged(tmp_path, [("1", "Frisbee")]), gold_of(tmp_path, [("1", "frisbee")])
    result = rescore(file, format="ucit", gold=gold, scores=["exact", "anls"])
    assert [(one.rule, one.strict) for one in result.ours] == [("exact", 0), ("anls", 100)]
    with pytest.raises(UserError, match="unknown score 'exakt'"):
        rescore(file, format="ucit", gold=gold, scores=["exakt"])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([("7", "x"), ("8", "y")], "0 of 3 question ids .* another split or data set"),
        ([("1", "x"), ("2", "y"), ("9", "z")], "2 of 3 .* and 1 answers belong to no question there, first '9'"),
        ([(n, "x") for n in "1239"], "3 of 3 .* and 1 answers belong to no question there, first '9'"),
        ([("1", "x"), ("2", "y")], "2 of 3 .* 1 are missing, first '3'.*--missing wrong"),
        ([("1", "x"), ("1", "x"), ("2", "y"), ("3", "y")], "1 question ids stand more than once, first '1'"),
    ],
)
def test_ids_that_do_not_match(tmp_path, answers, message):
    gold = gold_of(tmp_path, [("1", "x"), ("2", "y"), ("3", "z")])
    with pytest.raises(DataError, match=message):
        rescore(merged(tmp_path, answers), format="plain", gold=gold)


def test_a_gold_file_with_an_id_twice(tmp_path):
    with pytest.raises(DataError, match=r"first '1', in .*test.json: which of the answers"):
        rescore(merged(tmp_path, [("1", "x")]), format="plain", gold=gold_of(tmp_path, [("1", "x"), ("1", "y")]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ('{"question_id": 1, "text": "a"}\n{"question_id": 2, "text" "b"}\n', "line 2, column 27: broken JSON"),
        ('[{"question_id": 1,\n "text": }]', "line 2, column 10: broken JSON"),
        ("Samples: 3\nAccuracy: 1%", "holds totals only"),
        ("[]", "holds no answers"),
        ("[1]", "entry 1: expected an object .* found int"),
        ('{"text": "a"}', "line 1: no question id"),
        ('{"question_id": 1}', "line 1: no prediction; expected one of prediction, pred"),
        ('{"question_id": 1, "text": null}', "'text' is NoneType, expected a text"),
        ('{"question_id": true, "text": "a"}', "'question_id' is bool"),
        ('{"question_id": [1], "text": "a"}', "'question_id' is list"),
        ('{"pred": "a", "ground_truth": []}', "'ground_truth' must be a text"),
        ("[" * 100_000, "can't be read|broken JSON"),
        ('{"question_id": ' + "9" * 5000 + "}", "can't be read"),
    ],
)
def test_broken_answers(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_predictions(write(tmp_path / "merge.jsonl", text))


OWN_KEYS = ("prediction", "pred", "predict", "model_answer", "generated_text", "response", "output", "completion")


@pytest.mark.parametrize("key", OWN_KEYS)
def test_the_gold_beside_a_prediction_is_not_scored(tmp_path, key):
    rows = [{"question_id": i, "question": "q", "answer": a, key: "wrong"} for i, a in enumerate(["cat", "dog"])]
    gold = write(tmp_path / "gold.json", [{"question_id": row["question_id"], "answer": row["answer"]} for row in rows])
    assert rescore(write(tmp_path / "said.json", rows), format="plain", gold=gold).ours[0].strict == 0


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"answer": "a"}, "a"),
        ({"caption": "a"}, "a"),
        ({"question": "q", "answer": "a"}, "a"),
        ({"prompt": "q", "text": "a", "answer": "gold"}, "a"),
        ({"question": "q", "text": "a", "answer": "gold"}, "a"),
        ({"text": "question", "answer": "gold", "prediction": "a"}, "a"),
        ({"text": "question", "prediction": "a", "response": "raw"}, "a"),
        ({"text": "a", "answer": "a"}, "a"),
        ({"pred": "a", "prediction": "a"}, "a"),
    ],
)
def test_which_of_several_texts_is_the_prediction(tmp_path, row, text):
    assert read_predictions(write(tmp_path / "said.json", [{"question_id": 1, **row}]))[0].text == text


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"text": "question or prediction", "answer": "prediction or gold"}, "'text' and 'answer'"),
        ({"caption": "a", "answer": "b"}, "'caption' and 'answer'"),
        ({"text": "a", "response": "b"}, "'response' and 'text'"),
        ({"question": "q", "output": "a", "response": "b"}, "'response' and 'output'"),
        ({"pred": "a", "prediction": "b", "answer": "c"}, "'prediction' and 'pred'"),
    ],
)
def test_what_could_be_the_gold_is_refused(tmp_path, row, named):
    path = write(tmp_path / "said.json", [{"question_id": 1, **row}])
    with pytest.raises(DataError, match=f"entry 1: {named} .* --prediction"):
        read_predictions(path)
    for key in row:
        assert read_predictions(path, key=key)[0].text == row[key]
    with pytest.raises(DataError, match="entry 1: no 'words'"):
        read_predictions(path, key="words")


def test_two_keys_that_are_equal_by_chance_are_still_two(tmp_path):
    rows = [{"question_id": 1, "text": "cat", "answer": "cat"}, {"question_id": 2, "text": "cat", "answer": "dog"}]
    with pytest.raises(DataError, match="entry 2: 'text' and 'answer' differ"):
        read_predictions(write(tmp_path / "said.json", rows))


def test_a_row_without_the_prediction_does_not_fall_back_to_the_gold(tmp_path):
    rows = [{"question_id": 1, "answer": "cat", "response": "dog"}, {"question_id": 2, "answer": "cat"}]
    with pytest.raises(DataError, match="entry 2: no 'response'"):
        read_predictions(write(tmp_path / "said.json", rows))


def test_a_gold_file_given_as_predictions_is_refused(tmp_path):
    gold = gold_of(tmp_path, [("1", "cat"), ("2", "dog")])
    with pytest.raises(DataError, match="'text' and 'answer'"):
        rescore(gold, format="plain", gold=gold)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"question_id": 1, "text": "caf\xe9"}')
    with pytest.raises(DataError, match=r"byte 31: not UTF-8"):
        read_predictions(tmp_path / "latin.jsonl")
    with pytest.raises(DataError, match="can't be read: No such file"):
        read_predictions(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="can't be read: it is no regular file"):
        read_predictions(tmp_path)


def test_signs_that_break_lines_elsewhere(tmp_path):
    text = "one\u2028two\x85three"
    assert read_predictions(merged(tmp_path, [("1", text)]))[0].text == text
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"question_id": 1, "text": "a"}\r\n')
    assert read_predictions(tmp_path / "bom.jsonl")[0].text == "a"


@pytest.mark.parametrize(
    ("name", "gold", "message"),
    [
        ("plain", {"data": []}, "expected a list of objects.*is --format the right one"),
        ("plain", [], "expected a list"),
        ("plain", [{"question_id": 1}], "entry 1: no 'answer' or 'answers'"),
        ("plain", [{"answer": "x"}], "entry 1: no question id"),
        ("plain", [{"question_id": 1, "answer": None}], "the answer must be a text"),
        ("plain", [{"question_id": 1, "answer": []}], "with one at least"),
        ("plain", [3], "entry 1: no 'answer'"),
        ("coin-textvqa", [{"question_id": 1}], "no 'data' .it is list.; is --format the right one"),
        ("coin-textvqa", {"data": 3}, "expected 'data', a list"),
        ("coin-grounding", [{"question_id": 1, "answer": "x"}], "no 'answer_bbox'"),
        ("coin-grounding", [{"question_id": 1, "answer_bbox": "left"}], "is no box"),
        ("coin-scienceqa", [1], "expected an object"),
        ("coin-scienceqa", {"1": {"choices": ["a"], "answer": 3}}, "'answer' is 3, expected the place of one of 1"),
        ("coin-scienceqa", {"1": {"choices": ["a"], "answer": 0, "split": "val"}}, "no problems of the split 'test'"),
        ("ucit-caption", {"annotations": [{"image_id": 1}]}, "annotation 1: no 'caption'"),
        ("ucit-caption", {"annotations": [{"image_id": 1, "caption": 3}]}, "caption a text"),
        ("vqav2", {"annotations": [{"question_id": 1, "answers": "x", "y": 1}]}, None),
        ("vqav2", {"annotations": [{"question_id": 1, "answers": [{"text": 1}]}]}, "the answer must be"),
    ],
)
def test_gold_files_of_another_layout(tmp_path, name, gold, message):
    file, place = merged(tmp_path, [("1", "x")]), write(tmp_path / "gold.json", gold)
    if message is None:
        assert rescore(file, format=name, gold=place).questions == 1
        return
    with pytest.raises(DataError if "no box" not in message else UserError, match=message):
        rescore(file, format=name, gold=place)


@pytest.mark.slow
def test_the_command(tmp_path):
    file = merged(tmp_path, [("1", "Yes."), ("2", "")])
    gold = gold_of(tmp_path, [("1", "yes"), ("2", "[red]frisbee[/red]")])
    write(tmp_path / "Result.text", "Samples: 2\nAccuracy: 0.00%\n")
    arguments = ["rescore", str(file), "--format", "coin-vqav2", "--gold", str(gold)]
    printed = CliRunner().invoke(app, [*arguments, "--json"])
    content = json.loads(printed.stdout)
    assert content["ours"][0]["strict"] == 50 and content["theirs"][0]["reported"] is True
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0 and "why 'equal' is not 'vqa'" in shown.stdout and "met by 'equal'" in shown.stdout
    short = merged(tmp_path, [("1", "Yes.")])
    failed = CliRunner().invoke(app, arguments)
    assert isinstance(failed.exception, DataError) and str(short) in str(failed.exception)
    assert CliRunner().invoke(app, [*arguments, "--missing", "wrong"]).exit_code == 0


def test_without_a_format_the_command_names_them(tmp_path):
    failed = CliRunner().invoke(app, ["rescore", str(merged(tmp_path, [("1", "Yes.")]))])
    assert isinstance(failed.exception, UserError) and "--format" in str(failed.exception)
    assert all(name in str(failed.exception) for name in FORMATS)


def test_the_command_takes_the_key_of_the_prediction(tmp_path):
    gold = write(tmp_path / "gold.json", [{"question_id": 1, "answer": "cat"}])
    predicted = write(tmp_path / "said.json", [{"question_id": 1, "text": "which?", "answer": "cat"}])
    line = ["rescore", str(predicted), "--format", "plain", "--gold", str(gold), "--json"]
    assert isinstance(CliRunner().invoke(app, line).exception, DataError)
    assert json.loads(CliRunner().invoke(app, [*line, "--prediction", "answer"]).stdout)["ours"][0]["strict"] == 100


def test_examples_are_safe_to_print(tmp_path):
    """Escape sequences would reach the terminal, half a letter can't be printed at all."""
    row = '{"question_id": 1, "text": "\\u001b[2Jred\\ud800 ' + "x" * 99 + '"}'
    file, gold = write(tmp_path / "merge.jsonl", row), gold_of(tmp_path, [("1", "red")])
    example = rescore(file, format="mllm-cl-med", gold=gold).theirs[0].differences[0].example
    assert example.startswith("'�[2Jred� xxx") and example.endswith("x…' for 'red'")
    arguments = ["rescore", str(file), "--format", "mllm-cl-med", "--gold", str(gold), "--json"]
    assert "�[2J" in CliRunner().invoke(app, arguments).stdout


def test_answers_are_shown_as_they_stand(tmp_path):
    """Square brackets are no markup, and a total of another number of samples is said."""
    file = merged(tmp_path, [("1", "[bold]yes"), ("2", "yes")])
    write(tmp_path / "Result.text", "Samples: 0\nAccuracy: 50.00%\n")
    console = Console(record=True, width=160)
    gold = gold_of(tmp_path, [("1", "yes"), ("2", "[yes]")])
    show_rescored(console, rescore(file, format="coin-ocrvqa", gold=gold))
    text = console.export_text()
    assert "counts 0 samples, there are 2" in text and "our score" in text


ROOT = Path(__file__).parents[4]


def shown_on_the_page():
    """Commands and their output as docs/rescore.md shows them."""
    page = (ROOT / "docs" / "rescore.md").read_text(encoding="utf-8")
    return re.findall(r"```console\n\$ (evertune .*?)\n(.*?)\n```", page, re.DOTALL)


@pytest.mark.parametrize(("command", "output"), shown_on_the_page())
def test_the_page_shows_what_the_commands_print(monkeypatch, command, output):
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, command.split()[1:])
    printed = f"evertune: {result.exception}" if isinstance(result.exception, UserError) else result.stdout
    assert [line.rstrip() for line in printed.strip().split("\n")] == output.split("\n")


def test_the_page_knows_every_format():
    page = (ROOT / "docs" / "rescore.md").read_text(encoding="utf-8")
    assert len(shown_on_the_page()) == 2
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \| .*\| `", page, re.MULTILINE)) == set(FORMATS) - {"plain"}
    for one in FORMATS.values():
        assert all(peer.source in page for peer in one.peers)


def test_every_score_is_in_the_table():
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    table = page[page.index("| `score` | for") : page.index("Scores in the last two rows")]
    named = set(re.findall(r"`([a-z0-9-]+)`", table))
    missing = {name for name in RULES if not re.match(r"bleu-\d", name)} - named
    assert missing == set(), "docs/metrics.md"


PROMPTS = [
    "What brand is it?\nAnswer the question using a single word or phrase.",
    "What brand is it?\nReference OCR token: NOKIA, 3310\nAnswer the question using a single word or phrase.",
    "Reference OCR token: NOKIA\nWhat brand is it?\nAnswer the question using a single word or phrase.",
    "OCR tokens: NOKIA. Question: What brand is it? Short answer:",
    "<image>\nWhat BRAND is it?",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_answers_to_textvqa_that_go_by_image(tmp_path, prompt):
    """Case 16, textvqa-said.jsonl: ids of images, "chunks merged twice, or two runs in one file?"."""
    prompts = ["What brand is it?", "What colour is it?"]
    data = [
        {"question_id": n, "image_id": "aa11", "question": q, "answers": [f"x{n}"] * 10} for n, q in enumerate(prompts)
    ]
    gold = write(tmp_path / "TextVQA_0.5.1_val.json", {"data": data})
    rows = [{"question_id": "aa11", "prompt": "What colour is it?\nShort.", "text": "x1"}]
    rows.append({"question_id": "aa11", "prompt": prompt, "text": "x0"})
    predicted = write(tmp_path / "m.jsonl", "\n".join(map(json.dumps, rows)))
    result = rescore(predicted, format="coin-textvqa", gold=gold)
    assert (result.ours[0].strict, result.questions) == (100, 2)
    rows[1]["prompt"] = "What is this?"
    write(predicted, "\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="line 2: the question_id 'aa11' is an image of .*What is this"):
        rescore(predicted, format="coin-textvqa", gold=gold)


@pytest.mark.parametrize("name", ["gold.jsonl", "gold.JSONL", "gold.json"])
@pytest.mark.parametrize("count", [1, 3])
def test_gold_as_json_lines(tmp_path, name, count):
    """Case 16, gold.jsonl: "broken JSON (Extra data)"."""
    if count == 1 and name == "gold.json":
        pytest.skip("one object is no list")
    golds = [{"question_id": n, "answer": "ab"[n % 2]} for n in range(count)]
    gold = write(tmp_path / name, "\n".join(map(json.dumps, golds)))
    result = rescore(merged(tmp_path, [(n, "a") for n in range(count)]), format="plain", gold=gold)
    assert result.questions == count and result.ours[0].strict == pytest.approx(100 * ((count + 1) // 2) / count)
    write(gold, '{"question_id": 0, "answer": "a"}\n{"question_id": 1, oops}')
    with pytest.raises(DataError, match="line 2, column 20: broken JSON"):
        rescore(merged(tmp_path, [(0, "a")]), format="plain", gold=gold)
