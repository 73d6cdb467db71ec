"""What a model can't read is said before anything is trained, with file and line: long texts, many images, thin ones,
control tokens; and words that its tokenizer does not know."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import yaml
from chat_models import load
from PIL import Image
from reading_rows import write_lines
from tiny_chat import FAMILIES

from evertune import run
from evertune.data import load_stream
from evertune.data.task import Sample
from evertune.models import load_lmm
from evertune.models.features import FeatureStore
from evertune.models.readable import readable, refuse_unreadable, unreadable
from evertune.service.integrity import repair
from evertune.tools.data import check
from evertune.utils.errors import DataError

CPU = {"dtype": "float32", "device": torch.device("cpu")}


@pytest.fixture
def written(tmp_path):
    """Writes a stream of one task with twelve training and four test rows, some of which are changed."""

    def write(changes=(), *, sizes=()):
        for number in range(16):
            size = dict(sizes).get(number, (20, 20))
            Image.new("RGB", size, (16 * number, 3 * number, 0)).save(tmp_path / f"{number}.png")
        rows = [{"image": f"{n}.png", "instruction": "which colour?", "answer": "ab"[n % 2]} for n in range(16)]
        for number, change in dict(changes).items():
            rows[number] = {key: value for key, value in (rows[number] | change).items() if value is not None}
        write_lines(tmp_path / "train.jsonl", *rows[:12])
        write_lines(tmp_path / "test.jsonl", *rows[12:])
        entry = {"name": "a", "train": "train.jsonl", "test": "test.jsonl"}
        (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "s", "tasks": [entry]}))
        return str(tmp_path / "s.yaml")

    return write


def errors_of(checked, level="errors"):
    return [message for _, _, messages in getattr(checked, level).kinds() for _, message in messages]


# ---- long texts

LONG = {2: {"instruction": "what is the colour " * 60}, 4: {"answer": "red and green " * 200}}


@pytest.mark.slow
def test_a_run_stops_before_it_trains(written, mini_blip, tmp_path):
    with pytest.raises(DataError) as caught:
        run(written(LONG), model=str(mini_blip), out=tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("2 rows of 's' can't be used, and nothing was trained. Fix them, or leave them out")
    assert "tokens for the Q-Former of 'mini', which reads 128, " in message
    assert "train.jsonl:5: 625 tokens for the language model of 'mini', which reads 256: shorten it" in message
    assert not list((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [(("blip-2", "opt"), ["language model"]), (("blip-2", "t5"), []), (("instructblip", "t5"), ["Q-Former"])],
    ids=str,
)
def test_parts_that_read_texts_of_any_length_or_none(kind, parts, written, tiny_blip):
    """BLIP-2's Q-Former reads no text; T5's positions have no end."""
    lmm = load_lmm(str(tiny_blip(*kind)), **CPU)
    assert [length.part for length in lmm.lengths("what?", "red")] == parts
    (task,) = load_stream(written(LONG)).tasks
    assert all("Q-Former" in str(problem) or parts == ["language model"] for _, problem in unreadable(task.train, lmm))


def test_samples_of_an_index_and_plain_ones_are_judged_alike(written, mini_blip):
    lmm = load_lmm(str(mini_blip), **CPU)
    stream = load_stream(written({**LONG, 7: {"answer": "red</s>"}}), decode=True)
    (task,) = stream.tasks
    found = [(at, str(problem)) for at, problem in unreadable(task.train, lmm)]
    assert found == [(at, str(problem)) for at, problem in unreadable(list(task.train), lmm)]
    assert [at for at, _ in found] == [2, 4, 7]
    sound = replace(stream, tasks=(replace(task, train=task.train[:2]),))
    assert readable(sound, lmm, skip_invalid=False) is sound


@pytest.mark.slow
def test_skip_bad_leaves_out_what_the_model_can_not_read(written, tmp_path):
    """In a run, with what was left out in its folder, and the second call is the same run."""
    stream = written({1: {"answer": "<|im_end|>"}, 13: {"instruction": "which <image>?"}}, sizes={5: (900, 1)})
    how = {"model": "random", "skip_invalid": True, "out": tmp_path / "run", "settings": ["dtype=float32"]}
    matrix = run(stream, **how).runs["sequential"].matrix
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert skipped["rows"] == 3 and sorted(skipped["kinds"].values()) == [1, 2]
    assert json.loads((tmp_path / "run" / "stages" / "01-a" / "done.json").read_text())["samples"] == 10
    assert run(stream, **how).runs["sequential"].matrix.R == matrix.R
    answered = tmp_path / "run" / "answers" / "01" / "a.jsonl"
    before = answered.read_text()
    answered.unlink()
    repair(tmp_path / "run")  # asks the same questions again
    assert answered.read_text() == before and len(before.splitlines()) == 3


def test_a_task_that_loses_all_its_rows_is_refused(written, lmm):
    stream = load_stream(written({n: {"answer": "<|im_end|>"} for n in range(12)}), decode=True)
    with pytest.raises(DataError, match="12 rows of 'a' can't be used"):
        readable(stream, lmm, skip_invalid=True)


# ---- control tokens


def control_tokens(lmm):
    """One token that stands for an image, one that ends an answer, and `<image>`."""
    tokenizer = lmm.tokenizers()["language model"]
    return [lmm.image_token, tokenizer.convert_ids_to_tokens(lmm.prompts.end), "</s>"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_control_tokens_in_chat_families(name, tiny_chat, written):
    lmm = load(tiny_chat(name))
    image, end, other = control_tokens(lmm)
    changes = {
        3: {"instruction": f"which {image} colour?"},
        5: {"answer": f"a{end}"},
        6: {"answer": f"{image} a"},
        9: {"instruction": f"which {other}?"},
        10: {"instruction": "which <image> colour?"},
        13: {"answer": other},
    }
    checked = check(written(changes), lmm=lmm)
    places = [message.partition("jsonl:")[2].partition(":")[0] for message in errors_of(checked)]
    assert places == ["4", "6", "7", "10", "11", "2"]
    assert (
        f"train.jsonl:4: the question holds '{image}', which '{name}' reads as a control token" in errors_of(checked)[0]
    )
    assert f"test.jsonl:2: the answer holds '{other}'" in errors_of(checked)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["random", "tiny-instruct"])
def test_control_tokens_in_the_other_families(model, written, tmp_path):
    lmm = load_lmm(model, **CPU)
    end = "<|im_end|>" if model == "random" else "</s>"
    stream = written({4: {"answer": f"a{end}b"}, 6: {"instruction": "which <image>?"}, 7: {"answer": "a < b > c"}})
    found = errors_of(check(stream, lmm=lmm))
    assert len(found) == 2 and f"train.jsonl:5: the answer holds '{end}'" in found[0] and "train.jsonl:7: " in found[1]
    with pytest.raises(DataError, match="train.jsonl:5: the answer holds"):
        run(stream, model=model, out=tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.safetensors"))


# ---- images by their size


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "instructblip", *FAMILIES])
@pytest.mark.parametrize("side", [1, 2])
def test_every_aspect_ratio_is_prepared_or_refused_by_its_size_alone(name, side, tiny_chat, mini_blip):
    """One side of 1 or 2 pixels and any other: what `lengths` takes, `encode` takes, and what it refuses, not."""
    lmm = (
        load_lmm(name if name == "random" else str(mini_blip), **CPU) if name not in FAMILIES else load(tiny_chat(name))
    )
    refused = []
    for long in (1, 3, 63, 126, 127, 128, 129, 199, 200, 201, 399, 400, 401, 2000):
        for size in ((side, long * side), (long * side, side)):
            image = Image.new("RGB", size[::-1], "grey")
            try:
                lmm.lengths("what?", "a", [size])
                assert torch.isfinite(next(iter(lmm.encode([image]))).float()).all()
            except DataError as problem:
                assert f"an image of {size[1]:,} x {size[0]:,} pixels can't be prepared" in str(problem)
                with pytest.raises(DataError, match="can't be prepared"):
                    lmm.encode([image])
                refused.append(long)
    limit = {"random": 128, "qwen2_vl": 201, "qwen2_5_vl": 201, "qwen3_vl": 201}.get(name, 10_000)
    assert sorted(set(refused)) == [n for n in (128, 129, 199, 200, 201, 399, 400, 401, 2000) if n >= limit]


def test_llava_does_not_blow_up_a_thin_image(tiny_chat):
    """It scales by the short side before it crops: 1 x 200,000 would have 28 x 5,600,000 pixels in between."""
    lmm = load(tiny_chat("llava"))
    with pytest.raises(DataError, match="scaled to 28 pixels on its short side it has more than 89,478,485"):
        lmm.encode([Image.new("RGB", (200_000, 1))])


def test_a_thin_image_is_named_with_its_row(written, lmm, tmp_path):
    stream = written(sizes={4: (900, 1)})
    complaint = r"train.jsonl:5: an image of 900 x 1 pixels can't be prepared for the model: scaled to 64 pixels"
    (found,) = errors_of(check(stream, lmm=lmm))
    assert "train.jsonl:5: an image of 900 x 1 pixels can't be prepared" in found
    with pytest.raises(DataError, match=complaint):
        run(stream, model="random", out=tmp_path / "run")


def test_an_error_of_the_processor_reaches_the_row(written, lmm, monkeypatch, tmp_path):
    """Also one that sizes don't tell: of a batch, the image that did it is named."""
    (task,) = load_stream(written()).tasks
    plain = lmm.prepare

    def prepare(image):
        if image.getpixel((0, 0))[0] == 16 * 7:
            raise ValueError("unlucky seven")
        return plain(image)

    monkeypatch.setattr(lmm, "prepare", prepare)
    with pytest.raises(DataError, match=r"train.jsonl:8: the image .*7.png: an image of 20 x 20 .*: unlucky seven"):
        FeatureStore(lmm, folder=tmp_path / "features").ensure(task.train)


