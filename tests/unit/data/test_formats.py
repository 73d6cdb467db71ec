"""The published layouts: every row of the fixtures, as it should be read."""

from __future__ import annotations

import json
from types import ModuleType

import pytest
from published import rows_of

from evertune.data.formats import format_names, format_of

COCO = "{0}/COCO_{0}_{1:012d}.jpg"


def plain(rows):
    """Everything of a row but where it stands."""
    return [(r.id, r.images, dict(r.fields), r.answers, dict(r.extras)) for r in rows]


def short(rows):
    return [(r.id, r.images, r.fields.get("instruction", r.fields.get("question")), r.answers) for r in rows]


@pytest.mark.parametrize("name", format_names())
def test_every_format_says_where_its_files_are_from(name):
    layout = format_of(name)
    assert isinstance(layout, ModuleType) and layout.PROMPT
    assert {"title", "source", "licence", "citation"} <= layout.ABOUT.keys()


def test_flickr30k(published):
    place = published / "Flickr30k"
    train = rows_of("flickr30k", place, split="train")
    assert len(train) == 10 and [r.id for r in train][3:6] == ["1001-3", "1001-4", "1002-0"]
    assert train[1].answers == (
        "Someone flies a kite.",
        "A red kite over a beach.",
        "A kite in the wind.",
        "Beach, sea and a kite.",
        "A red kite.",
    )
    assert train[1].images == ("flickr30k-images/1001.jpg",) and train[1].fields == {}
    assert plain(rows_of("flickr30k", place, split="test")) == [
        (
            "1005",
            ("flickr30k-images/1005.jpg",),
            {},
            ("Rain on a window.", "A wet window.", "Drops of rain.", "A window in the rain.", "Rain."),
            {},
        )
    ]
    assert [r.id for r in rows_of("flickr30k", place, split="test", test="val")] == ["1003", "1004"]


def test_textcaps(published):
    place = published / "TextCaps"
    stop, alpine = (
        ("A sign that says stop.", "A red stop sign.", "The sign says stop."),
        ("A bottle labelled Alpine.", "Water called Alpine."),
    )
    train = rows_of("textcaps", place, split="train")
    assert [(r.id, r.answers[0]) for r in train] == [
        *((f"aa01-{n}", caption) for n, caption in enumerate(stop)),
        *((f"aa02-{n}", caption) for n, caption in enumerate(alpine)),
    ]
    assert train[2].answers == (stop[2], stop[0], stop[1]) and train[2].images == ("train_images/aa01.jpg",)
    assert plain(rows_of("textcaps", place, split="test")) == [
        ("bb01", ("train_images/bb01.jpg",), {}, ("A bus to Harbour Street.", "The bus says 12 Harbour Street."), {}),
        ("bb02", ("train_images/bb02.jpg",), {}, ("A book titled Winter.", "Winter, a book."), {}),
    ]


def test_vqav2(published):
    place = published / "VQAv2"
    assert plain(rows_of("vqav2", place, split="train")) == [
        (
            "9000",
            (COCO.format("train2014", 9),),
            {"question": "What colour is the kite?"},
            ("red",) * 6 + ("orange",) * 3 + ("dark red",),
            {"question_type": "what colour is the", "answer_type": "other"},
        ),
        (
            "9001",
            (COCO.format("train2014", 9),),
            {"question": "Is it windy?"},
            ("yes",) * 9 + ("no",),
            {"question_type": "is it", "answer_type": "yes/no"},
        ),
        (
            "25000",
            (COCO.format("train2014", 25),),
            {"question": "How many dogs are there?"},
            ("2",) * 8 + ("3",) * 2,
            {"question_type": "how many", "answer_type": "number"},
        ),
    ]
    test = rows_of("vqav2", place, split="test")
    assert [r.id for r in test] == ["73000", "42000", "42001"], "annotations in another order than the questions"
    assert test[1].answers == ("no",) * 5 + ("yes",) * 5, "equally common: the first in the file is taught"
    assert test[2].answers == ("table",) + ("desk",) * 4 + ("table",) * 5, "the taught one first, the others in order"
    assert test[0].fields == {"question": "How many wheels?"} and test[0].images == (COCO.format("val2014", 73),)


