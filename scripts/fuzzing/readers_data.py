"""Readers of what people bring: data of every format, images, YAML, options, archives, predictions."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from evertune.utils.errors import UserError
from fuzzing.inputs import Seed
from fuzzing.readers import Reader, World, any_of, as_url, emptied, file_reader, image_files, shortened, used_up

TESTS = Path(__file__).parents[2] / "tests" / "unit"
OWN = [
    {"image": "a.png", "instruction": "what?", "answer": "red"},
    {"id": "7", "images": ["a.png", "b/c.png"], "instruction": "which?", "answers": ["a", "b"], "extras": {"w": "9"}},
    {"image": None, "instruction": "and?", "answer": "é", "weight": 1.5},
]
CHAT = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": "what?"}]},
    ],
    "max_tokens": 5,
    "stream": False,
    "stream_options": {"include_usage": True},
}


def _json_files(_: World) -> list[Reader]:
    from evertune.data.json_lists import items, lines, members
    from evertune.data.reading import read_entries

    rows = b"".join(json.dumps(row).encode() + b"\n" for row in OWN)
    whole = json.dumps(OWN, indent=1).encode()
    under = json.dumps({"info": {"a": [1]}, "data": OWN, "more": "x"}).encode()
    seeds = [Seed(whole, "json"), Seed(under, "json")]

    def by_line(path: Path) -> None:
        used_up(read_entries(path))

    def streamed(path: Path) -> None:
        ways = (items, members, lines, lambda path: items(path, under="data"))
        any_of(partial(lambda read: used_up(read(path)), way) for way in ways)

    return [
        Reader(
            "JSON Lines", [Seed(rows, "lines")], file_reader("s.jsonl", lambda p: used_up(read_entries(p))), 160_000
        ),
        Reader("streaming JSON", seeds, file_reader("s.json", streamed), 90_000),
    ]


def _formats(world: World) -> list[Reader]:
    sys.path.insert(0, str(TESTS))
    from published import CASES

    from evertune.data.formats import format_of

    found: list[Reader] = []
    for name, cases in itertools.groupby(sorted(CASES, key=lambda case: case.format), key=lambda case: case.format):
        chosen = list(cases)
        seeds = [
            Seed(*_small((world.data / case.root / file).read_bytes(), file), head=f"{at} {file}\n".encode())
            for at, case in enumerate(chosen)
            for file in case.files
        ]

        def run(content: bytes, place: Path, chosen: list[Any] = chosen, name: str = name) -> None:
            head, _, rest = content.partition(b"\n")
            at, _, file = head.decode().partition(" ")
            case = chosen[int(at)]
            root = place / "data" / case.root
            if not root.exists():
                _copied(world.data, place / "data")
            path = Path(os.path.normpath(root / file))
            path.write_bytes(rest)
            try:
                used_up(format_of(name).rows(root, split=case.split, **case.options))
            finally:
                shutil.copyfile(world.data / path.relative_to(place / "data"), path)

        found.append(Reader(f"format {name}", seeds, run, 12_000))
    return found


def _copied(data: Path, place: Path) -> None:
    """The files of the layouts."""
    for path in data.rglob("*"):
        if path.is_file() and path.suffix.startswith(".json"):
            target = place / path.relative_to(data)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _small(content: bytes, file: str) -> tuple[bytes, str]:
    if file.endswith(".jsonl"):
        return b"\n".join(content.split(b"\n")[:3]), "lines"
    return shortened(content), "json"


def _tables(_: World) -> list[Reader]:
    import pyarrow
    import pyarrow.parquet

    from evertune.data.formats import format_of
    from evertune.metrics.matrix_files import read_matrix
    from evertune.metrics.metrics import metrics_of
    from evertune.tools.data.source import Hints, file_or_stream

    plain = b'image,instruction,answer,id\r\na.png,"what, then?",red;blue,1\r\nb.png,which?,"a ""b""",2\r\n'
    held = io.BytesIO()
    table = pyarrow.table({"image": ["a.png", "b.png"], "instruction": ["what?", "which?"], "answer": ["a", "b"]})
    pyarrow.parquet.write_table(table, held)

    def rows(**options: Any) -> Callable[[Path], None]:
        return lambda path: used_up(format_of("table").rows(path, split="train", **options))

    def matrix(path: Path) -> None:
        read = read_matrix(path)
        metrics_of(read.R, known=read.known, direct=read.direct, joint_average=read.joint_average)

    def sniffed(path: Path) -> None:
        file_or_stream(str(path), Hints())

    R = [[1.0, 2.0], [50, 3], [40, 60]]
    numbers = json.dumps({"R": R, "known": 0, "direct": [50, 60], "joint_average": 70.0}).encode()
    return [
        Reader("CSV", [Seed(plain)], file_reader("s.csv", rows(separator=";", extras=["id"])), 50_000),
        Reader("Parquet", [Seed(held.getvalue())], file_reader("s.parquet", rows()), 15_000),
        Reader(
            "matrix JSON",
            [Seed(numbers, "json"), Seed(b"[[1, 2], [3, 4]]", "json")],
            file_reader("m.json", matrix),
            80_000,
        ),
        Reader("matrix CSV", [Seed(b"after,a,b\nnone,1,2\na,50,3\nb,40,60\n")], file_reader("m.csv", matrix), 50_000),
        Reader(
            "format by its first row", [Seed(json.dumps(OWN).encode(), "json")], file_reader("s.json", sniffed), 10_000
        ),
    ]


