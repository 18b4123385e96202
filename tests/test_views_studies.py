"""Results of studies in a notebook: claims, certificates, drawings, sweeps, choices, comparisons, estimates."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import lens_steer as ls
from lens_steer._io.rowstore import Rows
from lens_steer.evaluation.comparison import Comparison
from lens_steer.evaluation.conditions import NONE
from lens_steer.evaluation.control_runs import NO_CONTROLS, Beside
from lens_steer.evaluation.controls import Controls
from lens_steer.evaluation.grids import Grid
from lens_steer.evaluation.protocol import Evaluation, chosen_grids
from lens_steer.evaluation.selection import Constraint, choose, settings
from lens_steer.figures.core import Drawing
from lens_steer.interop.exports.certificate import Certificate
from lens_steer.interop.serving.certificate import EngineCertificate
from lens_steer.metrics.grading import Outcome
from lens_steer.reports.sweep_report import Swept
from lens_steer.stats.areas import auroc
from lens_steer.stats.estimates import Estimate
from lens_steer.stats.means import bootstrap_mean, grouped_mean
from lens_steer.stats.rates import wilson
from lens_steer.studies.claim import Claim
from lens_steer.studies.propositions.verify import Verification
from lens_steer.studies.traits.search import TraitResult
from tests.views import SITES, checked, made, read, rows_of


def test_claims_and_files() -> None:
    """The verdict first; intervals as columns; the witness as JSON."""
    claim = Claim(
        id="a",
        statement="x keeps y",
        formula="f",
        level="formula",
        domain="all",
        quantity="q",
        criterion="at most 1",
        value=0.5,
        n=9,
        verdict="REFUTED",
        interval=(0.1, 0.9),
        witness={"h": [1, 2]},
    )
    text, frame = checked(claim)
    assert text.startswith("REFUTED: a")
    assert frame.loc[0, ["low", "high"]].tolist() == [0.1, 0.9]
    assert json.loads(frame.loc[0, "witness"]) == {"h": [1, 2]}
    many = Verification(
        tuple(replace(claim, id=f"c{i}", verdict="HOLDS" if i else "REFUTED", interval=None) for i in range(45)), {}
    )
    text, frame = checked(many)
    assert frame["verdict"].value_counts().to_dict() == {"HOLDS": 44, "REFUTED": 1}
    assert "… and 5 more claims" in text
    drawing = Drawing("polar", {"value": [1, 2], "mean": [0.5, None]}, {"n": 3})
    text, frame = checked(drawing)
    assert frame["value"].tolist() == [1, 2]
    plan = {"method": "selective"}
    certificate = Certificate(
        "lora",
        "made",
        plan,
        SITES,
        ({"site": "s", "operator": "standard", "reason": "not linear"},),
        "eight questions",
        8,
        16,
        99,
        2e-5,
        20.0,
        1e-6,
        3.0,
        0.5,
        1e-7,
        "float32",
        "hf",
        1e-5,
        {},
    )
    text, frame = checked(certificate)
    assert text.startswith("fail: lora")
    assert "not linear" in text
    assert frame.loc[0, "equal_greedy_tokens"] == 0.5
    assert read(replace(certificate, equal_greedy_tokens=1.0))[0].startswith("pass")
    served = EngineCertificate(
        engine="vllm",
        engine_version="vllm 0.32.0",
        model="made",
        dtype="float32",
        plan=plan,
        digest="a",
        prompts="eight questions",
        n_prompts=8,
        n_positions=99,
        largest_difference=2e-5,
        mean_difference=1e-6,
        largest_allowed=1e-3,
        mean_allowed=1e-4,
        mean_change=0.0,
        mean_from_unsteered=1e-6,
        equal_tokens=1.0,
        largest_gap=0.0,
    )
    text, frame = checked(served)
    assert text.startswith("pass: selective of made") and "would not have been found out" in text
    assert frame.loc[0, "largest_difference"] == 2e-5
    assert read(replace(served, largest_gap=0.1, mean_change=1.0))[0].startswith("fail")


def test_sweeps(calibration: Any) -> None:
    """Rows, settings, a choice, an evaluation, a comparison, a trait's search, outcomes: a setting a row, its numbers
    the setting's.
    """
    rows = rows_of()
    text, frame = checked(rows, longest=400)
    assert len(frame) == 12
    assert "surprise_ref_nats" in frame
    assert "<b>It</b> is." in text
    found = settings(rows)
    text, frame = checked(found)
    assert frame.index.names == ["condition", "variant", "value", "split"]
    assert frame["positive_right"].tolist() == [s.measured["positive_right"].value for s in found] == [0, 0, 0.25]
    assert "refusal_score_nats_low" in frame
    assert checked(found[2])[1].loc[("selective", "", 90.0, "report"), "positive_right_n"] == 4
    choice = choose(found[1:], found[0])
    text, _ = checked(choice)
    assert text.startswith("selective at 90")
    assert (
        "no, and none of 2 settings"
        in read(choose(found[1:], found[0], constraints=[Constraint.parse("positive_right>=1")]))[0]
    )
    grids = [Grid(NONE), Grid("selective", partial(ls.selective_steering, calibration), (0.0, 90.0))]
    assert chosen_grids(grids, {NONE: choose(found[:1], found[0]), "selective": choice})[1].values == (90.0,)
    evaluation = Evaluation(tuple(found), {"selective": choice}, (found[0], found[2]), tuple(rows))
    text, frame = checked(evaluation)
    assert len(frame) == 2
    draws = tuple(replace(found[2], condition="random plane", variant=f"draw {k + 1}") for k in range(3))
    fields = (evaluation.select, evaluation.choices, evaluation.report, evaluation.rows, None, "selective")
    text, frame = checked(Swept(*fields, Beside(Controls(calibration, draws=3), draws)))
    assert len(frame) == 2
    assert "random plane" in text and NO_CONTROLS not in text
    assert NO_CONTROLS in checked(Swept(*fields))[0]
    compared = Comparison(
        evaluation,
        {},
        (),
        0.1,
        {},
        (replace(found[2], condition="selective = KL"),),
        {},
        wilson(1, 4),
        calibration,
        made(),
        0,
        (1.0, 2.0),
        True,
        "positive_right",
        (),
        {},
    )
    assert checked(compared)[1].index.get_level_values("condition").tolist() == [NONE, "selective", "selective = KL"]
    trait = TraitResult(
        tuple(found),
        {"selective": choice},
        {},
        Constraint.parse("positive_degenerate<=0.1"),
        None,
        (found[0], found[2]),
        tuple(rows),
    )
    assert "positive_degenerate ≤ 0.1" in checked(trait)[0]
    _, frame = checked(Outcome("steering plane", 90.0, "positive", {"correct": 3, "refusal": 1}))
    assert frame.xs("correct", level="grade")["rate"].tolist() == [0.75]
    text, frame = checked(wilson(9, 10))
    assert frame.loc[0].tolist() == [0.9, *frame.loc[0, ["low", "high"]], 10]
    assert "0.900 [0.596, 0.982]" in text
    assert checked(type(found)())[1].empty
    assert checked(Rows())[1].empty


def test_estimates_of_every_kind_are_shown() -> None:
    """Whatever function made an estimate, it has the same table."""
    values = np.array([0.0, 1.0, 2.0, 5.0])
    for e in (
        bootstrap_mean(values, resamples=50),
        auroc(values, values - 1),
        grouped_mean(values, ["a", "a", "b", "b"], resamples=50),
        Estimate(1.0, 0.0, 2.0, 3),
    ):
        assert checked(e)[1].columns.tolist() == ["value", "low", "high", "n"]


def test_every_result_has_a_table_and_a_view() -> None:
    """Each type that says it is shown is registered where it says, and its module is loaded only then."""
    code = """if True:
        import sys
        import lens_steer.studies.propositions.verify, lens_steer.evaluation.comparison
        import lens_steer.studies.externalities.study, lens_steer.studies.traits.report
        import lens_steer.interop.exports.certificate, lens_steer.interop.serving.certificate
        import lens_steer.steer.monitor
        import lens_steer.geometry.direction_comparison, lens_steer.geometry.stability, lens_steer.probes.depth
        views = [m for m in sys.modules if m.startswith("lens_steer.notebook.views.")]
        print(sorted(views + [m for m in sys.modules if m == "pandas" and "datasets" not in sys.modules]))
        from importlib import import_module
        from lens_steer._display import Shown
        def every(cls):
            for sub in cls.__subclasses__():
                yield sub
                yield from every(sub)
        found = list(every(Shown))
        for cls in found:
            import_module(f"lens_steer.notebook.views.{cls._view}")
        from lens_steer.notebook.views.pieces import table_of
        plain = table_of.dispatch(object)
        print(len(found), [cls.__name__ for cls in found if table_of.dispatch(cls) is plain])
    """
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[0] == "[]"
    n, missing = out[1].split(" ", 1)
    assert int(n) >= 35
    assert missing == "[]"