# ---- many images


def test_all_images_of_a_row_count(tiny_chat, written, tmp_path):
    """Four images of 112 x 112 are 64 tokens for this Qwen, those of 28 x 28 four."""
    lmm = load(tiny_chat("qwen2_vl"))
    lmm.model.config.text_config.max_position_embeddings = 96
    several = {"image": None, "images": [f"{n}.png" for n in range(6)]}
    stream = written(
        {7: several, 8: {**several, "images": ["0.png"] * 16}}, sizes=dict.fromkeys(range(1, 6), (200, 200))
    )
    found = errors_of(check(stream, lmm=lmm))
    assert len(found) == 1 and "train.jsonl:8: " in found[0]
    (task,) = load_stream(stream, decode=True).tasks
    features = torch.nn.utils.rnn.pad_sequence(
        lmm.encode([Image.open(p) for p in task.train[7].images]), batch_first=True
    )
    tokens = lmm.collate([task.train[7]], features).input_ids.shape[1]
    assert f": {tokens} tokens for the language model of 'qwen2_vl', which reads 96" in found[0]


@pytest.mark.parametrize("model", ["random", "instructblip"])
def test_all_images_of_a_row_count_in_the_other_families(model, mini_blip):
    lmm = load_lmm(model if model == "random" else str(mini_blip), **CPU)
    none, one, five = (lmm.lengths("what?", "a", [(30, 40)] * count)[-1].tokens for count in (0, 1, 5))
    visual = lmm._visual_tokens if model == "random" else lmm.blip.query_tokens.shape[1]
    assert one - none == visual and five - none == 5 * visual