def test_okvqa(published):
    place = published / "OKVQA"
    train = rows_of("okvqa", place, split="train")
    assert short(train) == [
        ("95", (COCO.format("train2014", 9),), "What makes this toy fly?", ("wind",) * 8 + ("air",) * 2),
        (
            "255",
            (COCO.format("train2014", 25),),
            "What family of animals is this?",
            ("canine",) * 4 + ("dog",) * 4 + ("wolf",) * 2,
        ),
        ("515", (COCO.format("train2014", 51),), "Which season is it?", ("winter",) * 10),
    ]
    assert train[1].extras == {"question_type": "nine", "answer_type": "other"}
    assert [(r.id, r.answers[0]) for r in rows_of("okvqa", place, split="test")] == [
        ("425", "edison"),
        ("735", "cycling"),
        ("745", "iron"),
    ]


def test_aokvqa(published):
    place = published / "AOKVQA"
    assert plain(rows_of("aokvqa", place, split="train"))[2] == (
        "2aD",
        ("train2017/000000000008.jpg",),
        {"question": "What do they carry?", "options": "(a) ball (b) shoe (c) bone (d) stick"},
        ("(d)",),
        {"rationale": "Because of stick."},
    )
    test = rows_of("aokvqa", place, split="test")
    assert [r.answers for r in test] == [("(b)",), ("(a)",), ("(c)",)]
    assert test[0].images == ("val2017/000000000011.jpg",)
    direct = rows_of("aokvqa", place, split="test", answer="direct")
    assert direct[0].answers == ("light",) * 8 + ("reading",) * 2


def test_gqa(published):
    place = published / "GQA"
    assert plain(rows_of("gqa", place, split="train"))[1] == (
        "02930153",
        ("images/2354786.jpg",),
        {"question": "What is the kite above of?"},
        ("sea",),
        {"structural": "query", "semantic": "rel"},
    )
    assert short(rows_of("gqa", place, split="test")) == [
        ("201307251", ("images/n161.jpg",), "Is it overcast?", ("no",)),
        ("201640614", ("images/n235.jpg",), "Who rides the bicycle?", ("man",)),
        ("201640615", ("images/n235.jpg",), "Is the bicycle red or blue?", ("red",)),
    ]


def test_ocrvqa(published):
    place = published / "OCR-VQA"
    train = rows_of("ocrvqa", place, split="train")
    assert [r.id for r in train] == [f"{book}-{n}" for book in ("0761183272", "1581602197") for n in range(3)]
    assert plain(train)[1] == (
        "0761183272-1",
        ("images/0761183272.jpg",),
        {"question": "What is the title of this book?"},
        ("Knots of the North",),
        {},
    )
    assert train[3].images == ("images/1581602197.gif",)
    assert rows_of("ocrvqa", place, split="train", ending=".jpg")[3].images == ("images/1581602197.jpg",)
    assert {r.answers for r in rows_of("ocrvqa", place, split="test")} == {
        ("D. Esempio",),
        ("Paper Stars",),
        ("Arts & Photography",),
    }
    assert rows_of("ocrvqa", place, split="test", test="val")[0].id == "1111111111-0"


def test_vizwiz(published):
    place = published / "VizWiz"
    assert plain(rows_of("vizwiz", place, split="train"))[1] == (
        "VizWiz_train_00000001",
        ("train/VizWiz_train_00000001.jpg",),
        {"question": "Can you tell me the colour?"},
        ("unanswerable",) + ("unsuitable",) * 3 + ("unanswerable",) * 6,
        {"answer_type": "unanswerable", "answerable": "0"},
    )
    test = rows_of("vizwiz", place, split="test")
    assert [r.answers[0] for r in test] == ["tomato", "unanswerable", "10"]
    assert test[2].images == ("val/VizWiz_val_00000002.jpg",) and test[2].extras["answerable"] == "1"


def test_vizwiz_as_it_is_unpacked(published, tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "val.json").write_text((published / "VizWiz" / "val.json").read_text())
    assert len(rows_of("vizwiz", tmp_path, split="test")) == 3


