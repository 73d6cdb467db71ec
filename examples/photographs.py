"""Make small streams of your own from photographs that scikit-image and scikit-learn ship.

python examples/photographs.py my-photos
evertune run my-photos/photos.yaml --model smol --method sequential,replay

`photos.yaml` has two JSONL tasks; `formats.yaml` has the same ones as a LLaVA-style list and as a table.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import yaml
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

CROPS = 6


def photographs() -> dict[str, Image.Image]:
    """What is on each photograph, and the photograph."""
    return {
        "person": Image.fromarray(data.astronaut()),
        "cup": Image.fromarray(data.coffee()),
        "cat": Image.fromarray(data.chelsea()),
        "rocket": Image.fromarray(data.rocket()),
        "flower": Image.fromarray(load_sample_image("flower.jpg")),
        "temple": Image.fromarray(load_sample_image("china.jpg")),
    }


def crops(image: Image.Image) -> list[Image.Image]:
    """Overlapping crops of nine tenths of the image, small enough to look at quickly."""
    width, height = image.size
    shift = (width // 10, height // 10)
    places = [(shift[0] * (i % 3) // 2, shift[1] * (i // 3)) for i in range(CROPS)]
    size = (width - shift[0], height - shift[1])
    return [image.crop((x, y, x + size[0], y + size[1])).resize((192, 192)) for x, y in places]


def main(folder: Path) -> Path:
    """Write images, two JSONL files and the stream; return the stream's path."""
    folder.mkdir(parents=True, exist_ok=True)
    what, upright = [], []
    for name, image in photographs().items():
        for number, crop in enumerate(crops(image)):
            crop.save(folder / f"{name}-{number}.jpg")
            what.append({"image": f"{name}-{number}.jpg", "instruction": "What is this?", "answer": name})
            turned = number % 2 == 1
            other = crop.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if turned else crop
            other.save(folder / f"{name}-{number}-up.jpg", quality=90)
            answer = "no" if turned else "yes"
            upright.append({"image": f"{name}-{number}-up.jpg", "instruction": "Upright?", "answer": answer})
    for task, rows in (("what", what), ("upright", upright)):
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [{"name": "what", "data": "what.jsonl"}, {"name": "upright", "data": "upright.jsonl"}]
    stream = folder / "photos.yaml"
    stream.write_text(yaml.safe_dump({"name": "photos", "tasks": tasks}, sort_keys=False))
    in_other_formats(folder, what, upright)
    return stream


def in_other_formats(folder: Path, what: list[dict[str, str]], upright: list[dict[str, str]]) -> None:
    """The same tasks as LLaVA's users and users of tables have them; the last crop of each photograph is the test."""
    last = f"-{CROPS - 1}.jpg"
    train = [
        {
            "image": row["image"],
            "conversations": [
                {"from": "human", "value": f"<image>\n{row['instruction']}"},
                {"from": "gpt", "value": row["answer"]},
            ],
        }
        for row in what
        if not row["image"].endswith(last)
    ]
    test = [
        {"question_id": number, "image": row["image"], "text": row["instruction"], "answer": row["answer"]}
        for number, row in enumerate(what)
        if row["image"].endswith(last)
    ]
    (folder / "what-train.json").write_text(json.dumps(train, indent=1))
    (folder / "what-test.json").write_text(json.dumps(test, indent=1))
    with (folder / "upright.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "question", "label"])
        table.writerows([row["image"], row["instruction"], row["answer"]] for row in upright)
    columns = {"image": "file", "instruction": "question", "answer": "label"}
    tasks = [
        {"name": "what", "format": "llava", "train": "what-train.json", "test": "what-test.json"},
        {"name": "upright", "format": "table", "data": "upright.csv", "options": columns},
    ]
    (folder / "formats.yaml").write_text(yaml.safe_dump({"name": "photos-formats", "tasks": tasks}, sort_keys=False))


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "my-photos")))
