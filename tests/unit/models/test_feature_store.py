"""The same features wherever they are kept; a budget; and disks and data workers that fail, which end no run."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from evertune.data.images import read_image
from evertune.data.task import Sample
from evertune.methods import make_methods
from evertune.models import feature_encoder, feature_shards, features
from evertune.models.feature_policy import FeaturePolicy
from evertune.models.features import FeatureStore
from evertune.models.weights import copy_of
from evertune.training.loop import Training, train
from evertune.utils import files
from evertune.utils.device import as_before, settle
from evertune.utils.errors import DataError

KEPT = ("disk", "memory", "off")


@pytest.fixture
def deterministic():
    with as_before():
        settle(deterministic=True)
        yield


@pytest.fixture
def samples(tmp_path):
    """Makes samples with an image each, of different sizes."""

    def made(count, *, first=0):
        found = []
        for number in range(first, first + count):
            path = tmp_path / f"{number}.png"
            image = Image.linear_gradient("L").resize((40 + number % 7, 30 + number % 5)).convert("RGB")
            image.putpixel((number % 30, number // 30 % 30), (number % 256, 0, number // 256))
            image.save(path)
            found.append(Sample(str(number), (path,), f"what is {number}?", ("red",), origin=f"rows:{number + 1}"))
        return found

    return made


@pytest.fixture
def store(lmm, tmp_path):
    """Makes stores over one folder."""

    def made(keep="disk", **settings):
        return FeatureStore(lmm, folder=tmp_path / "features", policy=FeaturePolicy(keep, **settings))

    return made


def shards(tmp_path):
    return sorted((tmp_path / "features").rglob("*.safetensors"), key=lambda path: path.stat().st_mtime)


def notes(caplog):
    return [record.message for record in caplog.records if "are not kept any more" in record.message]


def trained(new_lmm, samples, *, keep, folder, **settings):
    """The weights after a short training, and the log."""
    lmm = new_lmm(dropout=True)
    store = FeatureStore(lmm, folder=folder / keep, policy=FeaturePolicy(keep, **settings))
    store.ensure(samples)
    training = Training(batch_size=3, gradient_accumulation_steps=2, epochs=2)
    log = train(lmm, make_methods("sequential"), samples, store, training=training, seed=3)
    return copy_of(lmm.trainable()), [step.as_dict() for step in log]


def test_deterministic_trainings_are_bit_identical_wherever_features_are_kept(
    deterministic, new_lmm, samples, tmp_path
):
    del deterministic
    some = samples(10)
    weights, log = trained(new_lmm, some, keep="disk", folder=tmp_path)
    for keep, workers in (("memory", None), ("off", None), ("off", 2)):
        others, same = trained(new_lmm, some, keep=keep, folder=tmp_path, workers=workers)
        assert same == log, keep
        assert all(torch.equal(others[name], weights[name]) for name in weights), keep


def test_other_trainings_agree_within_rounding(new_lmm, samples, tmp_path):
    some = samples(10)
    _, log = trained(new_lmm, some, keep="disk", folder=tmp_path)
    for keep in ("memory", "off"):
        _, other = trained(new_lmm, some, keep=keep, folder=tmp_path)
        assert [step["loss"] for step in other] == pytest.approx([step["loss"] for step in log], rel=1e-3)


@pytest.mark.parametrize("keep", KEPT)
@pytest.mark.parametrize("workers", [None, 2])
def test_features_are_those_of_the_model(keep, workers, store, lmm, samples):
    some = samples(20)
    some[3] = Sample("none", (), "what?", ("red",), origin="rows:4") if 0 in lmm.images_per_sample else some[3]
    made = store(keep, workers=workers)
    made.ensure(some)
    images = [Image.open(path).convert("RGB") for sample in some for path in sample.images]
    expected = torch.stack(list(lmm.encode(images)))
    batches = [some[at : at + 6] for at in range(0, 20, 6)]
    with made.ahead(batches):
        found = torch.cat([made.get(batch) for batch in batches])
    assert torch.allclose(found.float(), expected.float(), atol=2e-3, rtol=2e-3)
    assert torch.equal(made.get(some[:1]), made.get(some[:1]))
    assert found.requires_grad is False and not found.is_inference()


def test_batches_that_come_in_another_order_are_encoded_too(store, samples):
    some = samples(12)
    made = store("off")
    expected = made.get(some)
    with made.ahead([some[:4], some[4:8], some[8:]]):
        found = [made.get(some[4:8]), made.get(some[:2]), made.get(some[:4]), made.get(some[4:8]), made.get(some[8:])]
    assert torch.allclose(torch.cat(found[2:]).float(), expected.float(), atol=2e-3)
    assert torch.allclose(found[0].float(), expected[4:8].float(), atol=2e-3)


@pytest.mark.parametrize("keep", KEPT)
def test_images_that_are_in_memory_only_are_not_looked_for_on_disk(keep, store, samples):
    """A server answers about images of requests; batches that are prepared ahead opened the files of these."""
    read = [read_image(sample.images[0], origin="here") for sample in samples(4)]
    some = [Sample(sha, (Path("(request)"),), "what?", (), known_digests=(sha,)) for _, sha in read]
    made = store(keep)
    expected = made._encoder.encode_images({sha: image for image, sha in read})
    with made.held({sha: image for image, sha in read}), made.ahead([some[:2], some[2:]]):
        found = torch.cat([made.get(some[:2]), made.get(some[2:])])
    assert torch.equal(found, torch.stack([expected[sha] for _, sha in read]))


def test_nothing_is_written_where_nothing_is_kept(store, samples, tmp_path):
    for keep in ("off", "memory"):
        made = store(keep)
        made.ensure(samples(5))
        made.get(samples(5))
        assert not shards(tmp_path)


def test_memory_encodes_an_image_once(store, lmm, samples, monkeypatch):
    some = samples(5)
    made = store("memory")
    made.ensure(some)
    monkeypatch.setattr(lmm, "encode_prepared", None)
    assert len(made.get(some)) == 5


def test_the_least_recently_used_shards_go_first(store, samples, tmp_path, monkeypatch, caplog):
    """Three shards fit. The first is used again, so the second has to go for the fourth."""
    monkeypatch.setattr(features, "SHARD", 1)
    first = store()
    groups = [samples(2, first=2 * number) for number in range(4)]
    first.ensure(groups[0])
    size = sum(path.stat().st_size for path in shards(tmp_path))
    made = store(budget=3 * size + size // 2)
    for number in (1, 2, 0, 3):
        time.sleep(0.02)
        made.ensure(groups[number])
    fresh = store()
    assert [group[0] in fresh for group in groups] == [True, False, True, True]
    assert not notes(caplog)
    assert len(made.get(groups[1])) == 2, "what another process has removed is encoded again"


def test_shards_of_other_models_count_and_go(store, samples, tmp_path):
    store().ensure(samples(2))
    (path,) = shards(tmp_path)
    other = tmp_path / "features" / "other" / path.name
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    os.utime(other, (1, 1))
    store(budget=2 * path.stat().st_size + 100).ensure(samples(2, first=2))
    assert not other.exists() and len(shards(tmp_path)) == 2


@pytest.mark.parametrize("keep", ["disk", "memory"])
def test_a_budget_below_one_shard(keep, store, samples, tmp_path, caplog):
    some = samples(6)
    expected = store("off").get(some)
    made = store(keep, budget=10)
    made.ensure(some)
    made.ensure(some)
    assert torch.allclose(made.get(some).float(), expected.float(), atol=2e-3)
    assert not shards(tmp_path)
    (note,) = notes(caplog)
    assert "features.budget is 10 bytes" in note and "The run continues" in note


def test_a_full_budget_is_said_once_and_what_is_used_stays(store, samples, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(features, "SHARD", 1)
    monkeypatch.setattr(features, "ENCODE_BATCH", 2)
    some = samples(8)
    store().ensure(some[:2])
    size = shards(tmp_path)[0].stat().st_size
    made = store(budget=2 * size + size // 2)
    made.ensure(some)
    assert len(shards(tmp_path)) == 2 and len(notes(caplog)) == 1 and "all of it is in use" in notes(caplog)[0]
    assert len(made.get(some)) == 8


FAULTS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "not ours": errno.EACCES, "broken": errno.EIO}


@pytest.mark.parametrize("code", FAULTS.values(), ids=FAULTS)
def test_a_disk_that_takes_nothing_ends_no_run(code, store, samples, tmp_path, monkeypatch, caplog):
    some = samples(4)
    expected = store("off").get(some)

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "replace", refuse)
    made = store()
    made.ensure(some)
    assert torch.allclose(made.get(some).float(), expected.float(), atol=2e-3)
    assert not shards(tmp_path) and not list((tmp_path / "features").rglob(".*-*"))
    (note,) = notes(caplog)
    assert os.strerror(code) in note


def test_a_cache_that_is_a_file_ends_no_run(lmm, samples, tmp_path, caplog):
    (tmp_path / "taken").write_text("")
    made = FeatureStore(lmm, folder=tmp_path / "taken", policy=FeaturePolicy("disk"))
    made.ensure(samples(2))
    assert len(made.get(samples(2))) == 2 and len(notes(caplog)) == 1


def test_the_disk_keeps_room_for_the_run(store, samples, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(feature_shards, "RESERVE", 1 << 60)
    store().ensure(samples(3))
    assert not shards(tmp_path) and "stay free for the run" in notes(caplog)[0]


def test_a_shard_that_is_removed_in_use_is_made_again(store, samples, tmp_path):
    some = samples(4)
    made = store()
    made.ensure(some)
    expected = made.get(some)
    for path in shards(tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    feature_shards.reader.cache_clear()
    assert torch.allclose(made.get(some).float(), expected.float(), atol=2e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_was_changed_is_named(workers, store, samples):
    some = samples(140)
    Image.new("RGB", (9, 9)).save(some[135].images[0])
    some = [
        Sample(s.id, s.images, s.instruction, s.answers, s.origin, known_digests=("0" * 64,)) if n == 135 else s
        for n, s in enumerate(some)
    ]
    with pytest.raises(DataError, match=r"rows:136: the image .*135.png was changed"):
        store(workers=workers).ensure(some)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_data_worker_that_dies_ends_no_run_and_its_images_are_named(how, store, samples, monkeypatch, caplog):
    some, main = samples(200), os.getpid()
    expected = store("off").get(some[:70])
    whole = feature_encoder.prepare

    def deadly(lmm, source):
        if os.getpid() != main and source.path.name == "133.png":
            os.kill(os.getpid(), how)
        return whole(lmm, source)

    monkeypatch.setattr(feature_encoder, "prepare", deadly)
    made = store(workers=2)
    made.ensure(some)
    assert all(sample in made for sample in some)
    assert torch.allclose(made.get(some[:70]).float(), expected.float(), atol=2e-3)
    (note,) = [record.message for record in caplog.records if "a data worker has ended" in record.message]
    assert "133.png" in note and "features.workers=0" in note


def test_the_number_of_data_workers_is_measured(store, monkeypatch):
    encoder = store()._encoder
    assert encoder._worker_count(9.0) == 0, "nothing is measured yet"
    encoder.prepare_seconds, encoder.encode_seconds = 3.0, 2.0
    monkeypatch.setattr(feature_encoder, "cores_of_process", lambda: 8)
    assert (encoder._worker_count(0.1), encoder._worker_count(1.0)) == (0, 2)
    monkeypatch.setattr(feature_encoder, "cores_of_process", lambda: 1)
    assert encoder._worker_count(1.0) == 1


def test_several_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert feature_encoder.cores_of_process() == 2


def test_processes_divide_what_is_missing(store, samples, monkeypatch):
    """Five groups of two, of which nothing is encoded twice; an image that two samples share is in one group."""
    monkeypatch.setattr(features, "ENCODE_BATCH", 2)
    some = samples(10)
    some += [Sample("again", some[0].images, "and this?", ("blue",), origin="rows:11")]
    shares = []
    for rank in range(2):
        monkeypatch.setattr(features.distributed, "world_size", lambda: 2)
        monkeypatch.setattr(features.distributed, "rank", lambda rank=rank: rank)
        shares.append([group.sources for group in store()._missing_groups(some, None, is_shared=True)])
    assert [len(share) for share in shares] == [3, 2]
    names = [source.path.stem for share in shares for sources in share for source in sources]
    assert sorted(names, key=int) == [str(number) for number in range(10)]
