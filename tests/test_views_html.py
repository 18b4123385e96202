"""Views as markup: what comes from outside is escaped, what HTML cannot hold is marked, tables need pandas and views do
not.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import lens_steer as ls
from lens_steer._display import Shown
from lens_steer._io.rowstore import Rows
from lens_steer.data import Contrast, ContrastSet, Prompt, PromptSet, Split
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.selection import settings
from lens_steer.figures.core import Drawing
from lens_steer.interop.exports.certificate import Certificate
from lens_steer.metrics.grading import Outcome
from lens_steer.notebook.views import html
from lens_steer.notebook.views.pieces import Table
from lens_steer.steer.monitor import Monitor
from lens_steer.studies.claim import Claim
from tests.views import EVIL, made, read, rows_of


def test_what_comes_from_outside_is_escaped(calibration: Any) -> None:
    """Prompts, answers, names and tokens with markup in them: :func:`tests.views.read` refuses any tag that is not a
    table's, and the text stands there as it was.
    """
    tag = "<script>alert(1)</script>"
    prompt = Prompt(({"role": "system", "content": EVIL}, {"role": "user", "content": EVIL}), EVIL, None, EVIL)
    prompts = PromptSet((prompt, prompt), EVIL)
    row = {**rows_of()[0], "text": EVIL, "grade": EVIL, "condition": EVIL}
    one = settings([row])
    results: list[Shown] = [
        prompt,
        prompts,
        Contrast(prompts, prompts),
        ContrastSet(EVIL, Split(*[Contrast(prompts, prompts)] * 3)),
        ls.Dialogue((EVIL, EVIL), system=EVIL),
        made(model=EVIL),
        replace(calibration, model=EVIL, rule=EVIL),
        replace(ls.selective_steering(calibration, 9), model=EVIL, positions=EVIL),
        Rows([row]),
        one,
        one[0],
        Claim(
            id=EVIL,
            statement=EVIL,
            formula=EVIL,
            level=EVIL,
            domain=EVIL,
            quantity=EVIL,
            criterion=EVIL,
            value=EVIL,
            n=1,
            verdict=EVIL,
            interval=None,
            witness={EVIL: EVIL},
        ),
        Drawing(EVIL, {"text": [EVIL]}, {EVIL: 1}),
        Outcome(EVIL, None, "positive", {EVIL: 1}),
        Certificate(
            EVIL,
            EVIL,
            {},
            (),
            ({"site": EVIL},),
            EVIL,
            1,
            1,
            1,
            0.0,
            1.0,
            0.0,
            1.0,
            1.0,
            None,
            "float32",
            EVIL,
            1e-5,
            {},
        ),
    ]
    for result in results:
        text, _ = read(result)
        assert tag in text, type(result).__name__
    seen = Monitor(ls.boundary(calibration), "below", _Tokenizer())
    ids, every = torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool)
    seen.add(
        object(),
        torch.tensor([0]),
        torch.arange(2)[None],
        every,
        ids,
        torch.tensor([[0.5, float("nan")]]),
        every,
        every,
    )
    assert tag in read(seen)[0]
    assert "1 more character" not in read(seen)[0]


class _Tokenizer:
    def decode(self, ids: list[int]) -> str:
        return EVIL


def test_what_html_cannot_hold() -> None:
    """Control characters and half a surrogate pair stand as a mark; a long text is cut with a count; the notebook gets
    UTF-8.
    """
    shown = ls.PromptSet((Prompt.of("a\x00b\ud800c" + "x" * 500),))._repr_html_()
    assert "a�b?c" in shown
    assert "(+305 characters)" in shown
    shown.encode()
    assert html.shown(list(range(30))).endswith(", … (30)")
    assert html.facts({}) == html.facts({"a": None, "b": ""}) == ""
    assert html.shown(float("nan")) == "—"
    assert html.spread(50, 3) == [0, 24, 49]


def test_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table says what to install; a view needs no pandas."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        LensSteerError, match=r"to_pandas\(\) needs pandas, which is not installed here: pip install pandas"
    ):
        made().to_pandas()
    assert "Activations(" in made()._repr_html_()


def test_tables_by_hand() -> None:
    """Rows that lack a column have nothing there; a table without rows keeps its columns; units go behind names."""
    frame = Table.of([{"a": 1, "kl": 0.5}, {"a": 2, "angle_low": 3.0}], "a").frame()
    assert frame.columns.tolist() == ["kl_nats", "angle_degrees_low"]
    assert frame["kl_nats"].isna().tolist() == [False, True]
    block = Table({"x": ["u", "v"], "y": [1, 2]}, ("x", "y"), np.eye(2)).frame()
    assert isinstance(block.index, pd.MultiIndex)
    assert block.loc[("v", 2)].tolist() == [0, 1]
    assert len(Table({})) == 0
