"""What a disk has changed in the cache is found, said once and made again; it never changes a number."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from evertune.data.formats import Row
from evertune.data.image_index import RECORD, _content, _loaded
from evertune.data.rows import IndexKey, indexed
from evertune.models.features import FeatureStore
from evertune.training.evaluator import PredictionCache
from evertune.training.loop import Step
from evertune.training.training_cache import load_training, save_training
from evertune.utils.files import digest_of_file, write_atomically


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << (at % 8)
    path.write_bytes(content)


def places(path, count, *, seed=0):
    """Some bytes of a file: of its head, of its middle, the last."""
    size = path.stat().st_size
    choose = random.Random(seed)
    return [*choose.sample(range(min(200, size)), count // 2), *choose.sample(range(size), count // 2), size - 1]


def damage_count(caplog):
    return sum("in the cache is damaged" in record.message for record in caplog.records)


def test_a_changed_byte_of_a_feature_is_found(lmm, tasks, tmp_path, caplog):
    samples = tasks[0].train

    def values():
        store = FeatureStore(lmm, folder=tmp_path)
        store.ensure(samples)
        store.ensure(samples)
        return store.get(samples)

    whole = values()
    (path,) = tmp_path.rglob("*.safetensors")
    content = path.read_bytes()
    for at in places(path, 12):
        path.write_bytes(content)
        flip(path, at)
        assert torch.equal(values(), whole), f"byte {at}"
    caplog.clear()
    flip(path, len(content) // 2)
    values(), values()
    assert damage_count(caplog) == 1, "once, and then it is whole"


def test_features_of_another_number_format_are_not_taken(lmm, tasks, tmp_path):
    """The bytes are right and how they are read is not."""
    store = FeatureStore(lmm, folder=tmp_path)
    store.ensure(tasks[0].train)
    whole = store.get(tasks[0].train)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes().replace(b'"F16"', b'"I16"', 1))
    again = FeatureStore(lmm, folder=tmp_path)
    again.ensure(tasks[0].train)
    assert torch.equal(again.get(tasks[0].train), whole)


def test_a_changed_byte_of_an_answer_is_found(lmm, tasks, caplog):
    samples = tasks[0].test

    def made():
        cache = PredictionCache(lmm, max_new_tokens=11, reuse=True)
        cache.add(samples, ["red", "green", "blue", "black"])
        cache.save()
        return cache

    path = made()._path
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        flip(path, at)
        cache = PredictionCache(lmm, max_new_tokens=11, reuse=True)
        cached = [*(cache[sample] for sample in samples if sample in cache)]
        assert cached in (["red", "green", "blue", "black"], []), f"byte {at}"
        made()
        assert path.read_bytes() == content
    assert damage_count(caplog) > 30


def test_answers_of_another_process_stay(lmm, tasks):
    first, second = (PredictionCache(lmm, max_new_tokens=12, reuse=True) for _ in range(2))
    first.add(tasks[0].test[1:2], ["one"])
    second.add(tasks[0].test[2:3], ["other"])
    first.save()
    second.save()
    both = PredictionCache(lmm, max_new_tokens=12, reuse=True)
    assert [both[sample] for sample in tasks[0].test[1:3]] == ["one", "other"]


@pytest.mark.slow
def test_a_changed_byte_of_a_training_is_found(tmp_path, caplog):
    path = tmp_path / "trained.safetensors"
    weights = {"a": torch.arange(6.0), "b": torch.ones(2, 2)}
    log = [Step(step=1, steps=1, loss=0.25, learning_rate=1e-3, samples_per_second=9.0)]
    save_training(path, weights, log, 1.5)
    content = path.read_bytes()
    whole = load_training(path)
    assert whole is not None and whole[1]["log"] == [log[0].full()]
    for at in range(8, len(content), 3):
        path.write_bytes(content)
        flip(path, at)
        found = load_training(path)
        same = found and found[1] == whole[1] and all(torch.equal(found[0][name], weights[name]) for name in weights)
        assert found is None or same, f"byte {at}"
        assert found is not None or not path.exists()
    assert damage_count(caplog) > 20


def recipe(path):
    return IndexKey("evertune", 1, path, "train", {}, "{instruction}", allow_external_paths=False, files=(path,))


def rows():
    for number in range(5):
        fields = {"instruction": f"what is {number}?"}
        yield Row(f"r{number}", (f"{number}.png",), fields, (f"answer {number}",), origin=f"f:{number}")


@pytest.mark.slow
def test_a_changed_byte_of_an_index_is_found(tmp_path, caplog):
    source = tmp_path / "rows.jsonl"
    source.write_text("x")

    def read():
        made = indexed(recipe(source), rows)
        return [made[at] for at in range(len(made))], made.texts.tolist(), [made.name(n) for n in range(5)]

    whole, folder = read(), recipe(source).folder
    for name in ("rows.jsonl", "names.jsonl", "texts.npy", "places.npy", "sums.json"):
        for at in places(folder / name, 4):
            flip(folder / name, at)
            assert read() == whole, f"{name}, byte {at}"
    assert damage_count(caplog) == 25
    (folder / "sums.json").unlink()
    assert read() == whole and (folder / "sums.json").exists() and damage_count(caplog) == 26


def test_a_changed_byte_of_a_table_of_images_is_found(tmp_path, caplog):
    path, values = tmp_path / "seen.npy", np.zeros(3, RECORD)
    values["sha256"] = 7
    write_atomically(path, _content(values))
    assert (_loaded(path, (3,), RECORD) == values).all() and not damage_count(caplog)
    flip(path, 140)
    assert (_loaded(path, (3,), RECORD) == np.zeros(3, RECORD)).all() and damage_count(caplog) == 1
    np.save(path, values)
    assert (_loaded(path, (3,), RECORD) == np.zeros(3, RECORD)).all() and damage_count(caplog) == 2, (
        "it has no checksum"
    )


def test_a_file_that_was_replaced_has_another_digest_whatever_the_clock_says(tmp_path):
    """Size and time of change are the same; it is another file."""
    path, other = Path(tmp_path / "a"), tmp_path / "b"
    path.write_text("one")
    first = digest_of_file(path)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    other.write_text("two")
    import os

    os.utime(other, ns=times)
    other.replace(path)
    assert path.stat().st_mtime_ns == times[1] and digest_of_file(path) != first
