"""The norm of the gradient does not depend on how it is cut, as torch's own does on CPUs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from launcher.engines.clipping import scale_to, sum_of_squares


def test_the_norm_of_millions_of_values_is_right_where_torchs_is_not() -> None:
    torch.manual_seed(0)
    whole = torch.randn(12_000_000)
    truth = whole.double().norm().item()
    assert abs(torch.linalg.vector_norm(whole).item() / truth - 1) > 1e-5, "torch has become better: drop our own"
    for cut in ([whole], list(whole.split(5_000_001)), [whole.view(3000, 4000), torch.empty(0)]):
        assert sum_of_squares(cut).sqrt().item() == pytest.approx(truth, rel=2e-7)


@pytest.mark.parametrize("limit", [0.5, 1e3, float("inf")])
def test_it_clips_as_torch_does(limit: float) -> None:
    torch.manual_seed(0)
    values = [torch.randn(7, 5), torch.randn(11), torch.zeros(0)]
    parameters = [nn.Parameter(torch.zeros_like(value)) for value in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = value.clone()
    expected = nn.utils.clip_grad_norm_(parameters, limit).item()
    norm = sum_of_squares(values).sqrt().item()
    assert norm == pytest.approx(expected, rel=1e-6)
    scale_to(values, norm, limit)
    for parameter, value in zip(parameters, values, strict=True):
        torch.testing.assert_close(value, parameter.grad)


def test_without_gradients_there_is_no_norm() -> None:
    assert sum_of_squares([]).item() == 0.0
    scale_to([], 0.0, 1.0)
