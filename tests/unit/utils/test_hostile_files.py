"""Files of a stranger: what is too deep, too large, a lie, or leads elsewhere is one clear line, and nothing more."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zipfile
from io import BytesIO

import pytest
import torch
import yaml
from archives import zipped
from safetensors.torch import save

from evertune.assets import Package, pypi
from evertune.data.images import open_image
from evertune.data.stream import stream_file
from evertune.experiments.grid.cells import cells_of, read_grid
from evertune.models.hub import refuse_unsafe
from evertune.models.weights import restore
from evertune.reporting.examples import thumbnail
from evertune.reporting.matrix import load_matrix
from evertune.runs.ledger import finished_cells, read_ledger
from evertune.training.eval_set import drop_task, is_kept, kept_task
from evertune.training.stages import Stage, load_stage, read_stage, save_stage, saved_stages, stage_folder
from evertune.utils.config_io import read_yaml
from evertune.utils.errors import DataError, RunFolderError, UserError
from evertune.utils.files import digest_of, digest_of_file, has_digest, read_json, read_text
from evertune.utils.parsing import DEEPEST, json_at, json_value
from evertune.utils.safe_names import below, is_name
from evertune.utils.safetensors_header import read_header

# JSON and YAML


def test_json_is_bounded_at_the_depth_that_is_said():
    deepest = "[" * DEEPEST + "]" * DEEPEST
    assert json_value(deepest) == json_at(f"  {deepest}", 2)[0] and json_value(deepest.encode())
    for text in (f"[{deepest}]", "[" * 100_000, '{"a":' * 300 + "1" + "}" * 300):
        with pytest.raises(ValueError, match=r"nested more than 64 deep"):
            json_value(text)
    assert len(json_value(json.dumps([[[1]]] * 1000))) == 1000, "many are not deep"
    with pytest.raises(ValueError, match="Exceeds the limit"):
        json_value("1" * 5000)


def test_json_of_a_run_folder(tmp_path):
    path = tmp_path / "m.json"
    path.write_text("[" * 1000 + "]" * 1000)
    with pytest.raises(
        RunFolderError, match=r"m.json is not valid JSON \(nested more than 64 deep\): the file is damaged"
    ):
        read_json(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RunFolderError, match=r"m.json can't be read: it is no regular file"):
        read_text(path)
    with pytest.raises(DataError, match=r"m.json can't be read: it is no regular file"):
        open_image(path, origin="here")
    assert thumbnail(path) is None
    with pytest.raises(UserError, match="m.json: its header would take"):
        read_header(path)


def test_a_sparse_file_is_not_hashed(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"x")
    sha256 = digest_of_file(path)
    assert has_digest(path, sha256, most=1) and not has_digest(path, "0" * 64, most=1)
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    assert not has_digest(path, sha256, most=1 << 30), "in hours it would be hashed"
    path.unlink()
    os.mkfifo(path)
    assert not has_digest(path, sha256, most=1 << 30)


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, r"s.yaml:6: not valid YAML \(more than 100,000 values, aliases counted each time\)"),
        ("a: &a [*a]", r"s.yaml:1: not valid YAML \(an alias inside of what it repeats\)"),
        ("[" * 500, r"s.yaml:1: not valid YAML \(nested more than 64 deep\)"),
        ("a: " + "x" * (1 << 20), r"characters; at most 1,048,576 are read"),
        ("a: 2001-99-99", r"a value that can't be read \(ValueError: month must be in 1..12\)"),
        ("a: " + "1" * 5000, r"a number of 5,000 characters"),
        ("!!python/object/apply:os.system [touch /tmp/no]", r"could not determine a constructor"),
        ("!!int x", r"a value that can't be read"),
        ("a: 1" + ":10" * 60_000, r"s.yaml:1: not valid YAML .a number of 180,001 characters; at most 100 are read"),
        ("a: !!float '" + "0:" * 60_000 + "0'", r"s.yaml:1: not valid YAML .a number of 120,001 characters"),
    ],
)
def test_yaml_is_bounded(tmp_path, text, says):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        read_yaml(tmp_path / "s.yaml")


MERSENNE = 2**61 - 1
"""Python's hash of a whole number is its rest by this one."""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["{%s}", "a: {<<: {%s}}"])
def test_keys_with_one_hash_are_refused(tmp_path, form):
    assert {hash(n * MERSENNE) for n in range(1, 100)} == {0}, "Python hashes otherwise now"
    text = form % ", ".join(f"{n * MERSENNE}: 1" for n in range(1, 10_000))
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=r"s.yaml:1: not valid YAML .a number of 19 characters as a key; at most 18"):
        read_yaml(tmp_path / "s.yaml")


