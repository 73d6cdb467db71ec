"""How the shipped checkpoints are trained: phases and amounts of data."""

from __future__ import annotations

from dataclasses import dataclass

from pretraining.phases import Phase


@dataclass(frozen=True, slots=True)
class Recipe:
    """Length of each phase and amounts of data.

    Attributes:
        batch: images per step.
        texts: texts per step of the two phases of language.
        images: captioned images of the alignment.
        per_task: samples of each known task.
        checked: number of new images, texts and questions per task for each evaluation.
        documents: texts that the tokenizer is trained on.
    """

    tower: Phase = Phase("tower", steps=2400, learning_rate=1e-3)
    lookup: Phase = Phase("lookup", steps=400, learning_rate=1e-3)
    language: Phase = Phase("language", steps=2000, learning_rate=1e-3)
    slots: Phase = Phase("slots", steps=1200, learning_rate=1e-3)
    captions: Phase = Phase("captions", steps=300, learning_rate=3e-4)
    instruct: Phase = Phase("instruct", steps=1500, learning_rate=5e-4)
    batch: int = 64
    texts: int = 32
    images: int = 16_384
    per_task: int = 4096
    checked: int = 512
    documents: int = 20_000


@dataclass(frozen=True, slots=True)
class SmolRecipe:
    """Data and length of the projector's training.

    Attributes:
        captions: the only phase, with its own learning rate.
        batch: captions per step.
        corpus: the stream whose first task has the captions; None: that of `captions.corpus`.
        checked: number of held-out captions for the evaluation.
        model: the name of the model.
    """

    captions: Phase = Phase("captions", steps=1000, learning_rate=1e-3, weight_decay=0.0, save_every=50)
    batch: int = 8
    corpus: str | None = None
    checked: int = 160
    model: str = "smol"