def _images(_: World) -> list[Reader]:
    from evertune.data.images import open_image, small_image

    def both(path: Path) -> None:
        any_of((lambda: open_image(path, origin="here"), lambda: small_image(path, side=96)))

    return [Reader("images", [Seed(content) for content in image_files()], file_reader("p.png", both), 90_000, 20)]


def _settings(_: World) -> list[Reader]:
    from evertune.data.stream import stream_file
    from evertune.experiments.grid.cells import cells_of, read_grid
    from evertune.experiments.study import read_study
    from evertune.methods import make_methods
    from evertune.runs.config import RunConfig, with_settings
    from evertune.service.gate import parsed
    from evertune.tools.data.source import options_of
    from evertune.utils.config_io import read_yaml, validated

    names = ["ewc", "replay", "eproj"]
    run = {
        "stream": "pocket-b1",
        "model": "random",
        "method": "replay+ewc",
        "seed": 1,
        "limit": 5,
        "track": "trackio",
        "train": {"epochs": 1, "batch_size": 2, "learning_rate": 0.001},
        "options": {"replay": {"ratio": 0.1}},
        "model_options": {"scope": "lora"},
    }
    tasks = [
        {"name": "a", "train": "a.jsonl", "test": "b.jsonl", "images": "p", "about": {"title": "t"}},
        {"name": "b", "format": "okvqa", "root": "OKVQA", "score": "vqa", "options": {"x": 1}},
    ]
    stream = {"name": "mine", "title": "t", "known": [tasks[0]], "tasks": [tasks[1]]}
    grid = {"name": "g", "streams": ["pocket-b1"], "models": ["tiny"], "methods": ["ewc", "replay"], "seeds": [0, 1]}
    grid |= {"vary": {"ewc.strength": [1, 10]}, "options": {"replay": {"ratio": 0.1}}}
    study = {"name": "s", "parts": {"one": [grid], "two": [{**grid, "name": "h", "take": ["g"], "vary": {}}]}}

    def seeds(value: Mapping[str, Any]) -> list[Seed]:
        return [Seed(yaml.safe_dump(value).encode(), "yaml"), Seed(b"a: &a [1, 2]\nb: *a\nc: {<<: {d: 1}}\n", "yaml")]

    def as_run(path: Path) -> None:
        config = validated(RunConfig, read_yaml(path), where=str(path))
        make_methods(config.method.split(",")[0], config.options)

    def as_settings(content: bytes, _: Path) -> None:
        text = content.decode("utf-8", "replace")
        any_of((lambda: with_settings({}, [text], methods=names), lambda: options_of([text]), lambda: parsed(text)))

    texts = [Seed(t) for t in (b"train.epochs=5e-4", b"ewc.strength=[1, 2]", b"forgetting<2 and gain>5", b"a={b: 1}")]
    return [
        Reader("run YAML", seeds(run), file_reader("r.yaml", as_run), 12_000),
        Reader("stream YAML", seeds(stream), file_reader("s.yaml", lambda p: stream_file(str(p))), 12_000),
        Reader("grid YAML", seeds(grid), file_reader("g.yaml", lambda p: cells_of(read_grid(p), out=p.parent)), 5_000),
        Reader("study YAML", seeds(study), file_reader("t.yaml", lambda p: read_study(str(p))), 4_000),
        Reader("settings and conditions", texts, as_settings, 80_000),
    ]


