"""Readers of what evertune writes itself, when somebody else has changed it: tensors, stages, whole run folders, pages.

An input is one file of a run folder. The stranger seals what he sends: half of the inputs get checksums that are right.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from fuzzing.inputs import Seed
from fuzzing.readers import Reader, World, file_reader, headed, used_up

SEALED = b"sealed "
TEXTS = {".json": "json", ".jsonl": "lines", ".yaml": "yaml"}
LARGEST = 20_000  # bytes of a seed: images and large weights say nothing more


def _tensors(world: World) -> list[Reader]:
    from evertune.training.stages import read_tensors
    from evertune.utils.safetensors_header import read_header

    def header(path: Path) -> None:
        read_header(path)

    def everything(path: Path) -> None:
        read_tensors(path)

    small = _tensor_file({"a": ("F32", [2, 3]), "b": ("I64", [1]), "c": ("BF16", [])})
    empty = (2).to_bytes(8, "little") + b"{}"
    heads = [_Header.of(small), _Header.of(empty)]
    whole = [Seed(path.read_bytes()) for path in world.run.glob("stages/*/method.safetensors")]
    return [
        Reader(
            "safetensors header",
            [Seed(small), Seed(empty), *(Seed(h, "json", b"H\n") for h in heads)],
            _with_length(header),
            150_000,
        ),
        Reader(
            "safetensors",
            [Seed(small), *(seed for seed in whole if len(seed.content) < LARGEST)],
            file_reader("t.safetensors", everything),
            70_000,
        ),
    ]


class _Header:
    @staticmethod
    def of(content: bytes) -> bytes:
        """The JSON of a file's header."""
        return content[8 : 8 + int.from_bytes(content[:8], "little")]


def _with_length(read: Callable[[Path], None]) -> Callable[[bytes, Path], None]:
    """Changed headers get a length that is right, and as many bytes as they say, as far as that is small."""

    def run(content: bytes, place: Path) -> None:
        if content.startswith(b"H\n"):
            head = content[2:]
            try:
                size = max(entry["data_offsets"][1] for entry in json.loads(head).values())
                body = bytes(min(size, 1 << 12))
            except Exception:
                body = b""
            content = len(head).to_bytes(8, "little") + head + body
        path = place / "t.safetensors"
        path.write_bytes(content)
        read(path)

    return run


