"""A data set of CoIN's size on a small machine: starts, trains, is killed, resumes and ends, within memory and a cache.

    python benchmarks/simulated_coin.py --folder /tmp/coin

Eight tasks in the proportions of CoIN (Chen et al. 2024, arXiv 2403.08350) share 500,000 training rows and 100,000
generated images of 64 pixels; the model is a random LLaVA whose features of all images (3.3 GB) exceed the cache's
budget. Goal: at most 4 GB of memory in all processes of the command together, at most `--budget` of features on disk.
The command is killed with SIGKILL after the second stage and started again. Every part is skipped if it was done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

TASKS = {
    "ScienceQA": 12_726,
    "TextVQA": 34_602,
    "ImageNet": 117_715,
    "GQA": 72_140,
    "VizWiz": 20_523,
    "Grounding": 55_885,
    "VQAv2": 82_783,
    "OCRVQA": 165_348,
}
"""Training rows of CoIN's tasks."""
WORDS = "left right red green blue small large round open closed near far".split()


def draw_images(folder: Path, count: int) -> None:
    """Noise of 64 x 64 pixels as JPEG, a thousand in a folder."""
    import numpy as np
    from PIL import Image

    for number in range(count):
        path = folder / name_of(number)
        if number % 1000 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(path, quality=80)


def name_of(image: int) -> str:
    """Where an image is below the root."""
    return f"images/{image // 1000:03d}/{image:06d}.jpg"


def write_stream(folder: Path, *, rows: int, images: int, test: int) -> Path:
    """The eight tasks as LLaVA lists; neighbours in a list share an image, as questions of VQAv2 do."""
    choose, total = random.Random(0), sum(TASKS.values())
    tasks, first = [], 0
    for name, count in TASKS.items():
        share = count / total
        own = range(first, min(images, first + max(test, round(images * share))))
        first = own.stop
        for split, wanted in (("train", round(rows * share)), ("test", test)):
            with (folder / f"{name}-{split}.json").open("w") as stream:
                for row in range(wanted):
                    image = name_of(own[row * len(own) // wanted])
                    question = f"<image>\nIs {choose.choice(WORDS)} or {choose.choice(WORDS)} thing {row} in {split}?"
                    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": choose.choice(WORDS)}]
                    line = json.dumps({"id": f"{row}", "image": image, "conversations": turns})
                    stream.write(("[" if row == 0 else ",\n") + line)
                stream.write("]\n")
        tasks.append({"name": name, "format": "llava", "train": f"{name}-train.json", "test": f"{name}-test.json"})
    stream_file = folder / "coin.yaml"
    stream_file.write_text(json.dumps({"name": "simulated-coin", "tasks": tasks}))
    return stream_file


def save_model(folder: Path) -> Path:
    """A LLaVA with random weights: 64 visual tokens of width 256 per image, a byte tokenizer."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import torch
    from tiny_chat import LM, PLAIN, tokenizer
    from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    if (folder / "config.json").exists():
        return folder
    token = tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=256, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, image_size=64, patch_size=8
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**LM, vocab_size=len(token)),
        image_token_index=token.image_token_id,
        image_seq_length=64,
    )
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    LlavaProcessor(
        images,
        token,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=PLAIN.replace("IMAGE", "<image>"),
        image_token="<image>",
    ).save_pretrained(folder)
    return folder


class Watched:
    """A command, its peak memory with all its children (PSS: shared pages count once), and the cache's peak size."""

    def __init__(self, command: list[str], *, features: Path, log: Path, environment: dict[str, str]) -> None:
        self.memory = self.disk = 0
        self._features = features
        self._stream = log.open("a")
        self._process = psutil.Popen(
            command, stdout=self._stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )

    def look(self) -> bool:
        """Note the peaks; False once the command has ended."""
        try:
            family = [self._process, *self._process.children(recursive=True)]
            self.memory = max(self.memory, sum(each.memory_full_info().pss for each in family))
        except psutil.Error:
            pass
        self.disk = max(self.disk, size_of(self._features))
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL to the command and all its children."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def code(self) -> int:
        """Exit status."""
        return int(self._process.wait())


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder that others may remove meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def main() -> None:
    """Build what is missing, run, kill, run again; print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=0.02)
    parser.add_argument("--budget", default="2GB")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    wanted = parser.parse_args()
    folder = wanted.folder
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    draw_images(folder, wanted.images)
    stream = write_stream(folder, rows=wanted.rows, images=wanted.images, test=wanted.test)
    model = save_model(folder / "tiny-llava")
    print(f"data and model: {time.perf_counter() - began:.0f} s", flush=True)
    settings = [f"features.budget={wanted.budget}", f"train.epochs={wanted.epochs}", "train.batch_size=32"]
    options = [part for setting in [*settings, *wanted.set] for part in ("--set", setting)]
    run = [sys.executable, "-m", "evertune", "run", str(stream), "--model", str(model), "--method", "sequential"]
    run += ["--out", str(folder / "run"), *options]
    environment = {**os.environ, "EVERTUNE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "2"}
    for attempt in ("killed after stage 2", "resumed"):
        began = time.perf_counter()
        watched = Watched(run, features=folder / "cache", log=folder / "run.log", environment=environment)
        while watched.look():
            if attempt != "resumed" and len(list((folder / "run" / "stages").glob("*/done.json"))) >= 2:
                watched.kill()
                break
            time.sleep(0.5)
        peaks = f"memory {watched.memory / 1e9:.2f} GB, cache {watched.disk / 1e9:.2f} GB"
        print(f"{attempt}: exit {watched.code}, {time.perf_counter() - began:.0f} s, {peaks}", flush=True)
    print((folder / "run" / "matrix.json").read_text()[:300])


if __name__ == "__main__":
    main()
