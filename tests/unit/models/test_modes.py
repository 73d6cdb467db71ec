"""Evaluation mode for a while: what comes after finds the mode that was there, whatever happened."""

from __future__ import annotations

import pytest
from torch import nn

from evertune.models.modes import evaluating


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_also_after_an_error(training):
    module = nn.Sequential(nn.Dropout(0.5)).train(training)
    with pytest.raises(KeyError), evaluating(module):
        assert not module.training and not module[0].training
        raise KeyError
    assert module.training == module[0].training == training


@pytest.mark.parametrize("training", [True, False])
def test_an_answer_leaves_the_mode_of_a_model_as_it_was(lmm, features, tasks, training):
    lmm.module().train(training)
    sample = tasks[0].test[0]
    lmm.generate(features.get([sample]), [sample.instruction], max_new_tokens=2)
    assert lmm.module().training == training
    lmm.module().eval()
