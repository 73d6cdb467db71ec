"""The value of a quadratic penalty, up to a constant, as the papers write it; its gradient is what methods add."""

from __future__ import annotations

import torch

from evertune.methods.importance import Summed


def penalty(method, parameters):
    rule = method.rule
    if isinstance(rule, Summed):  # 1/2 sum (A θ² - 2 B θ), A = sum F_k, B = sum F_k θ_k
        terms = [rule.importance[n] * p * p - 2 * rule._pull[n] * p for n, p in parameters.items()]
        return method.strength * torch.stack([term.sum() for term in terms]).sum() / 2
    terms = [rule.held()[n] * (p - rule._anchor[n]) ** 2 for n, p in parameters.items()]
    return method.strength * rule._scale * torch.stack([term.sum() for term in terms]).sum()