def test_textvqa(published):
    place = published / "TextVQA"
    assert plain(rows_of("textvqa", place, split="train")) == [
        (
            "1",
            ("train_images/aa01.jpg",),
            {"question": "what does the sign say?", "ocr": "STOP"},
            ("stop",) * 8 + ("STOP",) * 2,
            {},
        ),
        (
            "2",
            ("train_images/aa02.jpg",),
            {"question": "what is the brand?", "ocr": "ALPINE, 1.5, l"},
            ("alpine water",) + ("alpine",) * 4 + ("",) + ("alpine water",) * 4,  # one annotator wrote nothing
            {},
        ),
        ("3", ("train_images/aa03.jpg",), {"question": "which year is it?", "ocr": ""}, ("1998",) * 10, {}),
    ]
    test = rows_of("textvqa", place, split="test")
    assert [(r.id, r.fields["ocr"], r.answers[0]) for r in test] == [
        ("34602", "12, HARBOUR, STREET", "harbour street"),
        ("34603", "12, HARBOUR, STREET", "12"),
        ("34604", "Winter", "winter"),
    ]
    assert "ocr" not in rows_of("textvqa", place, split="test", ocr=False)[0].fields


SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


def test_coin_conversations(published):
    place = published / "CoIN"
    assert plain(rows_of("coin", place, split="train", task="ScienceQA")) == [
        ("1", (), {"instruction": f"Which force pulls?\nA. push\nB. pull{LETTER}"}, ("B",), {}),
        (
            "2",
            ("ScienceQA/train/2/image.png",),
            {"instruction": f"What is shown?\nA. magnet\nB. rock{LETTER}"},
            ("A",),
            {},
        ),
        (
            "3",
            ("ScienceQA/train/3/image.png",),
            {"instruction": f"Which is a liquid?\nA. ice\nB. water{LETTER}"},
            ("B",),
            {},
        ),
    ]
    turns = short(rows_of("coin", place, split="train", task="OCRVQA"))[:2]
    cover = ("OCR-VQA/images/0761183272.jpg",)
    assert turns == [
        ("1", cover, f"Who wrote this book?{SHORT}", ("Ada Example",)),
        (
            "1-2",
            cover,
            f"Who wrote this book?{SHORT}\nAda Example\nWhat is the title of this book?{SHORT}",
            ("Knots of the North",),
        ),
    ]


def test_coin_questions(published):
    place = published / "CoIN"
    science = rows_of("coin", place, split="test", task="ScienceQA")
    assert [(r.id, r.images, r.answers) for r in science] == [
        ("21", (), ("A",)),
        ("22", ("ScienceQA/test/22/image.png",), ("C",)),
        ("23", (), ("B",)),
    ]
    assert science[1].fields["instruction"].startswith("Which is heavier?"), "the mark of the image is left out"
    assert rows_of("coin", place, split="test", task="VQAv2")[2].answers == ("2",), "a number is taken as its text"
    assert plain(rows_of("coin", place, split="test", task="Grounding"))[2] == (
        "r3",
        ("COCO2014/" + COCO.format("train2014", 102),),
        {"instruction": "Please provide the bounding box coordinate of the region this sentence describes: wheel."},
        ("[0.2, 0.4, 0.5, 0.9]",),
        {"width": "375", "height": "500"},
    )


def test_coin_answers_of_the_data_sets_own_files(published):
    place = published / "CoIN"
    annotators = rows_of("coin", place, split="test", task="TextVQA", gold="../TextVQA/TextVQA_0.5.1_val.json")
    assert annotators[0].answers == ("harbour street",) * 7 + ("harbour",) * 3
    assert rows_of("coin", place, split="test", task="TextVQA")[0].answers == ("harbour street",)
    letters = rows_of("coin", place, split="test", task="ScienceQA", gold="../ScienceQA/problems.json")
    assert [r.answers for r in letters] == [("A", "yes"), ("C", "lead"), ("B", "no")], "letter, then text"


