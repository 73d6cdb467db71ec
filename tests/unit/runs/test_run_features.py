"""A run and where its vision features are kept: the same run, also in its middle, and one line about the choice."""

from __future__ import annotations

import pytest

import evertune
from evertune.runs.callback import Callback
from evertune.utils.files import digest_of_file

HOW = ("deterministic=true", "train.epochs=1", "train.batch_size=3", "evaluation.max_new_tokens=4")


class Choices(Callback):
    """Collects what a run prints about features."""

    def __init__(self):
        self.lines = []

    def on_features_settled(self, choice):
        self.lines.append(choice)


def files(folder):
    """The predictions and the weights of a run."""
    paths = sorted([*folder.rglob("answers/*/*.jsonl"), *folder.rglob("stages/*/*.safetensors")])
    assert len(paths) > 12
    return {str(path.relative_to(folder)): digest_of_file(path) for path in paths}


@pytest.mark.slow
def test_the_numbers_are_the_same_wherever_features_are_kept(toy_stream, tmp_path, monkeypatch):
    made = {}
    for keep in ("disk", "memory", "off"):
        monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / f"cache-{keep}"))
        out = tmp_path / keep
        settings = [*HOW, f"features={keep}"]
        evertune.run(str(toy_stream), model="random", methods="replay+eproj", out=out, settings=settings)
        made[keep] = files(out)
        assert any((tmp_path / f"cache-{keep}").rglob("features/*/*.safetensors")) == (keep == "disk")
    assert made["memory"] == made["disk"] and made["off"] == made["disk"]


@pytest.mark.slow
def test_a_run_says_how_many_images_it_has_encoded(toy_stream, tmp_path, monkeypatch):
    """Nothing was shown while the images of a task were encoded, hours of a large one."""
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("evertune.models.features.ENCODE_BATCH", 3)
    seen = []

    class Encoded(Callback):
        def on_task_begin(self, number, task):
            seen.append(task.name)

        def on_evaluate_begin(self, stage, task):
            seen.append(f"{stage}/{task.name}")

        def on_encode(self, done, total):
            seen.append((done, total))

    how = {"model": "random", "settings": [*HOW, "features=disk"], "progress": False}
    evertune.run(str(toy_stream), **how, out=tmp_path / "run", callbacks=[Encoded()])
    trained = seen[seen.index("task-0") :]
    counts = trained[1 : next(n for n, each in enumerate(trained) if n and isinstance(each, str))]
    assert len(counts) > 1 and counts == sorted(counts) and {total for _, total in counts} == {counts[-1][0]}, counts
    seen.clear()
    evertune.run(str(toy_stream), **how, out=tmp_path / "again", callbacks=[Encoded()])
    assert "task-0" in seen and not [each for each in seen if isinstance(each, tuple)], "all were in the cache"


@pytest.mark.slow
def test_another_setting_continues_the_run(toy_stream, tmp_path):
    """After its first stage, in the same folder."""
    from evertune.data import load_stream
    from evertune.runs.api import configure, run_config

    config = configure(str(toy_stream), model="random", out=str(tmp_path), settings=[*HOW, "features=memory"])

    class Stopping(Choices):
        def on_task_end(self, stage):
            raise KeyboardInterrupt

    seen = Stopping()
    with pytest.raises(KeyboardInterrupt):
        run_config(config, callback=seen)
    later = Choices()
    other = configure(str(toy_stream), model="random", out=str(tmp_path), settings=[*HOW, "features=off"])
    result = run_config(other, callback=later)
    assert len(result.runs["sequential"].matrix.R) == 1 + len(load_stream(str(toy_stream)).tasks)
    assert seen.lines[0].startswith("features=memory (") and later.lines[0].startswith("features=off (")
