"""Published layouts with mistakes in them: each is told with file and row, and nothing but a DataError comes out."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import CASES, FIXTURES, rows_of

from evertune.data.formats import format_names, format_of
from evertune.utils.errors import DataError, UserError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800")
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture
def data(tmp_path):
    """The fixtures without images, to be changed."""
    return shutil.copytree(FIXTURES / "data", tmp_path / "data")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The same for many changes, each of them undone."""
    return shutil.copytree(FIXTURES / "data", tmp_path_factory.mktemp("broken") / "data")


def loaded(path):
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def written(path, content):
    text = "\n".join(map(json.dumps, content)) if path.suffix == ".jsonl" and isinstance(content, list) else None
    path.write_text(json.dumps(content) if text is None else text)


def changed(draw, value):
    """The value with one change somewhere: something is missing, twice, renamed or of another type."""
    here = not isinstance(value, (list, dict)) or not value or draw(st.integers(0, 5)) == 0
    if here:
        return draw(VALUES)
    key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    kind = draw(st.sampled_from(["inside", "inside", "inside", "missing", "twice"]))
    if kind == "inside":
        value[key] = changed(draw, value[key])
    elif isinstance(value, dict):
        inner = value.pop(key)
        if kind == "twice":
            value[draw(st.text(max_size=3))] = inner
    elif kind == "missing":
        value.pop(key)
    else:
        value.insert(draw(st.integers(0, len(value))), value[key])
    return value


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
@settings(max_examples=20, deadline=None)  # by 42 formats
@given(chooses=st.data())
def test_whatever_is_changed_in_a_file_only_a_data_error_comes_out(place, case, chooses):
    path = place / case.root / chooses.draw(st.sampled_from(case.files))
    whole = path.read_text()
    try:
        written(path, changed(chooses.draw, loaded(path)))
        try:
            rows = case.rows(place)
        except DataError as problem:
            assert ".json" in str(problem)
        else:
            assert all(row.answers[0].strip() and row.fields is not None and row.id for row in rows)
            assert all(isinstance(answer, str) for row in rows for answer in row.answers)
            assert all(isinstance(value, str) for row in rows for value in [*row.fields.values(), *row.extras.values()])
    finally:
        path.write_text(whole)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
@settings(max_examples=8, deadline=None)
@given(chooses=st.data())
def test_a_file_that_is_cut_off_is_not_read_as_a_shorter_one(place, case, chooses):
    path = place / case.root / chooses.draw(st.sampled_from(case.files))
    whole = path.read_text()
    end = chooses.draw(st.integers(0, len(whole.rstrip()) - 2))
    try:
        path.write_text(whole[:end])
        if path.suffix == ".jsonl":  # a file that ends with a whole line is shorter, not broken
            return
        with pytest.raises(DataError, match=r"not valid JSON \(column \d+: "):
            case.rows(place)
    finally:
        path.write_text(whole)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_missing_file_is_named(data, case):
    for name in case.files:
        path = data / case.root / name
        kept = path.read_text()
        path.unlink()
        with pytest.raises(DataError, match=f"has no file .*{path.name}.*docs/datasets.md"):
            case.rows(data)
        path.write_text(kept)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_format_says_which_files_it_reads(data, case):
    found = format_of(case.format).files(data / case.root, split=case.split, **case.options)
    assert [path.resolve() for path in found] == [(data / case.root / name).resolve() for name in case.files]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_other_rows_are_read_beside_one_that_can_not_be_used(data, case):
    """The first object of the first file is a text: an error stands in its place."""
    path = data / case.root / case.files[0]
    content = loaded(path)
    listed = content
    if isinstance(content, dict):
        listed = next((inner for inner in content.values() if isinstance(inner, list)), content)
    whole = case.rows(data)
    listed[next(iter(listed)) if isinstance(listed, dict) else 0] = "broken"
    written(path, content)
    found = list(format_of(case.format).rows(data / case.root, split=case.split, **case.options))
    problems = [row for row in found if isinstance(row, DataError)]
    good = [row.answers for row in found if not isinstance(row, DataError)]
    assert any("must be an object, not 'broken'" in str(problem) for problem in problems)
    assert 0 < len(good) <= len(whole)
    assert all(answers in [row.answers for row in whole] for answers in good)


@pytest.mark.slow
def test_the_cases_are_all_formats_of_this_kind(data):
    generic = {"jsonl", "llava", "table", "hf", "huggingface"}
    generic |= {"pope", "mme", "mmbench"}  # no JSON files: test_benchmarks.py
    assert {case.format for case in CASES} == set(format_names()) - generic
    for case in CASES:
        assert case.rows(data), case


