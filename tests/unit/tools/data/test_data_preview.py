"""The preview: what the model gets, word for word; one safe file."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
import torch
from commands import evertune
from PIL import Image
from reading_rows import colour, write_lines

from evertune.data.task import Sample
from evertune.models import load_lmm
from evertune.tools.data import check
from evertune.tools.data.preview import SAMPLES, masked, write_preview

NASTY = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'


@pytest.fixture
def file(tmp_path):
    rows = [
        {
            "id": f"{NASTY} {number}",
            "image": colour(tmp_path, f"{number}'\"<b>.png", (9 * number, 0, 0)),
            "instruction": f"{NASTY} ما هذا؟ \u202e {number}",
            "answers": [f"{NASTY} {number}", "other"],
        }
        for number in range(10)
    ]
    return write_lines(tmp_path / "t.jsonl", *rows)


def page_of(file, lmm, out):
    return write_preview(check(str(file), lmm=lmm), lmm, out / "index.html").read_text(encoding="utf-8")


def test_one_safe_file(file, lmm, tmp_path):
    page = page_of(file, lmm, tmp_path / "preview")
    policy = html.unescape(page)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; style-src-elem 'sha256-" in policy
    assert "<script" not in page and "<b>." not in page and "onerror=alert(1)>" not in page
    assert set(re.findall(r'(?:src|href)="([^"#][^"]{0,4})', page)) == {"data:"}
    assert "url(" not in page and "@import" not in page
    assert [path.name for path in (tmp_path / "preview").iterdir()] == ["index.html"]


def test_the_prompt_stands_as_the_family_renders_it(file, lmm, tmp_path):
    page = page_of(file, lmm, tmp_path)
    shown = [html.unescape(text) for text in re.findall(r'<pre dir="auto">(.*?)</pre>', page, re.DOTALL)]
    assert len(shown) == SAMPLES["train"] + SAMPLES["test"]
    prompts = {lmm.prompt(json.loads(line)["instruction"]) for line in file.read_text().splitlines()}
    assert len(set(shown)) == len(shown) and set(shown) <= prompts


def test_the_mask_is_that_of_the_training_batch(lmm, mini_blip):
    for model in (lmm, load_lmm(str(mini_blip), dtype="float32", device=torch.device("cpu"))):
        sample = Sample("1", (), "what color is it?", ("dark red", "red"))
        tokens = masked(sample, model)
        batch = model.collate([sample], torch.zeros(1, 1, 1))
        assert [token.trained for token in tokens] == (batch.labels[0] != -100).tolist()
        trained = "".join(token.text for token in tokens if token.trained).strip()
        assert trained.startswith("dark red") and sum(t.trained for t in tokens) == model.answer_tokens("dark red")
        assert "what color is it?" in "".join(token.text for token in tokens if not token.trained)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm", "llava"])
@pytest.mark.parametrize("images", [0, 1, 2])
def test_a_chat_lmms_places_for_images(name, images, tiny_chat):
    """Many tokens stand for an image: one of them is shown for each."""
    model = load_lmm(str(tiny_chat(name)), dtype="float32", device=torch.device("cpu"))
    if images not in model.images_per_sample:
        return
    sample = Sample("1", (Path("a.png"), Path("b.png"))[:images], "what color is it?", ("dark red",))
    tokens = masked(sample, model)
    shown = "".join(token.text for token in tokens if not token.trained)
    parts = 5 if name == "smolvlm" else 1  # four tiles and an overview
    assert "what color is it?" in shown and shown.count(model.prompts.image) == images * parts
    assert sum(token.trained for token in tokens) == model.answer_tokens("dark red")


def test_letters_of_several_tokens(lmm):
    """A letter whose bytes are several tokens stands at the last of them; joined, the text is whole."""
    text = "Größe 漢字 😀"
    ids = lmm.tokenizer(text, add_special_tokens=False).input_ids
    pieces = lmm.token_texts(ids)
    assert len(pieces) == len(ids) > len(text) and "".join(pieces) == text and "�" not in "".join(pieces)
    assert lmm.token_texts(ids[:-1])[-1] == "�", "cut off in the middle of a letter"
    assert lmm.token_texts([]) == []


def test_sizes_and_lengths(file, lmm, tmp_path):
    page = page_of(file, lmm, tmp_path)
    assert "8 x 8" in page and "of 512 tokens" in page and "characters of instruction" in page


def test_what_can_not_be_shown_is_said(tmp_path, lmm):
    rows = [{"image": f"gone-{n}.png", "instruction": "q", "answer": "a"} for n in range(3)]
    file = write_lines(tmp_path / "t.jsonl", *rows, {"instruction": "x" * 9000, "answer": "a"})
    checked = check(str(file), decode=False)
    page = write_preview(checked, None, tmp_path / "p" / "index.html").read_text()
    assert "does not exist" in page and "Images were not checked" in page and "With <code>--model</code>" in page
    assert "x" * 2000 in page and "x" * 2001 not in page


def test_the_page_is_the_same_twice(file, lmm, tmp_path):
    assert page_of(file, lmm, tmp_path / "a") == page_of(file, lmm, tmp_path / "b")


@pytest.mark.slow
def test_from_the_command(file, tmp_path, capsys):
    place = tmp_path / "preview"
    code, out, _ = evertune("data", "check", file, "--model", "random", "--preview", place, "--json", capsys=capsys)
    assert code == 0 and json.loads(out)["preview"] == str(place / "index.html") and (place / "index.html").exists()


def test_sizes_count_all_images_and_what_the_model_can_not_read_is_shown_without(tiny_chat, tmp_path):
    """Images of 28 x 28 and of 112 x 112 are 4 and 16 places for this Qwen; a control token makes no batch."""
    lmm = load_lmm(str(tiny_chat("qwen2_vl")), dtype="float32", device=torch.device("cpu"))
    names = []
    for side in (28, 112):
        Image.new("RGB", (side, side), (side, 0, 0)).save(tmp_path / f"{side}.png")
        names.append(f"{side}.png")
    rows = [{"images": names, "instruction": "which?", "answer": f"a{n}"} for n in range(3)]
    rows[1]["instruction"] = "<|image_pad|> which?"
    checked = check(str(write_lines(tmp_path / "t.jsonl", *rows)), lmm=lmm)
    page = html.unescape(write_preview(checked, lmm, tmp_path / "index.html").read_text(encoding="utf-8"))
    alone = lmm.lengths("which?", "a0", ())[0].tokens
    marks = 2 * 2  # <|vision_start|> and <|vision_end|>
    assert page.count(f"language model: {alone + marks + 4 + 16} of 1,024 tokens") == 2
    assert "t.jsonl:2: the question holds '<|image_pad|>'" in page


@pytest.mark.slow
def test_unknown_tokens_are_among_the_findings(tmp_path):
    lmm = load_lmm("tiny-instruct", dtype="float32", device=torch.device("cpu"))
    rows = [
        {"image": colour(tmp_path, f"{n}.png", (n, 0, 0)), "instruction": "which?", "answer": "红色"} for n in range(4)
    ]
    page = html.unescape(page_of(write_lines(tmp_path / "t.jsonl", *rows), lmm, tmp_path))
    assert "100 % of the tokens of answers are unknown to the tokenizer of 'tiny-instruct'" in page
    assert "Nothing is wrong" not in page
