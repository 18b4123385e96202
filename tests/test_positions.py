"""Which tokens a specification selects, against plain Python slicing of every row's own tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_steer.errors import LensSteerError
from lens_steer.inference.batching import Batch
from lens_steer.inference.clock import Clock, running
from lens_steer.inference.places import Places
from lens_steer.inference.positions import first_steered, normalized, parse

BOUND = st.one_of(st.none(), st.integers(0, 6))
SIGNED = st.one_of(st.none(), st.integers(-6, 6))


def batch_of(prompts: list[int], responses: list[int]) -> Batch:
    """Rows of so many prompt and response tokens, padded on the left."""
    width = max(p + r for p, r in zip(prompts, responses, strict=True))
    mask = torch.tensor([[0] * (width - p - r) + [1] * (p + r) for p, r in zip(prompts, responses, strict=True)])
    return Batch(tuple(range(len(prompts))), mask.clone(), mask, tuple(responses))


def by_hand(
    spec: tuple[str, int | None, int | None], prompt: int, response: int, generated: int, width: int
) -> list[bool]:
    """The same selection by slicing lists of columns."""
    region, start, stop = spec
    total = prompt + response
    own = list(range(width - total, width + generated))
    tokens = {"all": own, "prompt": own[:prompt], "generated": own[prompt:]}[region]
    chosen = set(tokens[slice(start, stop)])
    return [column in chosen for column in range(width + generated)]


def written(spec: tuple[str, int | None, int | None]) -> str:
    region, start, stop = spec
    return f"{region}[{'' if start is None else start}:{'' if stop is None else stop}]"


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 5)), min_size=1, max_size=4),
    st.integers(0, 4),
    st.one_of(
        st.tuples(st.sampled_from(["all", "generated"]), BOUND, BOUND), st.tuples(st.just("prompt"), SIGNED, SIGNED)
    ),
)
@settings(deadline=None, max_examples=300)
def test_columns_equal_python_slicing(
    rows: list[tuple[int, int]], generated: int, spec: tuple[str, int | None, int | None]
) -> None:
    """Prompts of any lengths, with and without fixed responses, seen in one forward or grown token by token."""
    try:
        clock = Clock(written(spec))
    except LensSteerError:
        return  # an empty slice, refused
    batch = batch_of([p for p, _ in rows], [r for _, r in rows])
    layout, width = Places.of(batch), batch.mask.shape[1]
    wanted = torch.tensor([by_hand(spec, p, r, generated, width) for p, r in rows])
    assert torch.equal(clock.columns(layout, 0, width + generated), wanted)
    grown = [clock.columns(layout, 0, width)] + [
        clock.columns(layout, width + k, width + k + 1) for k in range(generated)
    ]
    assert torch.equal(torch.cat(grown, dim=1), wanted)


def test_a_clock_follows_generation_with_and_without_a_cache() -> None:
    """With a cache the columns go on from what it holds, without one every forward starts anew, as often as one
    likes.
    """
    batch = batch_of([3, 5], [0, 0])
    clock = Clock("generated[1:]")
    with running(batch):
        for _ in range(2):
            seen = []
            for cached, width in ((0, 5), (5, 1), (6, 1), (7, 1)):
                clock.start(2, width, cached)
                seen.append((clock.idle, clock.selected is None))
            assert seen == [(True, False), (True, False), (False, True), (False, True)]
        for width in (5, 6, 7):
            clock.start(2, width)
        assert clock.selected is not None
        assert clock.selected.tolist() == [[False] * 6 + [True]] * 2
        clock.start(2, 4)  # a shorter forward of one's own is not taken for a continuation
        assert clock.idle


def test_ended_answers_are_not_counted() -> None:
    """From a row's end token on, while the batch goes on; with and without a cache."""
    with running(batch_of([3, 5], [0, 0])):
        for cached in (True, False):
            clock, fed = Clock("all"), torch.tensor([[1] * 5 + [7, 9, 9], [1] * 5 + [8, 8, 7]])
            counts = []
            for step in range(4):
                begin = 5 + step - 1 if step and cached else 0
                tokens = fed[:, begin : 5 + step]
                clock.follow(tokens)
                clock.start(2, tokens.shape[1], begin)
                counted = clock.counted(tokens.shape[1], (7,))
                counts.append(None if counted is None else int(counted.sum()))
            # 3 + 5 prompt tokens; the first answer ends at once, the second with its third token
            assert counts == ([8, 1, 1, 0] if cached else [8, 9, 10, 10])


def test_padding_is_never_selected() -> None:
    """Nor with ``all``; a batch without padding is steered whole."""
    clock = Clock("all")
    with running(batch_of([2, 4], [0, 0])):
        clock.start(2, 4)
        assert clock.selected is not None
        assert clock.selected.tolist() == [[False, False, True, True], [True] * 4]
        clock.start(2, 1, 4)
        assert clock.selected is None
    with running(batch_of([4, 4], [0, 0])):
        clock.start(2, 4)
        assert clock.selected is None


def test_terms_are_joined() -> None:
    """A union; spaces do not matter; integers are explicit positions."""
    clock, layout = Clock("prompt[-1]+generated[:1]"), Places.of(batch_of([2, 3], [2, 2]))
    assert clock.columns(layout, 0, 5).tolist() == [[False, False, True, True, False]] * 2
    assert normalized("prompt[-1] + generated") == "prompt[-1]+generated"
    assert normalized([3, 7]) == "all[3]+all[7]"
    assert first_steered("generated[2:]+prompt[-1]") == "token -1 of the prompt"
    assert first_steered("prompt[-1]+prompt[2:]") == "token 2 of the prompt"
    assert first_steered("generated[2:]") == "token 2 of the answer"


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "response",
        "prompt[",
        "prompt[1:2:3]",
        "all[-1]",
        "generated[-2:]",
        "prompt[2:2]",
        "prompt[-1:-3]",
        "prompt[:0]",
        "prompt+",
        "x[1]",
    ],
)
def test_bad_specifications(bad: str) -> None:
    """Each is named with what may stand there."""
    with pytest.raises(LensSteerError, match="positions="):
        parse(bad)


def test_a_forward_of_ones_own_needs_a_layout() -> None:
    """Positions relative to prompts cannot be guessed outside a running batch; ``all`` needs none."""
    with pytest.raises(LensSteerError, match="is not known: run it through lens_steer.generate"):
        Clock("generated").start(1, 4)
    clock = Clock("all")
    clock.announce(torch.tensor([[0, 1, 1]]))
    clock.start(1, 3)
    assert clock.selected is not None
    assert clock.selected.tolist() == [[False, True, True]]
    clock.announce(None)
    assert not clock.started
    clock.start(1, 3)
    assert clock.selected is None
