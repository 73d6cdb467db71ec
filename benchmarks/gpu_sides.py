"""What others do with the same model: a step of `transformers.Trainer`, and plain batched `generate`.

Both read the image and compute the vision tower for every batch, as they do by default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from shapes import Shape
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from evertune.data import Sample, Task

IGNORE = -100


def inputs_of(lmm: Any, shape: Shape, samples: Sequence[Sample], *, answers: bool) -> dict[str, torch.Tensor]:
    """The processor's tensors for prompts of one length, with the answers behind them where wanted."""
    texts = [lmm.prompt(s.instruction).replace("{image}", _mark(shape)) for s in samples]
    texts = [text + (s.answers[0] if answers else "") for text, s in zip(texts, samples, strict=True)]
    images = [Image.open(s.images[0]).convert("RGB") for s in samples]
    made = shape.processor(text=texts, images=images, return_tensors="pt", padding=True)
    return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}


def _mark(shape: Shape) -> str:
    """What stands for an image in a prompt that the processor takes."""
    return "" if shape.name == "instructblip" else str(shape.processor.image_token)


def trainer_seconds(lmm: Any, shape: Shape, task: Task, place: Path, *, batch: int, steps: int, on: Any) -> None:
    """`steps` steps of `Trainer` on what trains in `lmm`; `on.tick` is called after each."""

    def collate(rows: Sequence[Sample]) -> dict[str, torch.Tensor]:
        found = inputs_of(lmm, shape, rows, answers=True)
        labels = torch.full_like(found["input_ids"], IGNORE)
        length = len(rows[0].answers[0])
        labels[:, -length:] = found["input_ids"][:, -length:]
        return {**found, "labels": labels}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            on.tick()

    on_gpu = shape.model.device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(place / "trainer"),
        per_device_train_batch_size=batch,
        max_steps=steps,
        learning_rate=1e-5,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    shape.model.train()
    rows = list(task.train)
    trainer = Trainer(model=shape.model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[Clock()])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    shape.model.eval()


def generate_seconds(lmm: Any, shape: Shape, samples: Sequence[Sample], *, tokens: int) -> Callable[[], Any]:
    """A call that answers `samples` from their image files: processor, tower and all."""
    device, dtype = shape.model.device, shape.model.dtype

    @torch.inference_mode()
    def answer() -> Any:
        found = inputs_of(lmm, shape, samples, answers=False)
        half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")  # InstructBLIP mixes dtypes
        moved = {n: v.to(device, dtype) if v.is_floating_point() else v.to(device) for n, v in found.items()}
        with half:
            return shape.model.generate(**moved, max_new_tokens=tokens, do_sample=False)

    return answer
