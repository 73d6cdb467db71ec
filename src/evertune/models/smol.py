"""The family `smol`: a SmolLM2 decoder and an EfficientNet-lite tower joined by a two-layer projector.

A checkpoint is a folder: `config.json` (the family and its few numbers), `lm/` (an ordinary Hugging Face folder) and
`vision.safetensors`. The projector and LoRA (peft, on q and v) train; the LM and the tower are frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from evertune.data.images import unprepared
from evertune.data.placeholders import IMAGE_MARK
from evertune.data.task import Sample
from evertune.models.behind_image import answers_behind_images, loss_behind_image, share_images
from evertune.models.decoder import answer_rows, token_ids
from evertune.models.families import FAMILIES
from evertune.models.family_base import FamilyLMM, Questions
from evertune.models.file_bounds import reading, refuse_larger, refuse_unbounded
from evertune.models.hub import refuse_unsafe
from evertune.models.protocol import TYPICAL, Batch, Generation, Length, Output, Size, Turn, refuse_context
from evertune.models.shared_prefix import same_images
from evertune.utils.errors import UserError
from evertune.utils.files import digest_of, digest_of_file, read_json, write_atomically, write_json
from evertune.utils.safetensors_header import read_header

PROJECTOR_SEED = 20231116  # the projector is part of the model: the same for every run, whatever its seed
PROJECTOR, TOWER = "projector.safetensors", "vision.safetensors"
PREPARATION = "letterbox on grey to a square, bicubic; (x - 127) / 128"


class Smol(FamilyLMM):
    """The LMM protocol over a decoder LM, an EfficientNet tower and a projector."""

    hf_prefix = "lm.base_model.model."
    images_per_sample = FAMILIES["smol"].images_per_sample
    image_token = IMAGE_MARK
    unshared = None

    def __init__(self, *, name: str, config: Mapping[str, Any], lm: Any, tokenizer: Any, tower: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.config = dict(config)
        self.tokenizer = tokenizer
        self.lm = lm
        self.projector = _projector(config["vision_width"], lm.get_input_embeddings().weight, config["visual_gain"])
        self._tower = [tower]  # in a list: frozen, never part of this module's parameters or state
        self._end: int = tokenizer.convert_tokens_to_ids(config["end_token"])

    @property
    def fingerprint(self) -> str:
        """Hash of the checkpoint's files, the prompt and the preparation of images."""
        return digest_of({**self.config, "preparation": PREPARATION})

    @property
    def encoder_fingerprint(self) -> str:
        """Hash of the tower's file and the preparation of images."""
        keys = ("vision_sha256", "image_side", "vision_width")
        return digest_of({"preparation": PREPARATION, **{k: self.config[k] for k in keys}})

    def scopes(self) -> Mapping[str, Sequence[str]]:
        """`projection`: the projector; `lora`: the low-rank matrices on q and v."""
        names = [name for name, _ in self.named_parameters()]
        return {
            "projection": [n for n in names if n.startswith("projector.")],
            "lora": [n for n in names if ".lora_" in n],
        }

    def lr_scale(self, parameter: str) -> float:
        """The projector, which starts random, wants smaller steps than LoRA, which starts without effect."""
        return float(self.config["projection_rate"]) if parameter.startswith("projector.") else 1.0

    def prompt(self, instruction: str, *, images: int = 1) -> str:
        """`{image}` stands for the visual tokens of an image."""
        form = str(self.config["prompt"]).replace("{image}", "{image}" * images)
        return form.replace("{instruction}", instruction)

    def forward(self, batch: Batch) -> Output:
        """Loss of the answers of `batch`."""
        base = self.lm.get_base_model()
        return loss_behind_image(base.model, base.lm_head, self._visual(batch.features), self._words(), batch)

    def prepare(self, image: Image.Image) -> Tensor:
        """(3, side, side) pixels."""
        return torch.from_numpy(_prepared(image, int(self.config["image_side"])))

    @torch.inference_mode()
    def encode_prepared(self, prepared: Sequence[Tensor]) -> Tensor:
        """(n, grid * grid, width) features before pooling, float16; always computed in float32."""
        pixels = torch.stack(list(prepared))
        tower: Any = self._tower[0]
        device = next(tower.parameters()).device
        grid = tower.extract_features(pixels.to(device).contiguous(memory_format=torch.channels_last))
        rows: Tensor = grid.flatten(2).transpose(1, 2).to("cpu", torch.float16).contiguous()
        return rows

    def collate(self, samples: Sequence[Sample], features: Tensor, *, shared: bool = False) -> Batch:
        """Instruction, answer and end token; labels on the answer and the end token only."""
        prompts = [self._text_after_image(s.instruction) for s in samples]
        answers = [self._answer_ids(s.answers[0]) for s in samples]
        prefix = None
        if shared:
            counts = [len(s.images) for s in samples]
            prefix, features = share_images([s.image_digests for s in samples], features, counts)
        rows = answer_rows(prompts, answers, self._end)
        return Batch(features, *rows, tuple(samples), prefix=prefix).to(self.device)

    def _generate(self, features: Tensor, questions: Questions) -> list[Generation]:
        """Greedy answers."""
        refuse_context(self.name, questions.context)
        prefix, features = share_images(same_images(features, questions.counts), features, questions.counts)
        texts = [self._text_after_image(text) for text in questions.instructions]
        return answers_behind_images(
            self.lm.get_base_model(),
            self.tokenizer,
            self._visual(features.to(self.device)),
            self._words(),
            texts,
            questions.counts,
            prefix,
            max_new_tokens=questions.max_new_tokens,
            end=self._end,
        )

    def lengths(
        self, instruction: str, answer: str, images: Sequence[Size] = (TYPICAL,), context: Sequence[Turn] = ()
    ) -> tuple[Length, ...]:
        """The LM's sequence: visual tokens, prompt, answer and end token."""
        refuse_context(self.name, context)
        for size in images:
            _refuse_thin(size, int(self.config["image_side"]))
        text = len(self._text_after_image(instruction)) + len(self._answer_ids(answer))
        tokens = self._visual_tokens * len(images) + text
        return (Length("language model", tokens, self.lm.config.max_position_embeddings),)

    def save(self, folder: Path) -> None:
        """The LM with LoRA merged, as an ordinary folder of the library; the projector and the tower beside it."""
        self.lm.merge_and_unload().save_pretrained(folder / "lm")
        write_atomically(
            folder / PROJECTOR, save({name: p.contiguous() for name, p in self.projector.state_dict().items()})
        )
        write_atomically(folder / TOWER, save({n: t.contiguous() for n, t in self._tower[0].state_dict().items()}))
        files = {"lm": "lm/model.safetensors", "vision": TOWER, "projector": PROJECTOR}
        hashes = {f"{part}_sha256": digest_of_file(folder / file) for part, file in files.items()}
        sizes = {file: (folder / file).stat().st_size for file in files.values()}
        write_json(folder / "config.json", {**self.config, **hashes, "sizes": sizes})

    def embed_images(self, features: Tensor) -> Tensor:
        """Mean over the grid: what an EfficientNet's own head looks at."""
        return features.float().mean(1).cpu()

    @cached_property
    def _visual_tokens(self) -> int:
        return len(self.encode([Image.new("RGB", (1, 1))])[0])

    def _words(self) -> Any:
        return self.lm.get_input_embeddings()

    def _visual(self, features: Tensor) -> Tensor:
        return self.projector(features.float()).to(self.dtype)  # type: ignore[no-any-return]

    def _text_after_image(self, instruction: str) -> list[int]:
        text = self.prompt(instruction, images=0)
        return token_ids(self.tokenizer, text)

    def _answer_ids(self, answer: str) -> list[int]:
        return [*token_ids(self.tokenizer, answer), self._end]