def _set(path, *keys_and_value):
    *keys, last, value = keys_and_value
    content = loaded(path)
    inner = content
    for key in keys:
        inner = inner[key]
    if value is DELETED:
        del inner[last]
    else:
        inner[last] = value
    written(path, content)


DELETED = object()
VQA = "VQAv2/v2_mscoco_train2014_annotations.json"
VQA_QUESTIONS = "VQAv2/v2_OpenEnded_mscoco_train2014_questions.json"
INSIDE = "CoIN/Instructions_Original"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "case", "complaint"),
    [
        (
            (VQA, "annotations", 1, "question_id", 7),
            ("vqav2", "VQAv2", {}),
            "annotations.json, row 2: the question_id '7' is not in .*questions.json",
        ),
        (
            (VQA, "annotations", 1, "question_id", DELETED),
            ("vqav2", "VQAv2", {}),
            "row 2: the key 'question_id' is missing",
        ),
        (
            (VQA, "annotations", 1, DELETED),
            ("vqav2", "VQAv2", {}),
            "questions.json, row 2: the question_id '9001' has no annotation",
        ),
        (
            (VQA, "annotations", 1, "image_id", 8),
            ("vqav2", "VQAv2", {}),
            "row 2: 'image_id' differs from that of .*questions.json, row 2",
        ),
        (
            (VQA, "annotations", 2, "answers", 3, "answer", 4),
            ("vqav2", "VQAv2", {}),
            "row 3, 'answers' 4: 'answer' must be a text, not 4",
        ),
        (
            (VQA, "annotations", 2, "answers", []),
            ("vqav2", "VQAv2", {}),
            "row 3: 'answers' must be a list that is not empty",
        ),
        ((VQA, "annotations", 2, "answers", [{"answer": " "}]), ("vqav2", "VQAv2", {}), "row 3: all answers are empty"),
        (
            (VQA_QUESTIONS, "questions", 0, "question", ""),
            ("vqav2", "VQAv2", {}),
            "questions.json, row 1: 'question' must be a text that is not empty",
        ),
        (
            (VQA_QUESTIONS, "questions", 1, "question_id", 9000),
            ("vqav2", "VQAv2", {}),
            "'9000' is already used at .*row 1|is not in",
        ),
        (
            (VQA_QUESTIONS, "questions", 1, "image_id", "9"),
            ("vqav2", "VQAv2", {}),
            "'image_id' must be a whole number, not '9'",
        ),
        ((VQA_QUESTIONS, "questions", DELETED), ("vqav2", "VQAv2", {}), "has no list 'questions'"),
        (
            ("AOKVQA/aokvqa_v1p0_train.json", 0, "correct_choice_idx", 4),
            ("aokvqa", "AOKVQA", {}),
            "row 1: 'correct_choice_idx' must be the number of one of 4 choices",
        ),
        (
            ("GQA/train_balanced_questions.json", "02930153", "answer", DELETED),
            ("gqa", "GQA", {}),
            r"row 2 \('02930153'\): the key 'answer' is missing",
        ),
        (
            ("GQA/train_balanced_questions.json", "02930153", 3),
            ("gqa", "GQA", {}),
            r"row 2 \('02930153'\) must be an object, not 3",
        ),
        (
            ("OCR-VQA/dataset.json", "1581602197", "split", 4),
            ("ocrvqa", "OCR-VQA", {}),
            r"row 2 \('1581602197'\): 'split' must be 1 \(train\), 2",
        ),
        (
            ("OCR-VQA/dataset.json", "1581602197", "answers", ["x"]),
            ("ocrvqa", "OCR-VQA", {}),
            "3 questions and 1 answers",
        ),
        (
            ("TextVQA/TextVQA_Rosetta_OCR_v0.2_train.json", "data", 1, DELETED),
            ("textvqa", "TextVQA", {}),
            "TextVQA_0.5.1_train.json, row 2: the OCR file has no image 'aa02'",
        ),
        (
            ("Flickr30k/dataset_flickr30k.json", "images", 1, "sentences", DELETED),
            ("flickr30k", "Flickr30k", {}),
            "row 2: the key 'sentences' is missing",
        ),
        (
            ("TextCaps/TextCaps_0.1_train.json", "data", 3, "reference_strs", "a"),
            ("textcaps", "TextCaps", {}),
            "row 4: 'reference_strs' must be a list that is not empty, not 'a'",
        ),
        (
            ("VizWiz/train.json", 2, "answerable", "yes"),
            ("vizwiz", "VizWiz", {}),
            "train.json, row 3: 'answerable' must be a whole number, not 'yes'",
        ),
        (
            (f"{INSIDE}/GQA/train.json", 0, "conversations", 1, "from", "human"),
            ("coin", "CoIN", {"task": "GQA"}),
            "row 1, 'conversations' 2: 'from' must be 'gpt': the two take turns",
        ),
        (
            (f"{INSIDE}/GQA/train.json", 0, "conversations", 1, DELETED),
            ("coin", "CoIN", {"task": "GQA"}),
            "row 1: 'conversations' has no answered turn",
        ),
        (
            (f"{INSIDE}/GQA/train.json", 0, "conversations", 0, "value", "<image>"),
            ("coin", "CoIN", {"task": "GQA"}),
            "turn 1 must be more than <image>",
        ),
        (
            (f"{INSIDE}/GQA/test.json", 0, "answer", None),
            ("coin", "CoIN", {"task": "GQA", "split": "test"}),
            "row 1: 'answer' must be a text that is not empty, not None",
        ),
        (
            (f"{INSIDE}/Grounding/test.json", 1, "answer_bbox", "[0, 1]"),
            ("coin", "CoIN", {"task": "Grounding", "split": "test"}),
            "row 2: 'answer_bbox' must be the text of four numbers",
        ),
        (
            (f"{INSIDE}/Grounding/test.json", 1, "size", [0, 5]),
            ("coin", "CoIN", {"task": "Grounding", "split": "test"}),
            "row 2: 'size' must be width and height",
        ),
        (
            (f"{INSIDE}/TextVQA/val.json", 1, "question_id", 1),
            ("coin", "CoIN", {"task": "TextVQA", "split": "test", "gold": "../TextVQA/TextVQA_0.5.1_val.json"}),
            "row 2: the question_id '1' is not in .*is it of another split",
        ),
        (
            ("UCIT/VizWiz/val_coco_type_3000.json", "annotations", 2, "image_id", 1),
            ("ucit", "UCIT", {"task": "VizWiz", "split": "test"}),
            "row 2: .*val_coco_type_3000.json has no caption with 'image_id' 2",
        ),
        (
            ("UCIT/VizWiz/test_3000.json", 2, DELETED),
            ("ucit", "UCIT", {"task": "VizWiz", "split": "test"}),
            "val_coco_type_3000.json: the 'image_id' 3 is no row of .*test_3000.json",
        ),
        (
            ("CTBench/reasoning_test/counting.json", 0, "problem", "Another?"),
            ("ctbench", "CTBench", {"task": "counting", "layout": "llava", "split": "test"}),
            "counting.jsonl:1: .* has no problem with this text and image",
        ),
        (
            ("CTBench/reasoning_train/counting.json", 0, "solution", "<think>x</think>"),
            ("ctbench", "CTBench", {"task": "counting"}),
            "row 1: 'solution' must be a text with an answer after </think>",
        ),
        (
            ("AOKVQA/aokvqa_v1p0_train.json", 0, "question", "\ud800?"),
            ("aokvqa", "AOKVQA", {}),
            "'question' must be text; half of a surrogate pair is none",
        ),
    ],
)
def test_a_mistake_is_told_with_its_file_and_row(data, change, case, complaint):
    name, *keys_and_value = change
    _set(data / name, *keys_and_value)
    layout, root, options = case
    with pytest.raises(DataError, match=complaint):
        rows_of(layout, data / root, **{"split": "train", **options})