def _archives(_: World) -> list[Reader]:
    sys.path.insert(0, str(TESTS))
    from archives import zipped

    from evertune.assets import Package
    from evertune.assets.pypi import unpack

    package = Package("toy", "1.0", "", 0, "toy/", "MIT", "")

    def run(content: bytes, place: Path) -> None:
        emptied(package.folder)
        (place / "a").write_bytes(content)
        unpack(package, place / "a", package.folder)

    return [Reader("archive .whl", [Seed(zipped())], run, 32_000)]


def _rescore(_: World) -> list[Reader]:
    from evertune.metrics.boxes import box, box_relaxed, gold_box
    from evertune.metrics.rules import RULES
    from evertune.tools.rescore import gold
    from evertune.tools.rescore.predictions import read_predictions, read_totals

    said = [{"question_id": 7, "prompt": "what?", "text": "red", "answer_id": "x", "metadata": {}}]
    beside = [{"question_id": "7", "prediction": "red", "ground_truth": "blue"}]
    answers = [
        Seed(b"\n".join(json.dumps(one).encode() for one in said * 2), "lines"),
        Seed(json.dumps(beside).encode(), "json"),
    ]
    golds = [
        [{"question_id": 7, "text": "what?", "answer": "red", "image": "a.png"}],
        {
            "annotations": [
                {
                    "question_id": 7,
                    "answers": [{"answer": "red"}],
                    "multiple_choice_answer": "red",
                    "image_id": 1,
                    "caption": "a",
                }
            ],
            "images": [{"id": 1}],
        },
        {"7": {"question": "q", "answer": "red", "choices": ["a", "b"], "split": "test", "imageId": "3"}},
        {"data": [{"question_id": 7, "question": "q", "answers": ["a"] * 10, "image_id": "3"}]},
    ]
    readers_of_gold = (gold.questions, gold.grounding, gold.textvqa, gold.vqav2, gold.gqa, gold.scienceqa, gold.coco)

    def predictions(path: Path) -> None:
        read_predictions(path)
        read_totals(path)

    def every_gold(path: Path) -> None:
        any_of(partial(read, path, "test") for read in readers_of_gold)

    def scored(content: bytes, _: Path) -> None:
        text = content.decode("utf-8", "replace")
        halves = text.partition("|")
        for rule in (box, box_relaxed):
            rule(halves[0], ["[0.1, 0.2, 0.5, 0.6]"])
        for name in QUICK:
            RULES[name].strict([halves[0]], [[halves[2], "red"]])
            RULES[name].relaxed([halves[0]], [[halves[2], "red"]])
        gold_box(halves[2])

    texts = [
        Seed(t)
        for t in (b"[0.1, 0.2, 0.5, 0.6]|[1,2,3,4]", b"A. red|(B) blue", b"the red one.|red", b"<b>12</b>, 3|12")
    ]
    return [
        Reader("predictions", answers, file_reader("merge.jsonl", predictions), 110_000),
        Reader(
            "gold files",
            [Seed(json.dumps(one).encode(), "json") for one in golds],
            file_reader("g.json", every_gold),
            40_000,
        ),
        Reader("answers, options and boxes", texts, scored, 25_000),
    ]


QUICK = ("exact", "vqa", "option", "anls", "cider", "bleu-4", "rouge-l")


def _requests(_: World) -> list[Reader]:
    from evertune.apps.server.chat import encoded_images, prompt_of, request_of
    from evertune.apps.server.errors import RefusedError
    from evertune.data.images import image_of_bytes

    with_images = json.loads(json.dumps(CHAT))
    for file in image_files()[:6:2]:
        part = {"type": "image_url", "image_url": {"url": as_url(file)}}
        with_images["messages"][-1]["content"].append(part)

    def asked(content: bytes, _: Path) -> None:
        try:
            request = request_of(content)
            prompt_of(request)
            for image in encoded_images(request):
                image_of_bytes(image, where="the image")
        except RefusedError as problem:
            raise UserError(str(problem)) from problem

    return [Reader("requests", [Seed(json.dumps(one).encode(), "json") for one in (CHAT, with_images)], asked, 100_000)]


GROUPS = (_json_files, _formats, _tables, _images, _settings, _archives, _rescore, _requests)
