"""The processor of an InstructBLIP without importing the library: two tokenizers and the preparation of pictures.

The tokenizers are the library's own (`tokenizers`); pictures are prepared with Pillow in the order of its steps, so
that ids and pixels are the same to the bit. Checkpoints of any other form (`prepares`) go through the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from evertune.files import read_json

QFORMER = "qformer_tokenizer"
_STEPS = ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize")
_SAID = {*_STEPS, "image_mean", "image_std", "image_processor_type", "resample", "rescale_factor", "size"}
_USUAL = {"backend", "is_local", "local_files_only", "model_max_length", "processor_class", "tokenizer_class"}
_SPECIAL = {"bos_token", "eos_token", "pad_token", "unk_token"}


def prepares(folder: Path) -> bool:
    """Whether texts and pictures of a checkpoint folder are prepared here as the library would."""
    if find_spec("torchvision"):  # then the library resizes with it
        return False
    if not (folder / "processor_config.json").exists() or (folder / "preprocessor_config.json").exists():
        return False
    said = read_json(folder / "processor_config.json")
    pictures = said.get("image_processor", {})
    return (
        said.get("processor_class") == "InstructBlipProcessor"
        and said.keys() <= {"image_processor", "num_query_tokens", "processor_class"}
        and pictures.get("image_processor_type") == "BlipImageProcessor"
        and pictures.keys() == _SAID
        and all(pictures[step] is True for step in _STEPS)
        and pictures["size"].keys() == {"height", "width"}
        and all(_is_usual(place) for place in (folder, folder / QFORMER))
    )


def _is_usual(folder: Path) -> bool:
    """Whether a tokenizer is all in its tokenizer.json: no word, and no way of marking ends, is added on loading."""
    if not all((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        return False
    if any((folder / name).exists() for name in ("special_tokens_map.json", "added_tokens.json")):
        return False
    config, content = read_json(folder / "tokenizer_config.json"), read_json(folder / "tokenizer.json")
    known = {word["content"] for word in content.get("added_tokens", ()) if word["special"]}
    return bool(
        config.get("tokenizer_class") == "TokenizersBackend"
        and config.keys() <= _USUAL | _SPECIAL
        and {"eos_token", "pad_token"} <= config.keys()
        and known >= {config[name] for name in _SPECIAL & config.keys()} | {"<image>"}
        and content.get("truncation") is None
        and content.get("padding") is None
    )


class PlainProcessor:
    """What `InstructBlip` asks of a processor, of a folder that `prepares` takes."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = PlainTokenizer(folder)
        self.qformer_tokenizer = PlainTokenizer(folder / QFORMER)
        self.image_processor = PlainPictures(read_json(folder / "processor_config.json")["image_processor"])


class PlainTokenizer:
    """A tokenizer.json, asked as the library's tokenizers are."""

    def __init__(self, folder: Path) -> None:
        self._inner: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = read_json(folder / "tokenizer_config.json")
        self.unk_token_id = self._inner.token_to_id(config["unk_token"]) if "unk_token" in config else None
        self.all_special_tokens = [config[name] for name in sorted(_SPECIAL & config.keys())]
        self.eos_token_id, self.pad_token_id = (
            self._inner.token_to_id(config[name]) for name in ("eos_token", "pad_token")
        )

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """{id: token} of the words that are no pieces of text; `special` ones are control tokens."""
        return dict(self._inner.get_added_tokens_decoder())

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> SimpleNamespace:
        """`input_ids`: the token ids of `text`."""
        return SimpleNamespace(input_ids=self._inner.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Any, *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False) -> str:
        """The text of token ids; nothing of it is cleaned up."""
        del clean_up_tokenization_spaces
        return str(self._inner.decode([int(token) for token in ids], skip_special_tokens=skip_special_tokens))


class PlainPictures:
    """Resize, scale to 0..1, subtract the mean and divide by the deviation of each channel."""

    def __init__(self, said: dict[str, Any]) -> None:
        self._said = said
        self._mean, self._std = (np.array(said[name], dtype=np.float32) for name in ("image_mean", "image_std"))

    def to_dict(self) -> dict[str, Any]:
        """What the library's own would say, in its order; fingerprints are made of it."""
        return {name: tuple(value) if isinstance(value, list) else value for name, value in sorted(self._said.items())}

    def __call__(self, pictures: Sequence[Image.Image], *, return_tensors: str = "pt") -> SimpleNamespace:
        """`pixel_values`: (n, 3, height, width) float32 of RGB pictures."""
        del return_tensors
        return SimpleNamespace(pixel_values=torch.from_numpy(np.stack([self._pixels(one) for one in pictures])))

    def _pixels(self, picture: Image.Image) -> Any:
        size = self._said["size"]["width"], self._said["size"]["height"]
        resized = np.asarray(picture.resize(size, resample=Image.Resampling(self._said["resample"])))
        scaled = (resized.astype(np.float64) * self._said["rescale_factor"]).astype(np.float32)
        return np.ascontiguousarray(((scaled - self._mean) / self._std).transpose(2, 0, 1))
