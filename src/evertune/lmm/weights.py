"""Copies and fingerprints of trained parameters: plain functions over {name: tensor}."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def copy_of(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detached copy on the CPU."""
    return {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}


def restore(parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy the tensors of `saved` into the parameters of the same names; the others stay as they are."""
    with torch.no_grad():
        for name, value in saved.items():
            parameters[name].copy_(value)


def fingerprint_of(parameters: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and exact values."""
    total = hashlib.sha256()
    for name in sorted(parameters):
        value = parameters[name].detach().to("cpu").contiguous()
        total.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return total.hexdigest()


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes that the tensors take."""
    return sum(t.numel() * t.element_size() for t in tensors.values())