@pytest.mark.parametrize(
    ("layout", "root", "options", "complaint"),
    [
        ("coin", "CoIN", {"task": "TextVQ"}, "unknown task 'TextVQ'; did you mean 'TextVQA'"),
        (
            "coin",
            "CoIN",
            {"task": "GQA", "instructions": "Type3"},
            "unknown instructions 'Type3'; did you mean 'Type2'",
        ),
        ("coin", "CoIN", {"task": "GQA", "gold": "x.json"}, "'gold' is for TextVQA and ScienceQA; the answers of GQA"),
        ("ucit", "UCIT", {"task": "CLEVR"}, "unknown task 'CLEVR'; did you mean 'CLEVR-Math'"),
        ("mllm-cl", "MLLM-CL", {"task": "med"}, "unknown task 'med'; did you mean 'Med'"),
        ("flickr30k", "Flickr30k", {"test": "validation"}, "unknown part 'validation'; "),
        ("flickr30k", "Flickr30k", {"test": 3}, "part must be a text, not 3"),
        ("aokvqa", "AOKVQA", {"answer": "word"}, "unknown answer 'word'; "),
        ("ctbench", "CTBench", {"task": "counting", "taught": "think"}, "unknown taught 'think'; "),
    ],
)
def test_unknown_options(published, layout, root, options, complaint):
    with pytest.raises(UserError, match=complaint):
        rows_of(layout, published / root, split="test", **options)
