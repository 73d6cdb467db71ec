"""Similarity of a whole stream, by the model's own text encoder and by one from a folder; what can't be compared."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from commands import evertune
from rich.console import Console

from evertune.cli.pairs_view import square_table
from evertune.data import Stream
from evertune.experiments.pairs.task_similarity import similarity_of_stream, similarity_of_tasks
from evertune.methods.similarity import embed_task, pair_cosines, similarity_to
from evertune.models.features import FeatureStore
from evertune.models.text_encoder import load_text_encoder
from evertune.utils.errors import UserError


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    """A BERT of random weights, two layers deep, with a [CLS] before every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"colour? red green blue yellow black white".split()]
    inner = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(words), initializer_range=0.5, **sizes)).save_pretrained(folder)
    return folder


def test_the_text_encoder_is_the_cls_whatever_else_is_in_the_batch(encoder_folder):
    from transformers import AutoModel, AutoTokenizer

    encode = load_text_encoder(str(encoder_folder))
    texts = ["red", "colour? green blue yellow", "white"]
    found = encode(texts)
    model, tokenizer = AutoModel.from_pretrained(encoder_folder).eval(), AutoTokenizer.from_pretrained(encoder_folder)
    for text, row in zip(texts, found, strict=True):
        with torch.no_grad():
            alone = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-4)
    assert found.shape == (3, 16) and found.dtype == torch.float32


def test_without_a_cls_it_is_the_mean_over_the_texts_tokens():
    """The folder of `random`'s LM: a decoder without [CLS]."""
    from transformers import AutoModel, AutoTokenizer

    from evertune.models import model_folder

    folder = model_folder("random") / "lm"
    found = load_text_encoder(str(folder))(["red", "a longer text"])
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        states = model(**tokenizer("red", return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(found[0], states.mean(0), atol=1e-4, rtol=1e-3)


def test_an_encoder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="text encoder '.*nowhere' can't be loaded"):
        load_text_encoder(str(tmp_path / "nowhere"))


def test_the_squares_are_the_rule_that_methods_use(lmm, tasks):
    found = similarity_of_tasks(lmm, tasks)
    store = FeatureStore(lmm)
    embedded = {task.name: embed_task(lmm, store, task.train) for task in tasks}
    cosines = pair_cosines(embedded)["answer"]
    assert found["cosines"]["answer"][2][0] == pytest.approx(cosines["task-0", "task-2"], abs=1e-6)
    last = similarity_to(embedded.pop("task-2"), embedded, name="task-2")
    assert found["similarity"][0][2] == pytest.approx(last["task-0"], abs=1e-6)
    assert found["similarity"][1][2] == pytest.approx(last["task-1"], abs=1e-6)
    for square in (found["similarity"], *found["cosines"].values()):
        assert all(square[k][k] is None for k in range(3))
        assert all(square[i][j] == square[j][i] for i in range(3) for j in range(3))
    assert found["samples"] == {"task-0": 8, "task-1": 8, "task-2": 8}


def test_constant_embeddings_are_equal_similarities_and_no_nan(lmm, tasks):
    same = [replace(tasks[0], name=f"copy-{k}") for k in range(3)]
    found = similarity_of_tasks(lmm, same)
    off = {value for row in found["similarity"] for value in row if value is not None}
    assert off == {0.125}
    assert {v for square in found["cosines"].values() for row in square for v in row if v is not None} == {1.0}


def test_known_tasks_are_compared_too(tasks, encoder_folder):
    stream = Stream("s", tuple(tasks[1:]), known=(tasks[0],))
    found = similarity_of_stream(stream, "random", text_encoder=str(encoder_folder))
    assert found["tasks"] == ["task-0", "task-1", "task-2"] and found["known"] == ["task-0"]
    own = similarity_of_stream(stream, "random")
    assert found["cosines"]["image"] == own["cosines"]["image"]
    assert found["cosines"]["answer"] != own["cosines"]["answer"], "the encoder is used"
    assert own["text_encoder"] == "the model's own"


def test_what_can_not_be_compared(tasks):
    with pytest.raises(UserError, match="stream 's' has 1 task to compare"):
        similarity_of_stream(Stream("s", (tasks[0],)), "random")
    bare = replace(tasks[1], train=())
    with pytest.raises(UserError, match="task 'task-1' of stream 's' has no training samples"):
        similarity_of_stream(Stream("s", (tasks[0], bare)), "random")


def test_the_command(toy_stream, tmp_path, capsys):
    code, out, err = evertune("similarity", toy_stream, "--model", "random", "--limit", "4", capsys=capsys)
    assert code == 0, err
    assert "cosine of images" in out and "similarity s" in out and "page" not in out
    arguments = ("similarity", toy_stream, "--model", "random", "--json", "--out", tmp_path / "s")
    code, out, _ = evertune(*arguments, capsys=capsys)
    output = json.loads(out)
    assert code == 0 and output == json.loads((tmp_path / "s" / "similarity.json").read_text())
    assert output["samples"]["task-0"] == 8
    assert (tmp_path / "s" / "similarity.html").read_text().count("<svg") == 4


@pytest.mark.parametrize("names", [("cat", "dog"), ("pictogram-category",) * 5, tuple("abcdefghi")])
def test_no_number_is_cut_on_a_terminal(names):
    """Long names once left the numbers of a column no room: `-0.…`."""
    square = [[None if i == j else -0.25 for j, _ in enumerate(names)] for i, _ in enumerate(names)]
    console = Console(width=80, file=io.StringIO())
    console.print(square_table(names, square, digits=2, width=80))
    output = console.file.getvalue()
    assert output.count("−0.25") == len(names) * (len(names) - 1)
    assert "…" not in output