def test_ucit_in_both_layouts(published):
    place = published / "UCIT"
    assert short(rows_of("ucit", place, split="test", task="CLEVR-Math"))[2] == (
        "2",
        ("datasets/CLEVR/images/val/CLEVR_val_000002.png",),
        f"Add 4 spheres. How many objects exist?{SHORT}",
        ("9",),
    )
    assert [r.answers for r in rows_of("ucit", place, split="test", task="VizWiz")] == [
        ("A can of tomato soup.", "Soup on a table."),
        ("Quality issues are too severe.",),
        ("A ten dollar bill.", "Money.", "A banknote on a desk."),
    ]
    assert rows_of("ucit", place, split="test", task="Flickr30k")[0].answers[0] == "A man repairs a bicycle."
    assert [r.id for r in rows_of("ucit", place, split="train", task="ArxivQA")] == ["1", "2", "3"], "ids are repeated"


def test_mllm_cl(published):
    place = published / "MLLM-CL"
    suffix = " Answer the question with a single word (or phrase)."
    assert short(rows_of("mllm-cl", place, split="test", task="Med", suffix=suffix))[0] == (
        "t1",
        ("Med/images/p11.jpg",),
        f"What is shown?{suffix}",
        ("bone",),
    )
    assert rows_of("mllm-cl", place, split="train", task="Med", suffix=suffix)[0].fields == {
        "instruction": "What is present?"
    }
    assert rows_of("mllm-cl", place, split="train", task="VP")[1].images == ("VP/images/v2a.jpg", "VP/images/v2b.jpg")
    vision = rows_of("mllm-cl", place, split="test", task="VP")
    assert vision[0].images == ("CV-Benchv2/images/v11.jpg",)
    assert vision[0].extras == {"type": "2D", "task": "Count"}
    reading = rows_of("mllm-cl", place, split="test", task="OCR")[1]
    assert reading.answers == ("1 May", "May 1") and reading.extras == {"answer_type": "Key Information Extraction"}
    assert reading.images == ("OCR_test/images/o12.jpg",)


def test_cvit(published):
    place = published / "CVIT"
    captions = rows_of("cvit", place, split="test", task="Flickr30k")
    assert captions[1].answers == ("A cat on a blue sofa.", "A sleeping cat.", "Cat and sofa.")
    assert [r.answers for r in rows_of("cvit", place, split="train", task="ImageNet")] == [
        ("goldfish",),
        ("kite",),
        ("barn",),
    ]


def test_ctbench(published):
    place = published / "CTBench"
    assert plain(rows_of("ctbench", place, split="train", task="counting"))[:2] == [
        ("1", ("img/c1.png",), {"instruction": "How many stars?"}, ("3",), {}),
        ("2", (), {"instruction": "What is 2 + 2?"}, ("4",), {}),
    ]
    thought = rows_of("ctbench", place, split="train", task="counting", taught="solution")
    assert thought[0].answers == ("<think>I count them.</think> 3",)
    assert rows_of("ctbench", place, split="test", task="counting", taught="solution")[0].answers == ("1",)
    converted = rows_of("ctbench", place, split="test", task="counting", layout="llava")
    assert [(r.id, r.images, r.answers) for r in converted] == [
        ("0", ("img/c3.png",), ("1",)),
        ("1", ("img/c4.png",), ("2",)),
        ("2", (), ("9",)),
    ]
    assert short(rows_of("ctbench", place, split="train", task="counting", layout="llava")) == short(
        rows_of("ctbench", place, split="train", task="counting")
    )


def test_the_first_turn_of_the_assistant_and_a_last_question_are_left_out(tmp_path):
    say = [("gpt", "hello"), ("human", "<image>\na?"), ("gpt", "b"), ("human", "c?")]
    rows = [{"image": "x.png", "conversations": [{"from": who, "value": what} for who, what in say]}]
    (tmp_path / "RS").mkdir()
    (tmp_path / "RS" / "train.json").write_text(json.dumps(rows))
    assert short(rows_of("mllm-cl", tmp_path, split="train", task="RS")) == [("1", ("RS/x.png",), "a?", ("b",))]
