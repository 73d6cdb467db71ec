"""Make a small stream of your own from photographs that scikit-image and scikit-learn ship: two JSONL tasks.

python examples/photographs.py my-photos
evertune run my-photos/photos.yaml --model smol --method sequential,replay
"""

from __future__ import annotations

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


def crops(picture: Image.Image) -> list[Image.Image]:
    """Overlapping crops of nine tenths of the picture, small enough to look at quickly."""
    width, height = picture.size
    shift = (width // 10, height // 10)
    places = [(shift[0] * (i % 3) // 2, shift[1] * (i // 3)) for i in range(CROPS)]
    size = (width - shift[0], height - shift[1])
    return [picture.crop((x, y, x + size[0], y + size[1])).resize((192, 192)) for x, y in places]


def main(folder: Path) -> Path:
    """Write pictures, two JSONL files and the stream; return the stream's path."""
    folder.mkdir(parents=True, exist_ok=True)
    what, upright = [], []
    for name, picture in photographs().items():
        for number, crop in enumerate(crops(picture)):
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
    return stream


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "my-photos")))
