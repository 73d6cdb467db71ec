"""Several questions about one image: a training step and answers with one copy of its tokens, and without.

    python benchmarks/shared_images.py                               # 1, 2, 4 and 8 questions per image, 3 rounds
    python benchmarks/shared_images.py --questions 4 --rounds 2 --only training

A random model of LLaVA's shape: 576 visual tokens, `--layers` layers of `--width`, a vocabulary of 32,064, questions of
some 60 tokens. The sides alternate in one process, and what is measured is its processor time, so that other work on
the machine counts less. All sides train the same parameters (projector and LoRA) from the same weights on the same
samples in the same order; losses must agree. `Trainer` decodes images and runs the frozen tower in each step, as it
does by itself; evertune's features are computed before, and that time is printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from tiny_chat import PLAIN, tokenizer  # noqa: E402

from evertune.data.task import Sample  # noqa: E402
from evertune.methods import Sequential  # noqa: E402
from evertune.models import chat as chat_family  # noqa: E402
from evertune.models import load_lmm, shared_prefix  # noqa: E402
from evertune.models.decoder import answer_rows, pad_left  # noqa: E402
from evertune.models.features import FeatureStore  # noqa: E402
from evertune.models.weights import copy_of, restore  # noqa: E402
from evertune.training.loop import Training, train  # noqa: E402
from evertune.training.sample_order import sample_order  # noqa: E402
from evertune.utils.quiet import quiet_libraries  # noqa: E402

SIDE, PATCH = 336, 14
TOLERANCE = 1e-3
"""Largest relative difference of losses: cached features are half precision."""


def write_model(folder: Path, *, layers: int, width: int) -> None:
    """A checkpoint of LLaVA's shape with random weights; its tokenizer writes bytes."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    token = tokenizer()
    tower = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 4}
    language = {"hidden_size": width, "intermediate_size": width * 11 // 4, "num_hidden_layers": layers}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower, image_size=SIDE, patch_size=PATCH),
        text_config=LlamaConfig(**language, num_attention_heads=width // 64, vocab_size=32064),
        image_token_index=token.image_token_id,
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    template = PLAIN.replace("IMAGE", "<image>")
    options = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    LlavaProcessor(images, token, **options, chat_template=template).save_pretrained(folder)


def write_samples(folder: Path, *, count: int, questions: int) -> list[Sample]:
    """JPEGs of 640 x 480, and so many questions about each; all answers have as many tokens."""
    samples = []
    for number in range(count // questions):
        path = folder / f"{questions}-{number}.jpg"
        noise = torch.randint(0, 256, (12, 16, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).resize((640, 480)).save(path)
        for n in range(questions):
            text = f"What is the colour of object number {n}?"
            samples.append(Sample(f"{number}-{n}", (path,), text, (f"red {number % 10}{n}",), str(path)))
    return samples


class Pixels:
    """Batches as a Trainer's collator makes them: images are decoded, prompts and answers padded."""

    def __init__(self, lmm: Any) -> None:
        self._prompts = lmm.prompts

    def prompts(self, rows: Sequence[Sample]) -> tuple[list[list[int]], dict[str, Any]]:
        images = [Image.open(sample.images[0]).convert("RGB") for sample in rows]
        made = self._prompts.inner.image_processor(images, return_tensors="pt")
        ids = [
            self._prompts.ids(s.instruction, None, [(i.height, i.width)])[0] for s, i in zip(rows, images, strict=True)
        ]
        return ids, {"pixel_values": made["pixel_values"]}

    def __call__(self, rows: Sequence[Sample]) -> dict[str, Any]:
        prompts, pixels = self.prompts(rows)
        answers = [self._prompts.ids(s.instruction, s.answers[0], [(480, 640)])[1] for s in rows]
        ids, attention, labels = answer_rows(prompts, answers, self._prompts.end)
        return {"input_ids": ids, "attention_mask": attention, "labels": labels, **pixels}


class InOrder(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Samples for a Trainer that does not shuffle them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, place: int) -> Sample:
        return self._samples[place]


def trainer_losses(lmm: Any, samples: Sequence[Sample], *, batch: int, folder: str) -> list[float]:
    """One pass of `transformers.Trainer` over `samples`, in this order."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    losses: list[float] = []

    class Listen(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    class Ordered(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    options = {"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_ratio": 0.03, "max_grad_norm": 1.0}
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=True,
        **{name: value for name, value in options.items() if name in TrainingArguments.__dataclass_fields__},
    )
    model = lmm.model.train()
    with redirect_stdout(sys.stderr):
        Ordered(
            model, arguments, train_dataset=InOrder(samples), data_collator=Pixels(lmm), callbacks=[Listen()]
        ).train()
    model.eval()
    return losses


def library_answers(lmm: Any, samples: Sequence[Sample], *, tokens: int) -> list[list[int]]:
    """The library's `generate` on one batch, images and all."""
    prompts, pixels = Pixels(lmm).prompts(samples)
    end = lmm.prompts.end
    ids, attention = pad_left(prompts, end)
    how = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": end, "pad_token_id": end}
    with torch.inference_mode():
        made = lmm.model.generate(input_ids=ids, attention_mask=attention, **pixels, **how)
    return [[token for token in row if token != end] for row in made[:, ids.shape[1] :].tolist()]


def our_answers(lmm: Any, store: FeatureStore, samples: Sequence[Sample], *, tokens: int, shared: bool) -> Any:
    """Answers of one batch, with or without shared images."""
    find = shared_prefix.same_images if shared else lambda _features, counts: [0] * len(counts)
    chat_family.same_images = find  # type: ignore[assignment]
    made = lmm.generate(store.get(samples), [s.instruction for s in samples], max_new_tokens=tokens)
    chat_family.same_images = shared_prefix.same_images
    return [[token for token in one.ids if token != lmm.prompts.end] for one in made]


def timed(sides: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Processor seconds of each side, alternating, and what each gave last."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    made: dict[str, Any] = {}
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.process_time()
            made[name] = side()
            seconds[name].append(time.process_time() - started)
    return seconds, made


def report(what: str, seconds: dict[str, list[float]], first: str) -> None:
    """How often `first` is as fast as each other side: median, smallest and largest ratio of a round."""
    own = f"{statistics.median(seconds[first]):.1f} s"
    for name, values in seconds.items():
        if name != first:
            ratios = [value / ours for value, ours in zip(values, seconds[first], strict=True)]
            spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{what}: {first} ({own}) / {name}: {statistics.median(ratios):.2f} {spread}", flush=True)


def training(lmm: Any, store: FeatureStore, samples: list[Sample], wanted: argparse.Namespace, what: str) -> None:
    start = copy_of(lmm.trainable())
    # the order that evertune takes, so that all sides have the same batches
    ordered = list(sample_order(samples, epochs=1, seed=1, whole_images=wanted.batch))

    def ours(*, shared: bool) -> list[float]:
        restore(lmm.trainable(), start)
        settings = Training(batch_size=wanted.batch, group_by_image=shared)
        rows = samples if shared else ordered
        return [step.loss for step in train(lmm, [Sequential()], rows, store, training=settings, seed=1)]

    def theirs() -> list[float]:
        restore(lmm.trainable(), start)
        with tempfile.TemporaryDirectory() as folder:
            return trainer_losses(lmm, ordered, batch=wanted.batch, folder=folder)

    sides = {"shared": lambda: ours(shared=True), "separate": lambda: ours(shared=False), "Trainer": theirs}
    seconds, losses = timed(sides, wanted.rounds)
    report(f"{what}, training", seconds, "shared")
    if len(samples) == wanted.batch:  # one step: whatever the order, the loss is that of the same batch
        apart = max(abs(losses[name][0] / losses["shared"][0] - 1) for name in losses)
        print(f"{what}, training: losses apart by {apart:.1e}", flush=True)
        if apart > TOLERANCE:
            raise SystemExit("this compares different trainings")


def evaluation(lmm: Any, store: FeatureStore, samples: list[Sample], wanted: argparse.Namespace, what: str) -> None:
    tokens = wanted.tokens
    sides = {
        "shared": lambda: our_answers(lmm, store, samples, tokens=tokens, shared=True),
        "separate": lambda: our_answers(lmm, store, samples, tokens=tokens, shared=False),
        "generate": lambda: library_answers(lmm, samples, tokens=tokens),
    }
    seconds, answers = timed(sides, wanted.rounds)
    report(f"{what}, evaluation", seconds, "shared")
    for name in ("separate", "generate"):
        differ = sum(one != other for one, other in zip(answers["shared"], answers[name], strict=True))
        print(f"{what}, evaluation: {differ} of {len(samples)} answers differ from {name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", default="1,2,4,8", help="per image")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8, help="samples of a step, and questions of a batch of answers")
    parser.add_argument("--tokens", type=int, default=5, help="of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["training", "evaluation"])
    parser.add_argument("--attention", default="eager", help="eager (evertune's choice on a CPU) or sdpa")
    wanted = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(folder / "model", layers=wanted.layers, width=wanted.width)
        lmm: Any = load_lmm(
            str(folder / "model"), dtype="float32", device=torch.device("cpu"), options={"scope": "projection+lora"}
        )
        lmm.model.set_attn_implementation(wanted.attention)
        print(
            f"{wanted.layers} layers of {wanted.width}, batch {wanted.batch}, attention {wanted.attention}", flush=True
        )
        for questions in map(int, wanted.questions.split(",")):
            samples = write_samples(folder, count=wanted.batch, questions=questions)
            store = FeatureStore(lmm, folder=folder / "features")
            started = time.process_time()
            store.ensure(samples)
            what = f"{questions} questions per image"
            print(f"{what}: features of {len(samples) // questions} images {time.process_time() - started:.2f} s")
            if wanted.only != "evaluation":
                training(lmm, store, samples, wanted, what)
            if wanted.only != "training":
                evaluation(lmm, store, samples, wanted, what)


if __name__ == "__main__":
    main()