def _tensor_file(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    sizes, at, head = {"F32": 4, "I64": 8, "BF16": 2}, 0, {}
    for name, (dtype, shape) in tensors.items():
        count = sizes[dtype]
        for side in shape:
            count *= side
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + count]}
        at += count
    text = json.dumps({**head, "__metadata__": {"state": "{}"}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(at)


def _files(run: Path, *patterns: str) -> list[Path]:
    found = [path for pattern in patterns for path in sorted(run.glob(pattern)) if path.is_file()]
    return [path for path in found if path.stat().st_size < LARGEST]


def _seeds(run: Path, *patterns: str) -> list[Seed]:
    found = []
    for path in _files(run, *patterns):
        name = str(path.relative_to(run)).encode()
        kind = TEXTS.get(path.suffix, "bytes")
        content = path.read_bytes()
        found.append(Seed(content, kind, name + b"\n"))
        if name.startswith((b"stages/", b"answers/")):
            found.append(Seed(content, kind, SEALED + name + b"\n"))
    return found


def _parts(world: World) -> list[Reader]:
    from evertune.metrics.rules import rule_of
    from evertune.reporting.examples import marks_of
    from evertune.reporting.matrix import load_matrix
    from evertune.reporting.tables import compare, metrics_with_references, notes_of
    from evertune.runs.api import config_of
    from evertune.runs.ledger import finished_cells, read_ledger
    from evertune.runs.tracking.jsonl import read_points
    from evertune.training.eval_set import kept_task
    from evertune.training.evaluator import read_answers
    from evertune.training.stages import load_stage, saved_stages

    def stages(run: Path) -> None:
        for stage in saved_stages(run):
            load_stage(run, stage)

    def matrix(run: Path) -> None:
        loaded = load_matrix(run)
        notes_of(compare([loaded]))
        metrics_with_references(loaded, [loaded])

    def ledger(run: Path) -> None:
        read_ledger(run)
        finished_cells(run)

    def answers(run: Path) -> None:
        for path in run.glob("answers/*/*.jsonl"):
            marks_of(read_answers(path), rule_of("exact"))

    def kept(run: Path) -> None:
        for path in sorted(run.glob("eval_set/*.json")):
            kept_task(run, path.stem)

    def points(run: Path) -> None:
        used_up(iter(read_points(run / "metrics.jsonl")))

    reads = {
        "stages": (stages, ("stages/*/*.json", "stages/*/*.jsonl", "stages/*/method.safetensors"), 8_000),
        "matrix.json": (matrix, ("matrix.json",), 25_000),
        "ledger": (ledger, ("ledger.jsonl",), 50_000),
        "answers": (answers, ("answers/*/*.jsonl",), 20_000),
        "kept tasks": (kept, ("eval_set/*.json",), 40_000),
        "metrics.jsonl": (points, ("metrics.jsonl",), 40_000),
        "config.yaml": (config_of, ("config.yaml",), 5_000),
    }
    return [
        Reader(name, _seeds(world.run, *patterns), _in_a_run(world, read), share)
        for name, (read, patterns, share) in reads.items()
    ]


def _folders(world: World) -> list[Reader]:
    from evertune.reporting.page import write_report
    from evertune.runs.api import open_run
    from evertune.runs.tracking.history import settled
    from evertune.service.integrity import examine

    everything = ("*.json", "*.jsonl", "*.yaml", "stages/*/*", "answers/*/*", "eval_set/*.json")

    def doctor(run: Path) -> None:
        examine(run)
        settled(run)

    def page(run: Path) -> None:
        text = write_report([run], run / "report" / "index.html").read_text()
        assert "<script" not in text, "nothing of the data becomes a script"

    def opened(run: Path) -> None:
        open_run(run, lmm=world.lmm)

    shown = ("matrix.json", "provenance.json", "answers/*/*.jsonl")
    return [
        Reader("doctor", _seeds(world.run, *everything), _in_a_run(world, doctor), 3_000, 20),
        Reader(
            "open a run",
            _seeds(world.run, "config.yaml", "provenance.json", "stages/*/*"),
            _in_a_run(world, opened),
            2_000,
            30,
        ),
        Reader("report", _seeds(world.run, *shown), _in_a_run(world, page), 400, 60),
    ]


def _in_a_run(world: World, read: Callable[[Path], object]) -> Callable[[bytes, Path], None]:
    """Put the input into a copy of the run, read, and put back what was there."""

    def run(content: bytes, place: Path) -> None:
        folder = place / "run"
        if not folder.exists():
            shutil.copytree(world.run, folder)
        sealed = content.startswith(SEALED)
        name, body = headed(content.removeprefix(SEALED))
        path = folder / name
        try:
            path.write_bytes(body)
            if sealed:
                _seal(folder, path)
            read(folder)
        finally:
            for changed in (path, *(place for place in _seals(folder, path) if sealed)):
                shutil.copyfile(world.run / changed.relative_to(folder), changed)

    return run


def _seals(folder: Path, path: Path) -> list[Path]:
    """Where the checksum of a file is written down."""
    return [path.parent / "done.json"] if path.is_relative_to(folder / "stages") else [folder / "ledger.jsonl"]


def _seal(folder: Path, path: Path) -> None:
    """Write down the checksum that the file has now."""
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    (seals,) = _seals(folder, path)
    if path.name == "done.json":
        try:
            content = {key: value for key, value in json.loads(path.read_text()).items() if key != "seal"}
            path.write_text(json.dumps(content))
        except (ValueError, AttributeError):
            pass
    elif seals.name == "done.json":
        content = json.loads(seals.read_text())
        del content["seal"]
        content["sha256"][path.name] = sha
        seals.write_text(json.dumps(content))
    else:
        rows = [json.loads(line) for line in seals.read_text().splitlines()]
        for row in rows:
            if row["event"] == "cell" and row["cell"]["answers"] == str(path.relative_to(folder)):
                row["sha256"] = sha
        seals.write_text("".join(json.dumps(row) + "\n" for row in rows))


GROUPS = (_tensors, _parts, _folders)
