"""Shared fixtures: an empty cache per test session, the model `random`, and three toy tasks.

Fixtures import what they need: with `-n`, the process that hands out the tests then starts without torch.
"""

from __future__ import annotations

import copy
import functools
import json
import os
from pathlib import Path

# What `dtype=auto` takes in tests, whatever the processor is good at; CI runs the suite with bfloat16 too.
os.environ.setdefault("EVERTUNE_AUTO_DTYPE", "float32")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import suite
import yaml
from hypothesis import settings

os.fsync = lambda file: None  # tests kill programs, never the machine: what was written is there without the wait

settings.register_profile("evertune", deadline=None)  # time says nothing on a machine that does other work
settings.load_profile("evertune")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by the marks
def pytest_collection_modifyitems(items):
    """Marks that follow from a test's name, parameters and fixtures; see suite.py."""
    for item in items:
        path, _, name = item.nodeid.partition("::")
        function, _, parameters = name.partition("[")
        for mark in suite.marks_of(path, function, parameters[:-1], getattr(item, "fixturenames", ())):
            item.add_marker(mark)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tests neither read nor fill the user's cache. The workers of a session fetch a package once."""
    before = os.environ.get("EVERTUNE_CACHE")
    cache = tmp_path_factory.mktemp("cache")
    if "PYTEST_XDIST_WORKER" in os.environ:
        packages = tmp_path_factory.getbasetemp().parent / "packages"
        packages.mkdir(exist_ok=True)
        (cache / "packages").symlink_to(packages)
    os.environ["EVERTUNE_CACHE"] = str(cache)
    yield
    os.environ.pop("EVERTUNE_CACHE")
    if before:
        os.environ["EVERTUNE_CACHE"] = before


@functools.cache
def _loaded(seed):
    import torch

    from evertune.models import load_lmm

    return load_lmm("random", seed=seed, dtype="float32", device=torch.device("cpu"))


def model_random(*, seed=1):
    """The model `random` in float32 on the CPU: a copy, which takes a third of the time of loading it."""
    return copy.deepcopy(_loaded(seed))


@pytest.fixture
def lmm():
    return model_random()


def dropping(lmm):
    """The model with dropout in its low-rank matrices: what is random in training shows."""
    import torch

    for module in lmm.module().modules():
        if isinstance(getattr(module, "lora_dropout", None), torch.nn.ModuleDict):
            module.lora_dropout["default"] = torch.nn.Dropout(0.5)
    return lmm


@pytest.fixture
def new_lmm():
    """Makes the model `random`, with dropout where wanted."""

    def made(*, dropout=False, seed=1):
        lmm = model_random(seed=seed)
        return dropping(lmm) if dropout else lmm

    return made


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    from evertune.training.method_contract import toy_tasks

    return toy_tasks(Path(tmp_path_factory.mktemp("toy")))


@pytest.fixture(scope="session")
def toy_stream(tasks, tmp_path_factory):
    """The toy tasks as a stream on disk: for what reads a YAML."""
    folder = Path(tmp_path_factory.mktemp("stream"))
    entries = []
    for task in tasks:
        for side, samples in (("train", task.train), ("test", task.test)):
            rows = [{"image": s.images[0].name, "instruction": s.instruction, "answer": s.answers[0]} for s in samples]
            (folder / f"{task.name}-{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sides = {side: f"{task.name}-{side}.jsonl" for side in ("train", "test")}
        entries.append({"name": task.name, "images": str(task.train[0].images[0].parent), **sides})
    (folder / "toy.yaml").write_text(yaml.safe_dump({"name": "toy", "tasks": entries}))
    return folder / "toy.yaml"


@pytest.fixture(scope="session")
def taught(toy_stream, tmp_path_factory):
    """Folder of two runs over the toy tasks, `eproj` and `sequential`; not to be changed."""
    import evertune

    place = tmp_path_factory.mktemp("taught")
    settings = ["train.learning_rate=0.01", "train.epochs=8"]
    evertune.run(str(toy_stream), model="random", methods="eproj,sequential", out=place, settings=settings)
    return place


@pytest.fixture
def store_of():
    """Makes a store that has seen all samples of some tasks."""
    from evertune.models.features import FeatureStore

    def made(lmm, tasks):
        store = FeatureStore(lmm)
        for task in tasks:
            store.ensure(task.train + task.test)
        return store

    return made


@pytest.fixture
def features(lmm, tasks, store_of):
    return store_of(lmm, tasks)


@pytest.fixture
def context(lmm, features):
    from evertune.methods.base import Context
    from evertune.models.weights import copy_of

    return Context(lmm=lmm, features=features, seed=0, start=copy_of(lmm.trainable()))


@pytest.fixture
def set_up(context):
    """Methods of a spec, set up."""
    from evertune.methods import make_methods

    def make(spec, options=None):
        methods = make_methods(spec, options)
        for method in methods:
            method.setup(context)
        return methods

    return make


@pytest.fixture
def jolt(lmm):
    """Move every trained parameter a little, as learning would; the same way for the same seed."""
    import torch

    def move(amount, seed):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in lmm.trainable().values():
                parameter.add_(amount * torch.randn(parameter.shape, generator=generator))

    return move


@pytest.fixture(scope="session")
def mini_blip(tmp_path_factory):
    """A checkpoint folder of the family InstructBLIP, with random weights."""
    import torch
    from pretraining.parts import make_model, make_processor, make_tokenizer, save_checkpoint

    folder = tmp_path_factory.mktemp("blip") / "mini"
    tokenizer = make_tokenizer(documents=200)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = make_model(tokenizer, **sizes)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # large enough that images and words make a difference to what is said
        if parameter.ndim > 1:
            parameter.data.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    save_checkpoint(model, make_processor(tokenizer), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_blip(tmp_path_factory):
    """Checkpoint folders of BLIP-2 and InstructBLIP in miniature with an LM of a kind; each is written once."""
    from tiny_blip import write_blip

    place = tmp_path_factory.mktemp("blips")

    def folder(family, lm):
        at = place / f"{family}-{lm}"
        return at if at.exists() else write_blip(family, lm, at)

    return folder


@pytest.fixture(scope="session")
def tiny_chat(tmp_path_factory):
    """Checkpoint folders of chat LMMs in miniature, by model type; each is written once."""
    from tiny_chat import write_tiny

    place = tmp_path_factory.mktemp("chat")

    def folder(name):
        return place / name if (place / name).exists() else write_tiny(name, place / name)

    return folder