def load_smol(folder: Path, *, name: str, seed: int, dtype: torch.dtype, device: torch.device) -> Smol:
    """Load a checkpoint folder; `seed` decides the LoRA matrices, which start without effect.

    Raises:
        UserError: a file is missing, damaged or of another family; the message names it.
    """
    with reading(f"{folder} can't be read as a smol checkpoint"):
        return _loaded(folder, name, seed, dtype, device)


def _loaded(folder: Path, name: str, seed: int, dtype: torch.dtype, device: torch.device) -> Smol:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    refuse_unbounded(folder)
    config = read_json(folder / "config.json")
    _verify(folder, config)
    refuse_unsafe(folder / "lm")
    refuse_larger(folder / "lm", AutoModelForCausalLM)
    # Eager attention: on a CPU its backward pass is faster than the fused one for sequences this short.
    attention = "eager" if device.type == "cpu" else "sdpa"
    lm = AutoModelForCausalLM.from_pretrained(
        folder / "lm", dtype=dtype, attn_implementation=attention, use_safetensors=True, trust_remote_code=False
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "lm", trust_remote_code=False)
    tower = _tower(folder / TOWER, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = _with_lora(lm, config)
        model = Smol(name=name, config=config, lm=lm, tokenizer=tokenizer, tower=tower)
    if PROJECTOR in config["sizes"]:  # a trained one; else it starts as always
        _load_into(model.projector, folder / PROJECTOR, "projector")
    tower.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device)


