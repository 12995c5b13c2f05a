"""Precision, recall, density and coverage are those of the authors' own package."""

from __future__ import annotations

import pytest
import torch
from prdc import compute_prdc

from toile.evaluation.neighbours import compare_neighbours


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 0.2), (1.5, 0.0), (1.0, 1.0)])
def test_agrees_with_prdc(k: int, scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(k)
    reference = torch.randn(180, 12, generator=generator) + 5.0
    judged = scale * torch.randn(150, 12, generator=generator) + 5.0 + shift
    found = compare_neighbours(judged, reference, precision_k=k, coverage_k=k)
    expected = compute_prdc(reference.numpy(), judged.numpy(), nearest_k=k)
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, abs=1e-12)
    assert found.precision > 0.0