def test_a_question_is_judged_as_a_sample(tiny_chat):
    lmm = load(tiny_chat("qwen2_vl"))
    refuse_unreadable(Sample("", (), "what?", ()), lmm, [(30, 40)])
    with pytest.raises(DataError, match="aspect ratio"):
        refuse_unreadable(Sample("", (), "what?", ()), lmm, [(30, 40), (1, 300)])
    with pytest.raises(DataError, match="holds '<|im_end|>'"):
        refuse_unreadable(Sample("", (), "what?<|im_end|>", ()), lmm, [])


# ---- unknown tokens


@pytest.mark.slow
def test_answers_that_the_tokenizer_does_not_know(written, tmp_path):
    """Half of the answers and an eighth of the questions are Chinese, which tiny's tokenizer has not."""
    changes = {n: {"answer": "红色"} for n in range(0, 12, 2)} | {4: {"instruction": "什么颜色", "answer": "红色"}}
    stream = written(changes)
    checked = check(stream, lmm=load_lmm("tiny-instruct", **CPU))
    questions, answers = sorted(errors_of(checked, "warnings"), key=lambda text: "of answers" in text)
    assert "train.jsonl:5: '什么颜色': " in questions and "of the tokens of questions are unknown" in questions
    # 6 answers of a blank, which is no word, and 2 unknown tokens, 6 of one token
    assert "train.jsonl:1: '红色': 67 % of the tokens of answers are unknown to the tokenizer of 'tiny-" in answers
    assert not len(checked.errors)


def test_words_that_a_tokenizer_of_bytes_writes_are_known(written, lmm):
    assert not len(check(written({4: {"instruction": "什么颜色", "answer": "红色"}}), lmm=lmm).warnings)


@pytest.mark.parametrize("text", ["which\ud800?", "\udcff"])
def test_a_question_that_is_no_text_is_refused(lmm, text):
    """Such a question comes from a page, or from bytes of a terminal; tokenizers fall over."""
    with pytest.raises(DataError, match="the question holds half a character"):
        refuse_unreadable(Sample("question", (), text, ()), lmm, [])