def test_aliases_that_repeat_little_are_read(tmp_path):
    (tmp_path / "s.yaml").write_text("a: &a {b: [1, 2]}\nc: *a\nd: {<<: *a, e: 1}\n")
    assert read_yaml(tmp_path / "s.yaml")["d"] == {"b": [1, 2], "e": 1}


# Names


HOSTILE_NAMES = (
    "../../x",
    "/etc/passwd",
    "..\\x",
    "C:\\x",
    "a/b",
    "a\0b",
    "..",
    ".",
    "",
    "CON",
    "nul.txt",
    "x" * 201,
    "\ud800",
)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_that_lead_elsewhere(tmp_path, name):
    assert not is_name(name)
    stream = {"name": name, "tasks": [{"name": "a", "data": "d.jsonl"}]}
    for content in (stream, {"name": "s", "tasks": [{"name": name, "data": "d.jsonl"}]}):
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=r"s.yaml: .*(name|unacceptable|surrogate|can't be read)"):
            stream_file(str(tmp_path / "s.yaml"))
    with pytest.raises(RunFolderError, match="which can't be one"):
        kept_task(tmp_path, name)
    assert not is_kept(tmp_path, name)
    drop_task(tmp_path, name)


def test_plain_names_are_names():
    assert all(map(is_name, ("gqa", "a.b-c_d", "<img src=x>", "été", "x" * 200, "console", "com")))


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "C:\\x", "..\\x", "a\0", "", None, 3, "x" * 5000, "é" * 300, "\ud800"]
)
def test_files_that_a_run_folder_names(tmp_path, name):
    with pytest.raises(RunFolderError, match="which is not in it: it was changed or is damaged"):
        below(tmp_path, name)


def test_a_grid_that_would_be_endless(tmp_path):
    values = {f"ewc.o{n}": list(range(50)) for n in range(6)}
    grid = {"name": "g", "streams": ["pocket-b1"], "methods": ["ewc"], "vary": values}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(grid))
    with pytest.raises(UserError, match="at most 100,000 are made"):
        cells_of(read_grid(tmp_path / "g.yaml"), out=tmp_path)


# Safetensors


def written(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "body", "says"),
    [
        (b"{", b"", "its header is no JSON"),
        (b"[]", b"", "its header is no object"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", b"", "nested more than 64 deep"),
        ({"__metadata__": {"a": 1}}, b"", "the metadata in its header are no texts"),
        ({"a": {"dtype": "F32"}}, b"", "tensor 'a': dtype, shape and data_offsets are needed"),
        ({"a": entry(dtype="F31")}, bytes(8), "tensor 'a': dtype 'F31' is none that is known"),
        ({"a": entry(dtype=["F32"])}, bytes(8), "tensor 'a': dtype .* is none that is known"),
        ({"a": entry(shape=[-1])}, bytes(8), "tensor 'a': its shape is no list"),
        ({"a": entry(shape=[1] * 17)}, bytes(8), "tensor 'a': its shape is no list of at most 16"),
        ({"a": entry(offsets=[0, 8, 16])}, bytes(8), "tensor 'a': its offsets are no two"),
        (
            {"a": entry(shape=[2**40, 2**40])},
            bytes(8),
            "takes 4,835,703,278,458,516,698,824,704 bytes, its offsets say 8",
        ),
        ({"a": entry(offsets=[8, 0])}, bytes(8), "takes 8 bytes, its offsets say -8"),
        ({"a": entry(offsets=[8, 16])}, bytes(16), "tensor 'a' begins at byte 8, not 0: it leaves a gap before it"),
        ({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12), "tensor 'b' begins at byte 4, not 8: it overlaps"),
        ({"a": entry()}, bytes(7), "its tensors take 8 bytes, the file has 7 of them"),
        ({"a": entry()}, bytes(9), "its tensors take 8 bytes, the file has 9 of them"),
    ],
)
def test_headers_of_tensor_files(tmp_path, header, body, says):
    path = written(tmp_path / "t.safetensors", header, body)
    with pytest.raises(UserError, match=rf"t.safetensors: .*{says}"):
        read_header(path)


