"""Tasks from objects in memory."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from evertune.data import Task
from evertune.data.images import read_image
from evertune.data.objects import png_of
from evertune.metrics.own_rules import scoring_rule
from evertune.metrics.rules import rule_of, score_cell
from evertune.utils.errors import DataError, UserError

COLOURS = ["red", "lime", "blue", "black", "white", "navy", "teal", "gray"]


def image(colour, mode="RGB", size=(12, 8)):
    return Image.new("RGB", size, colour).convert(mode)


def encoded(colour, kind="PNG"):
    content = io.BytesIO()
    image(colour).save(content, kind)
    return content.getvalue()


def rows(colours=COLOURS, make=image, **more):
    return [{"image": make(c), "question": "Which colour?", "answer": c, **more} for c in colours]


def task(train, test=None, **options):
    return Task.from_dataset("colours", train=train, test=test, **{"instruction": "question", **options})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))


def pixels(sample):
    return [read_image(path, origin="test")[0] for path in sample.images]


def on_disk(tmp_path):
    def make(colour):
        path = tmp_path / f"{colour}.png"
        path.write_bytes(encoded(colour))
        return path

    return make


KINDS = {
    "PIL": lambda _: image,
    "bytes": lambda _: encoded,
    "dictionary": lambda _: lambda colour: {"bytes": encoded(colour), "path": None},
    "path": on_disk,
    "text": lambda folder: lambda colour: str(on_disk(folder)(colour)),
    "path in a dictionary": lambda folder: lambda colour: {"bytes": None, "path": str(on_disk(folder)(colour))},
    "array": lambda _: lambda colour: np.asarray(image(colour)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind(kind, tmp_path):
    made = task(rows(COLOURS[:6], KINDS[kind](tmp_path)), rows(COLOURS[6:], KINDS[kind](tmp_path)))
    assert [sample.answers for sample in made.train] == [(c,) for c in COLOURS[:6]]
    assert [sample.instruction for sample in made.test] == ["Which colour?"] * 2
    for sample, colour in zip([*made.train, *made.test], COLOURS, strict=True):
        (found,) = pixels(sample)
        assert np.array_equal(np.asarray(found), np.asarray(image(colour)))


def test_several_images_and_none():
    made = task(
        [
            {"image": [image("red"), encoded("blue")], "question": "Alike?", "answer": "no"},
            {"image": None, "question": "One and one?", "answer": 2},
            {"image": [], "question": "One and two?", "answer": [3.0, "three"]},
        ],
        rows(["teal"]),
    )
    assert [len(sample.images) for sample in made.train] == [2, 0, 0]
    assert [sample.answers for sample in made.train] == [("no",), ("2",), ("3", "three")]
    texts = task([{"q": "a", "answer": "b"}, {"q": "c", "answer": "d"}], image=None, instruction="q")
    assert len(texts.train) == len(texts.test) == 1
    pairs = [{"left": image("red"), "right": image("teal"), "question": "Alike?", "answer": "no"}]
    made = task(pairs, [{**pairs[0], "question": "Same?"}], image=("left", "right"))
    assert len(made.train[0].images) == 2


@pytest.mark.slow
def test_one_part_is_split_by_image_and_what_is_in_both_leaves_training():
    made = task(rows(COLOURS * 2, id="x"), test_share=0.25)
    assert len(made.train) == 12 and len(made.test) == 4
    assert not {s.answers for s in made.train} & {s.answers for s in made.test}
    with pytest.raises(DataError, match="has this very sample in training too"):
        task(rows(), rows(["red"]))
    assert len(task(rows(), rows(["red"]), skip_invalid=True).train) == len(COLOURS) - 1


@pytest.mark.slow
def test_a_data_set_of_the_library():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.ClassLabel(names=COLOURS)}
    )
    content = {"image": [encoded(c, "JPEG") for c in COLOURS], "question": ["Which?"] * 8, "answer": list(range(8))}
    whole = datasets.Dataset.from_dict(
        {**content, "image": [{"bytes": each, "path": None} for each in content["image"]]}, features=features
    )
    made = task(whole, rows(["orange"]))
    assert [sample.answers[0] for sample in made.train] == COLOURS, "class labels are words"
    assert [path.read_bytes() for sample in made.train for path in sample.images] == content["image"], "not re-encoded"
    streamed = task(whole.to_iterable_dataset(), rows(["orange"]))
    assert streamed.fingerprint == made.fingerprint
    with pytest.raises(UserError, match=r"pass one split, train=splits\['train'\]"):
        task(datasets.DatasetDict({"train": whole}))


@pytest.mark.slow
def test_a_table_and_a_generator_give_the_same_task():
    pandas = pytest.importorskip("pandas")
    one, other = task(pandas.DataFrame(rows()), rows(["orange"])), task((row for row in rows()), rows(["orange"]))
    assert one.fingerprint == other.fingerprint == task(rows(), rows(["orange"])).fingerprint
    assert task(rows(COLOURS[::-1]), rows(["orange"])).fingerprint != one.fingerprint


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "LA", "HSV"])
def test_pixels_are_kept(mode):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    there = noise.convert("I").convert("I;16") if mode == "I;16" else noise.convert(mode)
    again = Image.open(io.BytesIO(png_of(there)))
    expected = there if mode in ("1", "L", "P", "RGB", "RGBA", "LA") else there.convert("RGB")
    if mode == "I;16":
        expected = there
    assert np.array_equal(np.asarray(again.convert("RGBA")), np.asarray(expected.convert("RGBA")))


def test_what_the_object_says_besides_is_not_applied_twice():
    """`datasets` has turned an image by its EXIF already; a transparent colour of a palette stays transparent."""
    turned = image("red", size=(9, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    content = io.BytesIO()
    turned.save(content, "JPEG", exif=exif)
    opened = Image.open(content)
    assert Image.open(io.BytesIO(png_of(opened))).size == (9, 4)
    assert not Image.open(io.BytesIO(png_of(opened))).getexif()
    palette = image("red").convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert Image.open(io.BytesIO(png_of(palette))).convert("RGBA").getpixel((0, 0))[3] == 0


def closed(colour):
    content = io.BytesIO(encoded(colour))
    opened = Image.open(content)
    content.close()
    return opened


@pytest.mark.parametrize(
    ("given", "options", "predictions"),
    [
        (5, {}, "colours, train is an int; taken are a datasets.Dataset"),
        ("shapes", {}, r"colours, train is a str \('shapes'\); .*load_stream"),
        ([None], {}, "colours, train, row 1 is None; taken are dictionaries"),
        ([1], {}, "colours, train, row 1 is an int; taken are dictionaries"),
        ([], {}, "colours, train: there are no rows"),
        (rows(), {"instruction": "query"}, r"no column 'query'; known: answer, image, question \(say which"),
        (rows(), {"image": "imag"}, r"no column 'imag'; did you mean 'image'\? .*image=None"),
        (rows(), {"test": None, "test_share": 2.0}, "^Task.from_dataset: test_share: Input should be less than 1$"),
        (rows(), {"score": "exakt"}, r"unknown score 'exakt'; did you mean 'exact'\? One of your own"),
        (rows(), {"score": 3}, "a scoring rule is a function"),
        (rows(), {"score": dict}, "a scoring rule is a function .* not the class dict; by name there are: anls"),
        (rows(), {"about": ["x"]}, "about is a list of 1 str; taken is a dictionary"),
        (rows(make=lambda _: 3), {}, "the image is an int; taken are PIL images"),
        (rows(make=lambda _: np.zeros((3, 3, 7))), {}, r"an array of float64 \(3, 3, 7\) is no image"),
        (rows(make=lambda _: np.full((3, 3), 0.5, np.float32)), {}, r"an array of float32 \(3, 3\) is no image"),
        (rows(make=lambda _: Image.new("F", (3, 3), 0.5)), {}, "the image has the mode F, whose range is not known"),
        (rows(make=lambda _: Image.new("RGB", (0, 3))), {}, "row 1: the image can't be read"),
        (rows(make=lambda _: np.zeros((0, 3, 3), np.uint8)), {}, "row 1: the image can't be read"),
        (rows(make=closed), {}, r"row 1: the image can't be read"),
        (rows(make=lambda _: ""), {}, "row 1: the image is an empty text"),
        (rows(make=lambda _: "https://a.b/c.png"), {}, "the URL https://a.b/c.png, which is not fetched"),
        (rows(make=lambda _: "/no/such.png"), {}, "no/such.png"),
        (rows(), {"image": 3}, "^image is an int; taken are the name of a column, a list of names, or None"),
        (rows(), {"instruction": None}, "^instruction is None; taken is the name of a column"),
        (rows(), {"answer": ["answer"]}, "^answer is a list of 1 str; taken is the name of a column"),
        ([{"image": None, "question": [{"role": "user"}], "answer": "x"}], {}, "'question' holds .* a list of 1 dict"),
        ([{"image": None, "question": b"why", "answer": "x"}], {}, "'question' holds neither .* but a bytes"),
        (rows(make=lambda _: b"GIF89a"), {}, "broken image: 8"),
        ([{"image": None, "question": "", "answer": "x"}], {}, "row 1: the instruction is empty"),
        ([{"image": None, "question": "y", "answer": None}], {}, "row 1: the column 'answer' is empty"),
        ([{"image": None, "question": "y", "answer": "n"}, {"question": "y"}], {}, "row 2: it has no 'answer'"),
    ],
)
def test_wrong_things(given, options, predictions):
    with pytest.raises(UserError, match=predictions):
        task(given, **{"test": rows(["orange"]), **options})


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, "numpy", "torch", "pandas", "arrow"])
def test_every_format_of_a_data_set_is_the_same_task(kind):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.ClassLabel(names=COLOURS)}
    )
    made = datasets.Dataset.from_list(rows(make=encoded), features=features)
    found = task(made.with_format(kind), rows(["orange"]))
    assert [sample.answers for sample in found.train] == [(colour,) for colour in COLOURS]
    assert found.fingerprint == task(made, rows(["orange"])).fingerprint


@pytest.mark.slow
def test_a_transform_of_the_caller_gets_what_it_expects():
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    made = datasets.Dataset.from_list(rows(make=encoded), features=datasets.Features(features))

    def larger(batch):
        return {**batch, "image": [image.resize((20, 20)) for image in batch["image"]]}

    found = task(made.with_transform(larger), rows(["orange"]))
    assert pixels(found.train[0])[0].size == (20, 20)


def test_values_of_numpy_are_read_as_those_of_python():
    answers = [np.int64(3), np.float32(0.5), np.bool_(True), np.array(["a", "b"]), np.str_("c")]
    found = task([{"image": None, "question": "y", "answer": each} for each in answers], rows(["orange"]))
    assert [sample.answers for sample in found.train] == [("3",), ("0.5",), ("True",), ("a", "b"), ("c",)]


def test_a_data_set_of_torch_ends_at_its_length():
    class Endless:
        def __len__(self):
            return 2

        def __getitem__(self, at):
            assert at < 5, "read past its length"
            return rows()[at % 2]

    assert len(task(Endless(), rows(["orange"])).train) == 2


@pytest.mark.slow
def test_what_is_wrong_is_left_out_only_where_that_is_wanted():
    broken = [*rows(), {"image": b"nothing", "question": "What?", "answer": "x"}]
    with pytest.raises(DataError, match=r"row 9"):
        task(broken, rows(["orange"]))
    assert len(task(broken, rows(["orange"]), skip_invalid=True).train) == 8


def test_a_task_prints_in_short_and_goes_to_another_process():
    made = task(rows(), rows(["orange"]))
    assert "train=<8 samples>, test=<1 samples>" in repr(made)
    again = pickle.loads(pickle.dumps(made))
    assert again == made and again.fingerprint == made.fingerprint
    assert again.train[3].image_digests == made.train[3].image_digests


class TestRules:
    """Scoring rules of one's own."""

    @pytest.fixture(autouse=True)
    def again(self, monkeypatch):
        monkeypatch.setattr("evertune.utils.plugins._added", {})

    def test_a_function_scores(self):
        made = task(rows(), rows(["orange"]), score=lambda prediction, answers: prediction[:1] == answers[0][:1])
        rule = rule_of(made.score)
        scored = score_cell(rule, ["order", "blue"], [["orange"], ["orange"]])
        assert (scored.strict, scored.relaxed, scored.each) == (50.0, 50.0, [1.0, 0.0])

    def test_relaxed_is_never_below_strict(self):
        @scoring_rule(relaxed=lambda prediction, answers: 0.5)
        def half(prediction, answers):
            """Equal, or half of it."""
            return prediction == answers[0]

        assert half.name == "half" and half.about == "Equal, or half of it."
        scored = score_cell(rule_of("half"), ["a", "b"], [["a"], ["a"]])
        assert (scored.strict, scored.relaxed) == (50.0, 75.0)

    def test_a_changed_rule_is_another_task(self):
        def with_limit(limit):
            def near(prediction, answers):
                return abs(len(prediction) - len(answers[0])) < limit

            return task(rows(), rows(["orange"]), score=near).fingerprint

        assert with_limit(2) == with_limit(2) != with_limit(3)

    @pytest.mark.parametrize(
        ("function", "predictions"),
        [
            (lambda prediction, answers: 2, "gives 2; a score is a number between 0 and 1"),
            (lambda prediction, answers: None, "gives None"),
            (lambda prediction, answers: float("nan"), "gives nan"),
            (lambda prediction, answers: 1 / 0, "on the prediction 'a' and the answers .*ZeroDivisionError"),
        ],
    )
    def test_a_rule_that_fails_says_where(self, function, predictions):
        with pytest.raises(UserError, match=predictions):
            score_cell(scoring_rule(function), ["a"], [["b"]])

    @pytest.mark.parametrize(
        ("made", "message"),
        [
            (
                lambda: scoring_rule(lambda prediction: 1),
                r"score, and <lambda>\(prediction\) can't be called with",
            ),
            (lambda: scoring_rule(lambda p, a, *, k: 1), "missing a required argument: 'k'"),
            (
                lambda: scoring_rule(relaxed=3)(str.__eq__),
                "relaxed form of a scoring rule is a function .*not an int",
            ),
            (lambda: scoring_rule(relax=print), r"scoring_rule\(\) has no argument 'relax'; did you mean 'relaxed'"),
        ],
    )
    def test_what_is_no_rule_is_refused_before_anything_is_scored(self, made, message):
        with pytest.raises(UserError, match=message):
            made()

    def test_names(self):
        with pytest.raises(UserError, match="'vqa' comes with evertune: give yours another name"):
            scoring_rule(name="vqa")(lambda prediction, answers: True)
