"""Two distributions compared slice by slice: by hand, against the whole vocabulary at once, never below zero, in
bounded memory.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lens_steer.inference import unembedding
from lens_steer.inference.unembedding import MEASURES, Unembedding, compare
from lens_steer.metrics.kl import kl


def test_two_tokens_by_hand() -> None:
    """A vocabulary of two: p = ½, ½ and q = ¼, ¾, with the bias, the soft cap and every slice size."""
    log3 = float(np.log(3))
    wanted = [
        np.log(4 / 3) / 2,
        0.75 * log3 - np.log(2),
        np.log(2),
        0.25,
        2 * np.log(2) - 0.75 * log3,
        np.log(2),
        np.log(4 / 3),
    ]
    head = Unembedding(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([5.0, 5.0 - log3]))
    p, q = torch.tensor([[log3, 8.0]]), torch.tensor([[2 * log3, -2.0]])
    for size in (1, 2, 3):
        assert compare(p, q, torch.tensor([1]), head, slice_size=size)[:, 0].numpy() == pytest.approx(wanted, abs=1e-6)
    capped = Unembedding(torch.tensor([[0.0], [1.0]]), soft_cap=log3)
    found = compare(torch.tensor([[0.0]]), torch.tensor([[1e4]]), torch.tensor([1]), capped, slice_size=1)
    assert found[:, 0].numpy() == pytest.approx(wanted, abs=1e-6)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sets(st.integers(0, 6), max_size=5))
def test_suppressed_tokens(seed: int, size: int, hidden: set[int]) -> None:
    """A bias of −∞, on whole slices too: as scipy has it, 0 · log 0 = 0; the surprise of a suppressed token is
    infinite, all else finite.
    """
    from scipy.special import entr, rel_entr, softmax

    g = torch.Generator().manual_seed(seed)
    states, other = torch.randn(3, 4, generator=g), torch.randn(3, 4, generator=g)
    bias = torch.randn(7, generator=g)
    bias[list(hidden)] = -torch.inf
    head, ids = Unembedding(torch.randn(7, 4, generator=g), bias), torch.tensor([0, 3, 6])
    p, q = (softmax(head.logits(x, slice(0, 7)).numpy(), axis=-1) for x in (states, other))
    found: dict[str, np.ndarray] = dict(
        zip(MEASURES, compare(states, other, ids, head, slice_size=size).numpy(), strict=True)
    )
    for name, wanted in (
        ("kl", rel_entr(p, q)),
        ("kl_reverse", rel_entr(q, p)),
        ("entropy", entr(p)),
        ("entropy_steered", entr(q)),
        ("total_variation", np.abs(p - q) / 2),
    ):
        assert found[name] == pytest.approx(wanted.sum(axis=-1), rel=1e-6, abs=1e-6), name  # float32 on both sides
    assert np.isinf(found["surprise"]).tolist() == [int(i) in hidden for i in ids]


def test_what_is_no_distribution_stays_so() -> None:
    """NaN is not taken for nothing."""
    head = Unembedding(torch.tensor([[1.0], [0.0]]), torch.tensor([float("nan"), 0.0]))
    one = torch.ones(1, 1)
    assert compare(one, one, torch.tensor([1]), head).isnan().all()


@settings(deadline=None)  # on a busy machine
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from([None, 2.0]), st.sampled_from([0.0, 1e-4, 3.0, 300.0]))
def test_any_slices_equal_the_whole(seed: int, size: int, cap: float | None, gap: float) -> None:
    """Against :func:`lens_steer.metrics.kl.kl` and scipy; never below 0, also where one distribution is all but
    certain.
    """
    from scipy.special import log_softmax

    g = torch.Generator().manual_seed(seed)
    states = torch.randn(3, 4, generator=g)
    other = states + gap * torch.randn(3, 4, generator=g)
    head = Unembedding(torch.randn(7, 4, generator=g), torch.randn(7, generator=g), cap)
    full = [head.logits(x, slice(0, 7)) for x in (states, other)]
    ids = torch.tensor([0, 3, 6])
    found = dict(zip(MEASURES, compare(states, other, ids, head, slice_size=size).numpy(), strict=True))
    log_p, log_q = (log_softmax(x.numpy(), axis=-1) for x in full)
    assert found["kl"] == pytest.approx(kl(*full).numpy(), rel=1e-5, abs=1e-9)
    assert found["kl_reverse"] == pytest.approx(kl(full[1], full[0]).numpy(), rel=1e-5, abs=1e-9)
    assert found["total_variation"] == pytest.approx(np.abs(np.exp(log_p) - np.exp(log_q)).sum(-1) / 2, abs=1e-6)
    assert found["entropy"] == pytest.approx(-(np.exp(log_p) * log_p).sum(-1), abs=1e-5)
    assert found["entropy_steered"] == pytest.approx(-(np.exp(log_q) * log_q).sum(-1), abs=1e-5)
    assert found["surprise"] == pytest.approx(-log_p[range(3), ids], rel=1e-5, abs=1e-5)
    assert found["surprise_steered"] == pytest.approx(-log_q[range(3), ids], rel=1e-5, abs=1e-5)
    assert min(found["kl"].min(), found["kl_reverse"].min(), found["total_variation"].min()) >= 0
    if gap == 0:
        assert found["kl"].max() == found["kl_reverse"].max() == found["total_variation"].max() == 0


def test_rounding_leaves_nothing_below_zero() -> None:
    """Distributions a few roundings apart, whose divergence is smaller than the rounding of its sum."""
    g = torch.Generator().manual_seed(0)
    states = torch.randn(500, 4, generator=g)
    found = compare(
        states,
        states + 1e-8 * torch.randn(500, 4, generator=g),
        torch.zeros(500, dtype=torch.long),
        Unembedding(torch.randn(50, 4, generator=g)),
    )
    assert found[:2].min() == 0 < found[:2].max() < 1e-12


class Live(TorchDispatchMode):
    """Follows how many bytes of tensors that were made inside the ``with`` are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def _free(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given_ = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.numel() and x.untyped_storage().data_ptr() not in given_:
                self.now += x.nbytes
                weakref.finalize(x, self._free, x.nbytes)
        self.peak = max(self.peak, self.now)
        return out


def peak_of_compare(n: int, vocabulary: int, size: int) -> int:
    g = torch.Generator().manual_seed(0)
    states, head = torch.randn(n, 8, generator=g), Unembedding(torch.randn(vocabulary, 8, generator=g))
    with Live() as live:
        compare(states, states + 1, torch.zeros(n, dtype=torch.long), head, slice_size=size)
    return live.peak


def test_memory_does_not_grow_with_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 slices take what 20 do, and positions beyond a limit only what they are given back; larger slices do take
    more.
    """
    few, many = peak_of_compare(20, 20_000, 1000), peak_of_compare(20, 200_000, 1000)
    assert many == few < 20 * 1000 * 8 * 12
    assert peak_of_compare(20, 20_000, 10_000) > 5 * few
    monkeypatch.setattr(unembedding, "MAX_NUMBERS", 20 * 1000)
    assert (
        peak_of_compare(2000, 2000, 1000)
        < few + 2000 * (len(MEASURES) * 2 + 10) * 8
        < peak_of_compare(20, 2000, 1000) * 2
    )
