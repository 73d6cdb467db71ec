#!/bin/sh
# Install PyTorch: the light CPU build on a Linux machine without an NVIDIA GPU, the usual one everywhere else.
# On Linux, pip's plain `torch` is a GPU build of several GB.
# The version is the one in constraints.txt.
#   sh scripts/install_torch.sh .venv/bin/python
set -eu
python=$1
version=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$(dirname "$0")/../constraints.txt")
if [ "$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1; then
  echo "no NVIDIA GPU here: installing the CPU build of PyTorch $version"
  "$python" -m pip install --quiet --no-deps --retries 0 --timeout 20 \
    --extra-index-url https://download.pytorch.org/whl/cpu "torch==$version+cpu" ||
    echo "the CPU build could not be had; taking pip's own, which also runs on a CPU"
fi
# With the CPU build in place this adds what it depends on; without it, it is the whole installation.
"$python" -m pip install --quiet "torch==$version"
