"""Images per second through the vision tower, and the memory of a run over many images.

    git worktree add /tmp/before 4ab3032
    python benchmarks/encoding.py --before /tmp/before            # against that commit and a plain DataLoader + tower
    python benchmarks/encoding.py --scale 5000,20000              # peak memory of training on so many images

A LLaVA of random weights whose processor makes 336 x 336 pixels (576 visual tokens) of JPEGs of 640 x 480. Every side
is a process of its own with an empty cache; its time is that of encoding all images, without imports and loading. The
sides take turns, so that other work on the machine meets all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOWERS = {"small": (64, 2), "large": (256, 6)}
"""Width and layers."""
PLAIN_BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of the commit to compare with")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tower", choices=TOWERS, default="small")
    parser.add_argument("--scale", help="numbers of images, separated by commas")
    parser.add_argument("--features", default="disk,off", help="settings that --scale measures")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(SIDES[given.side.partition(":")[0]](given)))
        return
    with tempfile.TemporaryDirectory() as place:
        given.folder = Path(place)
        write_model(given.folder / "model", *TOWERS[given.tower])
        if given.scale:
            compare_memory(given)
        else:
            compare_speed(given)


def compare_speed(given: argparse.Namespace) -> None:
    write_images(given.folder, given.images, size=(640, 480))
    sides = ["now", *(["before"] if given.before else []), "plain:0", "plain:2"]
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(given.pairs):
        for side in sides:
            rates[side].append(measured(given, side)["images per second"])
    rates["plain"] = [max(pair) for pair in zip(rates.pop("plain:0"), rates.pop("plain:2"), strict=True)]
    print(f"{given.images} images of 640 x 480, tower {given.tower}, {os.cpu_count()} cores, {given.pairs} pairs")
    for side, found in rates.items():
        ratios = [now / other for now, other in zip(rates["now"], found, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{side:7} {statistics.median(found):7.1f} images/s   now / {side}: {spread}")


def compare_memory(given: argparse.Namespace) -> None:
    counts = [int(count) for count in given.scale.split(",")]
    write_images(given.folder, max(counts), size=(160, 120))
    for keep in given.features.split(","):
        for count in counts:
            given.images = count
            found = measured(given, f"run:{keep}")
            print(f"features={keep:6} {count:7,} images  {found['peak MB']:6.0f} MB peak  {found['seconds']:7.1f} s")


def measured(given: argparse.Namespace, side: str) -> dict[str, float]:
    """What a process of its own prints."""
    source = (given.before if side == "before" else ROOT) / "src"
    options = ["--side", side, "--folder", str(given.folder), "--images", str(given.images)]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "EVERTUNE_CACHE": cache, "PYTHONPATH": str(source)}
        command = [sys.executable, __file__, *options]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_images(folder: Path, count: int, *, size: tuple[int, int]) -> None:
    """JPEGs of smooth noise, about 60 kB each at 640 x 480."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / "images" / f"{number}.jpg", quality=90)


def write_model(folder: Path, width: int, layers: int) -> None:
    """A LLaVA with the preparation of images of the published one, and a small tower and LM."""
    sys.path.insert(0, str(ROOT / "tests"))
    import tiny_chat
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    def made(token: Any) -> tuple[Any, Any, dict[str, Any]]:
        tower = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**tower, num_attention_heads=width // 32, image_size=336, patch_size=14),
            text_config=LlamaConfig(**tiny_chat.LM, vocab_size=len(token)),
            image_token_index=token.image_token_id,
            image_seq_length=576,
        )
        images = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
        more = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        return config, images, more

    tiny_chat.FAMILIES["llava336"] = (made, {}, tiny_chat.FAMILIES["llava"][2])
    tiny_chat.write_tiny("llava336", folder)


def loaded(given: argparse.Namespace) -> Any:
    from evertune.models import load_lmm
    from evertune.utils.device import use_threads

    use_threads()
    return load_lmm(str(given.folder / "model"), dtype="float32", options={"scope": "projection"})


def encoded(given: argparse.Namespace) -> dict[str, float]:
    """`FeatureStore.ensure`, here or in the earlier commit."""
    from evertune.data.task import Sample
    from evertune.models.features import FeatureStore

    lmm = loaded(given)
    paths = [given.folder / "images" / f"{number}.jpg" for number in range(given.images)]
    samples = [Sample(path.stem, (path,), "what?", ("this",), origin=path.name) for path in paths]
    store = FeatureStore(lmm)
    store.ensure(samples[:1])
    started = time.perf_counter()
    store.ensure(samples[1:])
    return {"images per second": (given.images - 1) / (time.perf_counter() - started)}


def plain(given: argparse.Namespace) -> dict[str, float]:
    """What a trainer does for the tower: data workers decode and prepare, the model encodes batch by batch."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader

    lmm = loaded(given)
    processor, model = lmm.prompts.inner.image_processor, lmm.model.model

    def pixels(path: Path) -> Any:
        return processor([Image.open(path).convert("RGB")], return_tensors="pt")["pixel_values"][0]

    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return given.images

        def __getitem__(self, number: int) -> Any:
            return pixels(given.folder / "images" / f"{number}.jpg")

    with torch.inference_mode():
        model.get_image_features(pixel_values=Images()[0][None])
        started = time.perf_counter()
        workers = int(given.side.partition(":")[2])
        for batch in DataLoader(Images(), batch_size=PLAIN_BATCH, num_workers=workers):
            model.get_image_features(pixel_values=batch)
    return {"images per second": given.images / (time.perf_counter() - started)}


def trained(given: argparse.Namespace) -> dict[str, float]:
    """A run of one task over all images, from its files to its last stage."""
    import evertune

    rows = given.folder / f"rows-{given.images}.jsonl"
    with rows.open("w", encoding="utf-8") as stream:
        for number in range(given.images):
            row = {"image": f"{number}.jpg", "instruction": "what is this?", "answer": f"number {number % 10}"}
            stream.write(json.dumps(row) + "\n")
    test = given.folder / "test.jsonl"
    test.write_text("".join(rows.read_text().splitlines(keepends=True)[:8]))
    task = {"name": "many", "images": "images", "train": rows.name, "test": test.name}
    (given.folder / "many.yaml").write_text(json.dumps({"name": "many", "tasks": [task]}))
    settings = [f"features={given.side.partition(':')[2]}", "train.batch_size=16", "model.scope=projection"]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        evertune.run(
            str(given.folder / "many.yaml"),
            model=str(given.folder / "model"),
            methods="sequential",
            out=out,
            settings=[*settings, "dtype=float32", "reuse=false"],
        )
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"peak MB": peak / 1024, "seconds": time.perf_counter() - started}


SIDES = {"now": encoded, "before": encoded, "plain": plain, "run": trained}


if __name__ == "__main__":
    main()
