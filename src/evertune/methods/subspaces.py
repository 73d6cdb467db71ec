"""Subspaces of a layer's inputs and weights, which `keeplora` and `osf` keep updates out of: plain linear algebra.

A basis is (width, k) with orthonormal columns. Importances are energies: sums of squares of singular values.
"""

from __future__ import annotations

import torch
from torch import Tensor


def without(rows: Tensor, *bases: Tensor) -> Tensor:
    """(n, width) rows without their parts in the bases: X - X P P'. Done twice, as rounding leaves a rest."""
    for _ in range(2):
        for basis in bases:
            rows = rows - (rows @ basis) @ basis.T
    return rows


def principal(weight: Tensor, *, energy: float) -> Tensor:
    """(in, k) right singular vectors of an (out, in) weight, the fewest that have this share of its energy."""
    values, vectors = torch.linalg.eigh((weight.T @ weight).double())
    count = fewest(values.flip(0), energy * float(values.sum()))
    found: Tensor = vectors[:, len(values) - count :].flip(1).float()
    return found


def fewest(values: Tensor, wanted: float) -> int:
    """How many of the descending values sum up to what is wanted; rounding counts as reached."""
    if wanted <= 0:
        return 0
    sums = values.clamp(min=0).cumsum(0)
    return min(len(values), int((sums < wanted * (1 - 1e-9)).sum()) + 1)


def extended(basis: Tensor, gram: Tensor, *fixed: Tensor, covered: float) -> Tensor:
    """(in, k + new) the basis with the fewest new directions that, with `fixed`, have the share `covered` of an energy.

    Gradient projection memory, Saha et al. 2021, arXiv 2103.09762, with the Gram matrix in place of the rows.

    Args:
        basis: (in, k) directions of earlier tasks.
        gram: (in, in) X'X of rows X.
        fixed: other bases whose directions need not be stored.
        covered: share of tr X'X.
    """
    gram = gram.double()
    known = [part.double() for part in (basis, *fixed)]
    have = sum(float((part.T @ gram @ part).diagonal().sum()) for part in known)
    rest = without(without(gram, *known).T, *known)
    values, vectors = torch.linalg.eigh((rest + rest.T) / 2)
    count = fewest(values.flip(0), covered * float(gram.diagonal().sum()) - have)
    new = without(vectors[:, len(values) - count :].flip(1).T, *known).T
    return torch.cat([basis, new.float()], dim=1)


def top_directions(rows: Tensor, count: int) -> Tensor:
    """(count, width) right singular vectors of the largest singular values; zeros where the rank is smaller."""
    _, values, right = torch.linalg.svd(rows.double(), full_matrices=False)
    real = right[:count] * (values[:count] > 1e-6 * values[0].clamp(min=1e-30))[:, None]
    return torch.nn.functional.pad(real, (0, 0, 0, count - len(real))).float()
