"""How long a large LLaVA file takes until training can begin, and how much memory: made here, measured in processes.

    python benchmarks/data_scale.py --rows 1000000 --folder /tmp/scale

Goal: 1,000,000 rows (about 500 MB, one JSON list) indexed without images in under 60 s and 1 GB, and every later
start in under 20 s, with memory that does not grow with the file. Each step is a process of its own, so that its peak
memory is its own. `--images` different images are shared by the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

WORDS = "the cat sat on a mat and looked at red blue green boats with two men near the water of Größe".split()
STEPS = {
    "index": "rows and index, without images (once per file)",
    "check": "data check --no-decode, over the index",
    "look": "every image read, hashed and decoded (once per image)",
    "compare": "data check, every image decoded once more for its likeness (once per image)",
    "again": "data check again, images known",
    "start": "start: rows, images compared, fingerprint, order of an epoch, first batch",
    "read": "one pass over all rows in random order",
}


def write_data(folder: Path, *, rows: int, images: int) -> Path:
    """A LLaVA list with `rows` conversations, a small test list, and the images."""
    choose = random.Random(0)
    for number in range(images):
        path = folder / image(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"P6\n8 8\n255\n" + number.to_bytes(4, "big") * 48)
    for split, count in (("train", rows), ("test", 1000)):
        with (folder / f"{split}.json").open("w", encoding="utf-8") as stream:
            for number in range(count):
                question = " ".join(choose.choices(WORDS, k=50))
                answer = f"{split} " + " ".join(choose.choices(WORDS, k=20))
                turns = [
                    {
                        "from": "human",
                        "value": f"<image>\n{question}\nAnswer the question using a single word or phrase.",
                    },
                    {"from": "gpt", "value": answer},
                ]
                row = {"id": f"{number:09d}", "image": image(number % images), "conversations": turns}
                stream.write(("[" if number == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
            stream.write("]\n")
    stream_file = folder / "scale.yaml"
    stream_file.write_text("name: scale\ntasks: [{name: large, format: llava, train: train.json, test: test.json}]\n")
    return stream_file


def image(number: int) -> str:
    """Name of an image: a thousand in a folder, as large data sets have them."""
    return f"images/{number // 1000:05d}/{number:09d}.ppm"


def do(step: str, folder: Path) -> None:
    """One step, in this process."""
    from evertune.data import load_stream
    from evertune.data.formats import format_of
    from evertune.data.rows import IndexKey, indexed
    from evertune.training.loop import sample_order

    began = time.perf_counter()
    if step == "index":
        llava = format_of("llava")
        for split in ("train", "test"):
            place = folder / f"{split}.json"
            recipe = IndexKey("llava", 1, place, split, {}, llava.PROMPT, allow_external_paths=False, files=(place,))
            indexed(recipe, lambda place=place, split=split: llava.rows(place, split=split))
    elif step in ("check", "compare", "again"):
        from evertune.tools.data import check

        checked = check(str(folder / "scale.yaml"), decode=step != "check")
        print(checked.as_dict()["counts"], file=sys.stderr)
    else:
        stream = load_stream(str(folder / "scale.yaml"), decode=True)
        train = stream.tasks[0].train
        print(stream.fingerprint[:16], len(train), file=sys.stderr)
        order = sample_order(train, epochs=1, seed=0)
        first = [order[at] for at in range(64)]
        assert all(sample.image_digests for sample in first)
        if step == "read":
            began = time.perf_counter()
            assert sum(len(sample.instruction) for sample in order) > 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(time.perf_counter() - began, 1), "peak MB": round(peak)}))


def measured(step: str, folder: Path) -> dict[str, float]:
    """The step in a process of its own, with its cache beside the data."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    environment = {**os.environ, "EVERTUNE_CACHE": str(folder / "cache")}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Make the data, measure every step, print a line for each."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rows", type=int, default=100_000)
    asked.add_argument("--images", type=int, default=None, help="different images [one per ten rows]")
    asked.add_argument("--folder", type=Path, required=True, help="a new folder; removed afterwards")
    asked.add_argument("--step", choices=STEPS)
    given = asked.parse_args()
    if given.step:
        do(given.step, given.folder)
        return
    given.folder.mkdir(parents=True)
    try:
        images = given.images or max(1, given.rows // 10)
        write_data(given.folder, rows=given.rows, images=images)
        size = (given.folder / "train.json").stat().st_size / 1e6
        print(f"{given.rows:,} rows, {size:.0f} MB, {images:,} images")
        for step, about in STEPS.items():
            result = measured(step, given.folder)
            print(f"{result['seconds']:8.1f} s  {result['peak MB']:6.0f} MB peak  {about}")
    finally:
        shutil.rmtree(given.folder)


if __name__ == "__main__":
    main()