def test_lengths_of_headers(tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"")
    with pytest.raises(UserError, match="its header would take 0 bytes of 0"):
        read_header(path)
    path.write_bytes(b"\xff" * 8 + b"{}")
    with pytest.raises(UserError, match="its header would take 18,446,744,073,709,551,615 bytes of 10: it is cut off"):
        read_header(path)
    with path.open("wb") as file:  # sparse: nothing is read of it
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate((1 << 30) + 8)
    with pytest.raises(UserError, match="its header takes 1024 MiB; at most 64 are read"):
        read_header(path)
    with pytest.raises(UserError, match="can't be read: No such file"):
        read_header(tmp_path / "none")


def test_sound_headers_are_what_the_library_wrote(tmp_path):
    kinds = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex64, torch.float8_e4m3fn]
    tensors = {str(kind): torch.zeros(3, 2).to(kind) for kind in kinds} | {"": torch.zeros(()), "e": torch.zeros(0, 4)}
    (tmp_path / "t.safetensors").write_bytes(save(tensors, metadata={"k": "v"}))
    found = read_header(tmp_path / "t.safetensors")
    assert {name: one.shape for name, one in found.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    assert all(one.end - one.start == tensors[name].nbytes for name, one in found.items())


def test_tensors_of_another_shape_are_not_copied():
    target = {"a": torch.zeros(2, 3), "b": torch.zeros(2)}
    for saved, says in (
        ({"b": torch.ones(2), "a": torch.ones(3, 2)}, r"'a' have shape \(3, 2\), the model's have \(2, 3\)"),
        ({"b": torch.ones(2), "c": torch.ones(1)}, "no trained weights 'c'"),
        ({"a": torch.ones(2, 3, dtype=torch.int64)}, r"'a' are torch.int64, the model's are torch.float32"),
    ):
        with pytest.raises(RunFolderError, match=says):
            restore(target, saved)
    assert not target["b"].any(), "nothing is copied before all fit"


def test_model_folders(tmp_path):
    good = save({"a": torch.zeros(2)})
    (tmp_path / "model.safetensors").write_bytes(good)
    refuse_unsafe(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../x.safetensors"}}))
    with pytest.raises(UserError, match="'weight_map' must name files of this folder"):
        refuse_unsafe(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    with pytest.raises(UserError, match="holds a peft adapter"):
        refuse_unsafe(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "model.safetensors").write_bytes(good[:-1])
    with pytest.raises(UserError, match="model.safetensors: its tensors take 8 bytes, the file has 7"):
        refuse_unsafe(tmp_path)


# Run folders


@pytest.fixture
def run(tmp_path):
    """Two stages, sealed as a stranger would seal them."""
    for number, task in enumerate(("a", "b"), start=1):
        stage = Stage(number, task, 1, 1, 0.5, False, 8, 2, "")
        save_stage(
            tmp_path / "run",
            stage,
            trainable={"w": torch.ones(2)},
            start={},
            state={"m": {"t": torch.ones(2), "n": 1}},
            log=[],
        )
    return tmp_path / "run"


def change(path, **values):
    content = {key: value for key, value in json.loads(path.read_text()).items() if key != "seal"}
    content |= values
    path.write_text(json.dumps({**content, "seal": digest_of(content)}))


@pytest.mark.parametrize("task", ["../../victim", "a/../../victim", "x", "/victim", "a\0"])
def test_a_stage_whose_task_leads_elsewhere_is_not_taken_back(run, task):
    victim = run.parent / "victim"
    victim.mkdir()
    (victim / "done.json").write_text("{}")
    change(run / "stages" / "01-a" / "done.json", task=task)
    with pytest.raises(
        RunFolderError, match=r"01-a/done.json is of stage 1, .* and not of this folder. Run evertune doctor"
    ):
        saved_stages(run)
    assert (victim / "done.json").exists()


@pytest.mark.parametrize(("key", "value"), [("number", "1"), ("samples", None), ("task", ["a"]), ("seconds", "x")])
def test_facts_of_another_kind(run, key, value):
    change(run / "stages" / "01-a" / "done.json", **{key: value})
    with pytest.raises(RunFolderError, match=f"'{key}' is"):
        read_stage(run / "stages" / "01-a")


@pytest.mark.parametrize(
    "places", [{"m/t": {"stage": "../../x", "sha256": ""}}, {"m/t": {"stage": 3, "sha256": ""}}, {"m/t": 1}, [1], "x"]
)
def test_tensors_of_other_stages_are_looked_for_in_stages_only(run, places):
    folder = stage_folder(run, 2, "b")
    content = save({}, metadata={"state": json.dumps({"m": {"t": {"$tensor": "m/t"}}, "$places": places})})
    (folder / "method.safetensors").write_bytes(content)
    from hashlib import sha256

    sums = json.loads((folder / "done.json").read_text())["sha256"]
    change(folder / "done.json", sha256={**sums, "method.safetensors": sha256(content).hexdigest()})
    with pytest.raises(RunFolderError, match=r"method.safetensors (names the stage|is damaged: its notes)"):
        load_stage(run, read_stage(folder))


CELL = {"stage": 0, "task": "a", "score": 1.0, "relaxed": 1.0, "answers": "answers/00/a.jsonl"}


def ledger(run, *rows):
    run.mkdir(exist_ok=True)
    (run / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_ledger_that_names_files_elsewhere(tmp_path):
    ledger(
        tmp_path / "run", {"event": "cell", "cell": {**CELL, "answers": "../../etc/passwd"}, "sha256": "", "seconds": 1}
    )
    with pytest.raises(RunFolderError, match="names the file '../../etc/passwd', which is not in it"):
        finished_cells(tmp_path / "run")


@pytest.mark.parametrize(
    "row", [1, [], {}, {"event": 1}, {"event": "rollback", "to": "x"}, {"event": "cell"}, {"event": "cell", "cell": []},
            {"event": "cell", "cell": {**CELL, "score": float("nan")}, "sha256": "", "seconds": 1},
            {"event": "cell", "cell": {**CELL, "score": 10**400}, "sha256": "", "seconds": 1},
            {"event": "stage", "stage": True}]
)  # fmt: skip
def test_lines_of_a_ledger_that_lack_something(tmp_path, row):
    ledger(tmp_path, {"event": "other"}, row, {"event": "other"})
    with pytest.raises(RunFolderError, match=r"ledger.jsonl:2 is damaged"):
        read_ledger(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tasks": [1, 2]}, "'tasks' must be names"),
        ({"tasks": ["a", "a"]}, "names one of them twice"),
        ({"R": [[float("nan"), 1]]}, "not a finite number"),
        ({"R": [[10**400, 1]]}, "not a finite number"),
        ({"cells": [{"stage": "0", "task": "a"}]}, "'cells', 1: 'stage' is '0'"),
        ({"cells": [{"stage": 0, "task": "a", "experts": {"x": -1}}]}, "'experts' is"),
        ({"metrics": {"a": "b"}}, "'metrics' must be numbers"),
        ({"cost": {"train_seconds": -1}}, "'cost' must be numbers"),
        ({"settings": 3}, "'settings' must be an object"),
        ({"seed": True}, "'seed' is missing or not of type int"),
    ],
)
def test_matrices_that_hold_something_else(tmp_path, change, says):
    matrix = {"format": 2, "model": "m", "stream": "s", "method": "x", "seed": 0, "tasks": ["a", "b"], "stages": ["a"]}
    (tmp_path / "matrix.json").write_text(json.dumps({**matrix, "R": [[1.0, 2.0]], **change}))
    with pytest.raises(RunFolderError, match=f"matrix.json is not the matrix of a run: .*{says}"):
        load_matrix(tmp_path)


def test_kept_images_are_those_of_the_folder(tmp_path):
    row = {"id": "1", "image": "../../../secret.png", "instruction": "q", "answers": ["a"]}
    content = {"name": "t", "score": "exact", "about": {}, "train": [row], "test": [row]}
    (tmp_path / "eval_set").mkdir()
    (tmp_path / "eval_set" / "t.json").write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match="names the file '../../../secret.png', which is not in it"):
        kept_task(tmp_path, "t")
    (tmp_path / "eval_set" / "t.json").write_text(json.dumps({**content, "name": "../x"}))
    with pytest.raises(RunFolderError, match=r"t.json is damaged: it is of the task '../x'"):
        kept_task(tmp_path, "t")


def test_images_of_answers_are_opened_under_the_same_limits(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    assert thumbnail(path) is None, "PostScript would be run by an interpreter"


# Archives


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))

    def unpack(content):
        (tmp_path / "a").write_bytes(content)
        package = Package("toy", "1.0", "", 0, "toy/", "MIT", "")
        package.folder.mkdir(parents=True, exist_ok=True)
        pypi.unpack(package, tmp_path / "a", package.folder)
        return package.folder

    return unpack


def test_a_file_that_stands_twice(unpacked):
    held = BytesIO()
    with zipfile.ZipFile(held, "w") as made, pytest.warns(UserWarning):
        for text in ("one", "two"):
            made.writestr("toy/a.svg", text)
    with pytest.raises(UserError, match=r"holds the file toy/a.svg twice; nothing of it is used"):
        unpacked(held.getvalue())


@pytest.mark.slow
def test_what_lies_about_its_size_or_method(unpacked):
    """A zip whose index announces little and whose member unpacks to much; one encrypted; one of another method."""
    held = BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("toy/a.svg", bytes(50 << 20))
    bomb = held.getvalue()
    at = bomb.rindex(b"PK\x01\x02")
    small = bomb[: at + 24] + struct.pack("<I", 10) + bomb[at + 28 :]
    try:
        folder = unpacked(small)
        assert (folder / "toy" / "a.svg").stat().st_size <= 10, "at most what was announced is written"
    except UserError as problem:
        assert "not a sound wheel" in str(problem)
    plain = zipped({"toy/a.svg": b"x"})
    at = plain.rindex(b"PK\x01\x02")
    for offset, value in ((8, 1), (10, 77)):  # flags: encrypted; method: none that is known
        changed = plain[: at + offset] + struct.pack("<H", value) + plain[at + offset + 2 :]
        with pytest.raises(UserError, match="not a sound wheel"):
            unpacked(changed)


def test_too_many_files(unpacked, monkeypatch):
    monkeypatch.setattr(pypi, "MOST_FILES", 2)
    with pytest.raises(UserError, match="or 2 files; nothing of it is used"):
        unpacked(zipped({f"toy/{n}.svg": b"" for n in range(3)}))


def test_a_name_that_no_disk_takes(unpacked, tmp_path):
    with pytest.raises(UserError, match="cannot write .* File name too long"):
        unpacked(zipped({f"toy/{'x' * 300}.svg": b"x"}))
    shutil.rmtree(tmp_path / "cache")
