"""One spelling of a setting: `train.epochs` after `--set`, in the YAML of a run or a grid, and in every hint."""

from __future__ import annotations

import pytest

from evertune.experiments.grid import read_grid
from evertune.runs.api import configure
from evertune.utils.errors import UserError

DOTTED = "train.epochs: 2\nreplay.ratio: 0.05\nmodel.scope: lora\n"
NESTED = "train: {epochs: 2}\noptions: {replay: {ratio: 0.05}}\nmodel_options: {scope: lora}\n"


def written(tmp_path, name, text):
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    return path


def test_a_run_takes_the_keys_of_set(tmp_path):
    head = "stream: pocket-b1\nmethod: replay\n"
    dotted, nested = (configure(written(tmp_path, n, head + t)) for n, t in (("a", DOTTED), ("b", NESTED)))
    assert dotted == nested and dotted.train.epochs == 2
    assert configure(written(tmp_path, "c", head + DOTTED), settings=["train.epochs=3"]).train.epochs == 3


def test_a_grid_takes_them_too(tmp_path):
    head = "name: g\nstreams: [pocket-b1]\nmethods: [sequential, replay+ewc]\n"
    dotted, nested = (read_grid(written(tmp_path, n, head + t)) for n, t in (("a", DOTTED), ("b", NESTED)))
    assert dotted == nested


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("train.epoch: 2", "did you mean 'train.epochs'"),
        ("train: 3\ntrain.epochs: 2", "'train' is 3 here, expected a group"),
    ],
)
def test_a_mistake_is_named(text, complaint, tmp_path):
    with pytest.raises(UserError, match=complaint):
        configure(written(tmp_path, "a", f"stream: pocket-b1\n{text}\n"))
