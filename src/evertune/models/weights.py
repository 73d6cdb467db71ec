"""Copies and fingerprints of trained parameters: plain functions over {name: tensor}."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from evertune.utils.errors import RunFolderError


def copy_of(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detached copy on the CPU."""
    return {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}


def restore(parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy the tensors of `saved` into the parameters of the same names; the others stay as they are.

    Raises:
        RunFolderError: one is of another shape, or of none of them; nothing was copied then.
    """
    refuse_others(parameters, saved)
    with torch.no_grad():
        for name, value in saved.items():
            parameters[name].copy_(value)


def refuse_others(parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Raise unless every tensor of `saved` can be copied into the parameter of its name.

    Raises:
        RunFolderError: with the tensor's name, and both shapes.
    """
    for name, value in saved.items():
        if name not in parameters:
            raise RunFolderError(f"the model has no trained weights '{name}': they are of another one")
        wanted = parameters[name]
        if value.shape != wanted.shape:
            raise RunFolderError(
                f"the weights '{name}' have shape {tuple(value.shape)}, the model's have {tuple(wanted.shape)}"
            )
        if value.is_floating_point() != wanted.is_floating_point() or value.is_complex():
            raise RunFolderError(f"the weights '{name}' are {value.dtype}, the model's are {wanted.dtype}")


def add_gradient(parameter: nn.Parameter, gradient: Tensor, *, alpha: float = 1.0) -> None:
    """Add `alpha` times a gradient to that of a parameter, which may have none yet."""
    parameter.grad = alpha * gradient if parameter.grad is None else parameter.grad.add_(gradient, alpha=alpha)


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
