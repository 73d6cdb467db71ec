"""Finished runs of several models and methods."""

from __future__ import annotations

import pytest

from evertune import run


@pytest.fixture(scope="module")
def finished(toy_stream, mini_blip, tiny_blip, tiny_chat, tmp_path_factory):
    """The folder of a finished run; each is made once."""
    models = {
        "blip": lambda: mini_blip,
        "t5": lambda: tiny_blip("instructblip", "t5"),
        "random": lambda: "random",
        "llava": lambda: tiny_chat("llava"),
        "gemma3": lambda: tiny_chat("gemma3"),
        "qwen2_5_vl": lambda: tiny_chat("qwen2_5_vl"),
    }
    place, made = tmp_path_factory.mktemp("runs"), {}

    def of(model, method="sequential", *settings):
        key = "-".join([model, method, *settings])
        if key not in made:
            rates = ["train.learning_rate=0.01", "train.epochs=2", "dtype=float32"]
            run(
                str(toy_stream),
                model=str(models[model]()),
                methods=method,
                out=place / key,
                settings=[*rates, *settings],
                progress=False,
            )
            made[key] = place / key
        return made[key]

    return of
