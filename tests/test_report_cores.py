"""Pieces of work on all cores: all of them, in order, with their errors."""

from functools import partial

import pytest

from reports.cores import each
from reports.page import slugs


def square(n: int) -> int:
    return n * n


def test_every_piece_is_done_in_order() -> None:
    assert each([partial(square, n) for n in range(20)]) == [n * n for n in range(20)]
    assert each([]) == []


def test_an_error_of_a_piece_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        each([partial(square, 1), lambda: 1 // 0])


def test_slugs_are_safe_and_each_once() -> None:
    assert slugs(["a", "a", "a-2", "../b", "", "ü/.."]) == ["a", "a-2", "a-2-2", "b", "unnamed", "unnamed-2"]
