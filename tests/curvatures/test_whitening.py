"""Products with triangular factors, in strips that leave out what is zero."""

import pytest
import torch

from expunge import curvature
from expunge.curvature import Whitening


@pytest.mark.parametrize("size", [1, 128, 129, 300, 1030])
def test_strips_are_the_whole_product(size: int) -> None:
    random = torch.Generator().manual_seed(size)
    lower, x = torch.randn(size, size, generator=random).tril().double(), torch.randn(5, size).double()
    one = Whitening(lower, lower, "w")
    assert torch.allclose(one.to_outputs(x), x @ lower.T) and torch.allclose(one.to_inputs(x), x @ lower.T)
    assert torch.allclose(one.from_outputs(x), x @ lower) and torch.allclose(one.from_inputs(x), x @ lower)


def test_what_is_not_triangular_is_multiplied_whole() -> None:
    wide, x = torch.randn(200, 300).double(), torch.randn(5, 300).double()
    narrow = Whitening(None, wide, "w", triangular=False)
    assert torch.allclose(narrow.to_inputs(x), x @ wide.T) and torch.allclose(
        narrow.from_inputs(x[:, :200]), x[:, :200] @ wide
    )
    square = torch.randn(300, 300).double()
    assert not torch.allclose(Whitening(None, square, "w").to_inputs(x), x @ square.T)  # taken for triangular


def test_strips_leave_work_out() -> None:
    strips = curvature._strips(1024)
    assert [end - begin for begin, end in strips] == [256] * 4
    assert sum((end - begin) * end for begin, end in strips) == 5 / 8 * 1024**2