def _verify(folder: Path, config: Mapping[str, Any]) -> None:
    """Compare sizes at each load; whole checksums are for `evertune doctor` and the moment of fetching."""
    if config.get("family") != "smol":
        raise UserError(f"{folder / 'config.json'}: family is {config.get('family')!r}, expected 'smol'")
    for file, size in config["sizes"].items():
        path = folder / file
        if not path.exists():
            raise UserError(f"{path} is missing: delete {folder} and fetch the model again")
        if path.stat().st_size != size:
            raise UserError(f"{path} is truncated or changed: delete {folder} and fetch the model again")


def damaged_files(folder: Path) -> list[Path]:
    """Files of a checkpoint whose SHA-256 is not the one written down when it was made."""
    config = read_json(folder / "config.json")
    wanted = {"lm/model.safetensors": config["lm_sha256"], TOWER: config["vision_sha256"]}
    wanted |= {PROJECTOR: config["projector_sha256"]} if PROJECTOR in config["sizes"] else {}
    return [folder / f for f, sha in wanted.items() if not (folder / f).exists() or digest_of_file(folder / f) != sha]


def make_tower(config: Mapping[str, Any]) -> nn.Module:
    """An EfficientNet-lite with random weights, frozen, in evaluation mode."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as problem:
        raise UserError("smol needs its vision code: pip install 'evertune[smol]'") from problem
    tower: nn.Module = EfficientNet.from_name("efficientnet-lite0", **config["vision"])
    return tower.eval().requires_grad_(False)


def _tower(path: Path, config: Mapping[str, Any]) -> nn.Module:
    tower = make_tower(config)
    _load_into(tower, path, "tower")
    return tower


def _load_into(part: nn.Module, path: Path, what: str) -> None:
    try:
        found = {name: tensor.shape for name, tensor in read_header(path).items()}
        if found != {name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}:
            raise UserError(f"{path} can't be read as the {what}'s weights: it has tensors of other names or shapes")
        part.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as problem:
        raise UserError(f"{path} can't be read as the {what}'s weights: {problem}") from problem


def _with_lora(lm: Any, config: Mapping[str, Any]) -> Any:
    from peft import LoraConfig, get_peft_model

    rank = int(config["lora_rank"])
    adapted = get_peft_model(
        lm.requires_grad_(False),
        LoraConfig(r=rank, lora_alpha=config["lora_alpha"], lora_dropout=0.0, target_modules=["q_proj", "v_proj"]),
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def _projector(width: int, embeddings: Tensor, gain: float) -> nn.Sequential:
    """LayerNorm, Linear, GELU, Linear, LayerNorm; visual tokens start at `gain` times the spread of word embeddings.

    A gain well above 1 lets an image stand out in the residual stream of the LM: without an alignment stage the model
    else spends most of a short training on a plateau where it guesses (docs/log.md).
    """
    inner = embeddings.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(PROJECTOR_SEED)
        layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, inner), nn.LayerNorm(inner)
        )
    final = layers[-1]
    assert isinstance(final, nn.LayerNorm)
    nn.init.constant_(final.weight, gain * embeddings.detach().float().std().item())
    return layers


def _refuse_thin(size: Size, side: int) -> None:
    """Raise for an image whose short side would have no pixel left in the square."""
    if round(min(size) / max(size) * side) < 1:
        raise unprepared(size, f"scaled to {side} pixels its short side has none")


def _prepared(image: Image.Image, side: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(3, side, side) of an RGB image; the one preparation for training and evaluation."""
    _refuse_thin((image.height, image.width), side)
    square = ImageOps.pad(image, (side, side), method=Image.Resampling.BICUBIC, color=(127, 127, 127))
    return ((np.asarray(square, dtype=np.float32) - 127.0) / 128.0).transpose(2, 0, 1)
