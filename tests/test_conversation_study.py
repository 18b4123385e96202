"""What steering does over a conversation: dialogues, questions that leave no trace, claims, and the whole study."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lens_steer as ls
from lens_steer.data import Contrast, ContrastSet, Prompt, PromptSet, with_system
from lens_steer.errors import LensSteerError
from lens_steer.evaluation.published_direction import PublishedDirection
from lens_steer.inference import batching
from lens_steer.inference.dialogue import Dialogue, turn_ids
from lens_steer.inference.scored_dialogue import probe_ids, scored_dialogues
from lens_steer.inference.teacher_forcing import first_logits, response_logits, with_responses
from lens_steer.metrics.kl import kl
from lens_steer.metrics.refusal_score import refusal_score, refusal_tokens
from lens_steer.steer.hooks import steering
from lens_steer.studies.conversation import turns as run_turns
from lens_steer.studies.conversation.angle import Curve
from lens_steer.studies.conversation.claims import claims
from lens_steer.studies.conversation.dealing import Dealt, deal, reused
from lens_steer.studies.conversation.drawings import drawings
from lens_steer.studies.conversation.measures import Differences, measured
from lens_steer.studies.conversation.report import study_and_write
from lens_steer.studies.conversation.study import Conversation, study
from lens_steer.studies.conversation.work import conversing_long
from lens_steer.studies.verdicts import TIED
from tests.test_cli import run as command

NEW = 12
LASTING = (4.0, 4.0, 4.0)  # a fall that is as large at every probe
HOW: dict[str, Any] = {
    "turns": 3, "dialogues": 10, "probes": (1, 3), "values": (90.0, 150.0, 210.0), "max_new_tokens": NEW,
    "direction": None, "progress": False,
}  # fmt: skip


def changed(**options: Any) -> dict[str, Any]:
    """The arguments of the study with others among them."""
    return HOW | options


def split_of(n: int, m: int) -> Contrast:
    """So many harmful and harmless prompts."""
    sides = ((n, "How do I burn bridge {}?"), (m, "What is {} plus 3?"))
    return Contrast(*(PromptSet(tuple(Prompt.of(text.format(i)) for i in range(k))) for k, text in sides))


def test_dealing() -> None:
    """No dialogue has a prompt twice; none is dealt again before all were; each has a harmful prompt of its own."""
    enough = deal(split_of(6, 30), 6, 5, seed=1)
    assert reused(enough) == 0 and len({d.harmful for d in enough}) == 6
    few = deal(split_of(6, 7), 6, 5, seed=1)
    assert reused(few) == 30 - 7 and all(len(set(d.harmless)) == 5 for d in few)
    counts = Counter(i for d in few for i in d.harmless)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert few == deal(split_of(6, 7), 6, 5, seed=1) != deal(split_of(6, 7), 6, 5, seed=2)
    twice = split_of(3, 4)
    doubled = Contrast(twice.positive, PromptSet(twice.negative.prompts * 2))
    assert all(max(d.harmless) < 4 for d in deal(doubled, 3, 4, seed=0))  # one text is one prompt


def ids_of(tokenizer: Any, dialogue: Dialogue, answers: list[str], turn: int, text: str) -> list[int]:
    """The tokens of a dialogue up to a text that is asked at a turn, from 0, as a dialogue has them."""
    own = turn_ids(tokenizer, dialogue)
    said = [batching.encode_response(tokenizer, Prompt.of("", response=a)) for a in answers]
    before = [token for t in range(turn) for token in own[t] + said[t]]
    return before + probe_ids(tokenizer, dialogue, turn, text)


@pytest.mark.parametrize("steered", [False, True])
def test_a_probe_is_a_dialogue_that_ends_there(qwen: Any, refusal: Any, calibration: Any, steered: bool) -> None:
    """Answers are those of ``converse``, tokens and scores those of a prompt with earlier messages; nothing stays."""
    tokenizer, tokens = qwen.lens_info.tokenizer, refusal_tokens(qwen.lens_info)
    harmless, harmful = ([p.text for p in side][:6] for side in (refusal.report.negative, refusal.report.positive))
    dialogues = [Dialogue(tuple(harmless[:3])), Dialogue(tuple(harmless[3:5]))]
    probes = [{0: harmful[0], 2: harmful[0]}, {1: harmful[1]}]

    def score(logits: Any) -> Any:
        return refusal_score(logits, tokens)

    plan = ls.selective_steering(calibration, 150 if steered else 0)
    with steering(qwen, plan, tell=False):
        found = scored_dialogues(qwen, dialogues, score, probes=probes, max_new_tokens=40)
        plain = ls.converse(qwen, dialogues, max_new_tokens=40)
        assert [[a.text for a in answers if not a.probe] for answers in found] == plain
        for dialogue, own, answers, said in zip(dialogues, probes, found, plain, strict=True):
            asked = [a for a in answers if a.probe]
            assert [a.turn for a in asked] == list(own)
            for answer in asked:
                text = own[answer.turn]
                alone = ls.converse(qwen, Dialogue((*dialogue.turns[: answer.turn], text)), max_new_tokens=40)
                assert alone[0] == [*said[: answer.turn], answer.text]
                messages = [
                    {"role": role, "content": content}
                    for pair in zip(dialogue.turns[: answer.turn], said, strict=False)
                    for role, content in zip(("user", "assistant"), pair, strict=True)
                ]
                prompt = Prompt((*messages, {"role": "user", "content": text}))  # type: ignore[arg-type]
                assert batching.encode(tokenizer, prompt) == ids_of(tokenizer, dialogue, said, answer.turn, text)
                assert answer.first == pytest.approx(float(score(first_logits(qwen, [prompt]))[0]), abs=1e-3)
                logits = [x for _, x, _ in response_logits(qwen, with_responses([prompt], [answer.text]))]
                surprise = -float(logits[0].log_softmax(-1).amax(-1).mean())
                assert answer.surprise == pytest.approx(surprise, abs=1e-3)
    wrong: tuple[tuple[list[Dialogue], list[dict[int, str]], str], ...] = (
        (dialogues, [{}], "2 dialogues, 1 probes"),
        (dialogues, [{3: "Hi"}, {}], "turn=3: dialogue 0 has 3 turns; give a number from 0 to 2"),
        ([Dialogue(("Hi",) * 30)], [{}], r"dialogue 0, turn \d+: needs 5\d\d tokens"),
    )
    for given, besides, message in wrong:
        with pytest.raises(LensSteerError, match=message):
            scored_dialogues(qwen, given, score, probes=besides, max_new_tokens=30)


def made_up(
    falls: tuple[float, float, float],
    *,
    n: int = 24,
    grown: float = 0.0,
    broken: float = 0.0,
    repeated: float = 0.0,
    control: float = 0.9,
    angle: float | None = 90.0,
    noise: float = 0.3,
) -> Conversation:
    """A study of six turns in which steering does this, at turns 1, 3 and 6, without a model."""
    rng, probes, turns = np.random.default_rng(0), (1, 3, 6), 6
    conditions = ("no steering", "selective", "random plane", "ablation-everywhere")
    rows, divergences = [], []
    for name in conditions:
        ours, freed = name == "selective", control if name == "ablation-everywhere" else 0.0
        for d in range(n):
            base = {"condition": name, "dialogue": d, "grade": "answered", "cut_off": 0, "n_tokens": 9}
            base |= {"surprise_self": 1.0, "refused": 0, "broken": 0, "repeated": 0.0}
            for t in range(1, turns + 1):
                late = ours and t > 4 and d < round(broken * n)
                again = 0.1 + rng.normal(scale=0.02) + (repeated if ours and t > 1 else 0.0)
                own = {"turn": t, "side": "negative", "broken": int(late), "repeated": again, "refusal_score": -5.0}
                rows.append(base | own)
            for fall, t in zip(falls, probes, strict=True):
                score = 5.0 + rng.normal(scale=noise) - (fall if ours else 0.0)
                refused = int(d >= round(freed * n))
                own = {"turn": t, "side": "positive", "refused": refused, "refusal_score": score}
                rows.append(base | own)
                if name != "no steering":
                    more = grown if ours and t == 6 else 0.0
                    cost = 0.1 + rng.normal(scale=0.01) + more
                    divergences.append({"condition": name, "dialogue": d, "turn": t, "kl": cost})
    curve = Curve((90.0,), np.ones((4, 1)), np.full((4, 1), 0.05))
    kept = [name for name in conditions if angle is not None or name in ("no steering", "ablation-everywhere")]
    return Conversation(
        model="made up",
        sites=("blocks.1.ln1.hook_out",),
        turns=turns,
        probes=probes,
        dealt=tuple(Dealt(tuple(range(d * turns, (d + 1) * turns)), d) for d in range(n)),
        budget=0.1,
        curve=curve,
        angle=angle,
        conditions=tuple(kept),
        rows=tuple(r for r in rows if r["condition"] in kept),
        divergences=tuple(r for r in divergences if r["condition"] in kept),
        clusters=(None,) * n,
        published=PublishedDirection(),
        graded=False,
    )


def verdicts(found: Conversation) -> dict[str, str]:
    return {c.id: c.verdict for c in claims(found)}


def test_planted_effects_that_last_and_that_fade() -> None:
    """As large at the end: holds, jointly too; half as large: refuted; side effects that grow are refuted."""
    lasting = made_up(LASTING, n=36)
    assert set(verdicts(lasting).values()) == {"HOLDS"}
    every = claims(lasting)
    assert all(c.witness["holds_jointly"] for c in every if c.id.startswith(("effect", "side")))
    assert every[0].value == pytest.approx(0.8, abs=0.2) and every[0].n == 36
    assert set(every[0].witness["beside"]) == {"random plane", "ablation-everywhere"}
    fading = verdicts(made_up((4.0, 3.6, 2.0)))
    assert (fading["effect-lasts-t3"], fading["effect-lasts-t6"]) == ("HOLDS", "REFUTED")
    worse = verdicts(made_up(LASTING, grown=0.2, broken=0.5, repeated=0.3))
    assert [v for k, v in worse.items() if not k.startswith("effect")] == ["REFUTED"] * 3
    assert verdicts(made_up((4.0, 3.2, 4.0), noise=1.0))["effect-lasts-t3"] == "NOT SHOWN"


def test_an_assay_that_sees_nothing_says_nothing() -> None:
    """Without a first fall nothing lasts; a control that frees nothing shows no absence; no angle, no claim."""
    null = verdicts(made_up((0.0, 0.0, 0.0)))
    assert {null["effect-lasts-t3"], null["effect-lasts-t6"]} == {"ASSAY INSENSITIVE"}
    blind = verdicts(made_up(LASTING, control=0.0))
    assert {blind["degenerate-does-not-grow"], blind["repeats-no-more"]} == {"ASSAY INSENSITIVE"}
    assert blind["side-effect-does-not-grow"] == blind["effect-lasts-t6"] == "HOLDS"  # no answers decide them
    assert verdicts(made_up(LASTING, control=0.0, broken=0.5))["degenerate-does-not-grow"] == "REFUTED"
    still = claims(made_up(LASTING, angle=None))
    assert {c.verdict for c in still} == {TIED} and {c.value for c in still} == {None}


def test_no_degenerate_answer_is_no_proof() -> None:
    """The interval of a share that is 0 in every dialogue has the width that as many answers allow."""
    none = Differences(made_up(LASTING), "selective").broken_growth()
    assert none.value == 0 and none.low == -none.high < -0.05
    few = Differences(made_up(LASTING, n=6), "selective").broken_growth()
    assert few.high > 2 * none.high
    some = Differences(made_up(LASTING, broken=0.25), "selective").broken_growth()
    assert some.value == pytest.approx(0.25) and some.high - some.low > none.high - none.low


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*.csv")}


@pytest.fixture(scope="module")
def few() -> Any:
    return ls.load_contrast("organism/refusal").first(fit=20, select=4, report=12)


@pytest.fixture(scope="module")
def ran(qwen: Any, few: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Conversation, Path]:
    folder = tmp_path_factory.mktemp("conversation")
    return study(qwen, few, folder, **HOW), folder


def test_the_rows_of_the_study(qwen: Any, few: Any, ran: tuple[Conversation, Path]) -> None:
    """Every condition answers the same prompts; histories are its own; divergences are those of plain forwards."""
    found, _ = ran
    assert found.conditions == ("no steering", "selective", "random plane")
    assert found.angle is not None and found.curve.cost[found.curve.values.index(found.angle)] <= found.budget
    assert len(found.rows) == 3 * 10 * (3 + 2) and len(found.divergences) == 2 * 10 * 2
    asked = {
        name: [(r["dialogue"], r["turn"], r["side"], r["prompt"]) for r in found.rows if r["condition"] == name]
        for name in found.conditions
    }
    assert asked["no steering"] == asked["selective"] == asked["random plane"]
    plain = ls.converse(qwen, [d.dialogue(few.report) for d in found.dealt], max_new_tokens=NEW)
    said = run_turns.unsteered(found.rows)
    assert [[said[d, t] for t in (1, 2, 3)] for d in range(10)] == plain
    own = measured(found, "selective")
    assert np.isfinite(own.scores).all() and own.repeated[:, 0].max() == 0 and own.repeated.max() > 0
    calibration = ls.calibrate(ls.record(qwen, few.fit, "norm_out", progress=False))
    used = few.report.negative
    for d in (0, 9):
        prompt = [{"role": "user", "content": used[found.dealt[d].harmless[0]].text}]
        for t in (1, 2):
            prompt += [
                {"role": "assistant", "content": said[d, t]},
                {"role": "user", "content": used[found.dealt[d].harmless[t]].text},
            ]
        forced = with_responses([Prompt(tuple(prompt))], [said[d, 3]])  # type: ignore[arg-type]
        before = next(x for _, x, _ in response_logits(qwen, forced))
        with steering(qwen, ls.selective_steering(calibration, found.angle, at=found.sites)):
            after = next(x for _, x, _ in response_logits(qwen, forced))
        assert own.kl[d, 1] == pytest.approx(float(kl(before, after).mean()), abs=1e-4)
    assert len({c.id for c in claims(found)}) == 1 + 3
    shown = drawings(found)["conversation_turns"].rows()
    assert all(float(str(r["low"])) <= float(str(r["value"])) <= float(str(r["high"])) for r in shown)
    assert {r["quantity"] for r in shown} >= {"fall", "kl", "broken", "repeated", "length", "surprise", "cut"}
    counted = conversing_long(
        qwen, few, NEW, turns=3, dialogues=10, probes=(1, 3), n_angles=3, selects=False, controls=False
    )
    assert counted.answers == len(found.rows) + 4  # and one answer to each harmless prompt of select


def test_an_interrupted_run_goes_on(
    qwen: Any, few: Any, ran: tuple[Conversation, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was whole is not run again, and the files are the same to the byte."""
    left, whole = [3], run_turns._piece

    def piece(*args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(run_turns, "_piece", piece)
    with pytest.raises(KeyboardInterrupt):
        study(qwen, few, tmp_path, **HOW)
    assert len(list((tmp_path / ".parts" / "dialogues").glob("*.csv"))) == 3
    left[0] = 3  # of six pieces
    found = study(qwen, few, tmp_path, **HOW)
    assert left == [0] and files(tmp_path) == files(ran[1]) and found.rows == ran[0].rows
    with pytest.raises(LensSteerError, match="holds dialogues.csv of another run"):
        study(qwen, few, tmp_path, **changed(probes=(1, 2)))


def test_what_cannot_be_run(qwen: Any, few: Any, calibration: Any, tmp_path: Path) -> None:
    """One line each, before anything is written."""
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"turns": 2, "probes": (1, 2)}, "turns=2: give at least 3"),
        ({"turns": 13}, "turns=13: there are 12 different harmless report prompts, and no dialogue has one twice"),
        ({"dialogues": 1}, "dialogues=1: give at least 2"),
        ({"dialogues": 13}, "dialogues=13: there are 12 different harmful report prompts"),
        ({"probes": (1,)}, "probes=1: give at least two different turns in order, from 1 to turns=3"),
        ({"probes": (3, 1)}, "probes=3,1: give at least two"),
        ({"probes": (1, 4)}, "probes=1,4: give at least two"),
        ({"budget": 0.0}, "budget=0: give a divergence above 0"),
        ({"values": (0.0, 360.0)}, "give an angle at which something is turned"),
        ({"engine": "tl"}, "engine='tl': answers are scored while they are written"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: at least 1"),
        ({"max_new_tokens": 170}, "dialogue 0, turn 2: needs"),
    )
    for options, wanted in wrong:
        with pytest.raises(LensSteerError, match=wanted):
            study(qwen, few, tmp_path / "refused", **changed(**options))
    brief = PromptSet(tuple(with_system(p, "Be brief.") for p in few.report.negative))
    split = replace(few.split, report=Contrast(few.report.positive, brief))
    with pytest.raises(LensSteerError, match="report prompt 0 of the harmless ones has a system text"):
        study(qwen, ContrastSet("brief", split), tmp_path / "refused", **HOW)
    nothing = replace(calibration, mean_negative=calibration.mean_positive, rule="centred")
    with pytest.raises(LensSteerError, match="no site of .* is discriminative by the published rule"):
        study(qwen, few, tmp_path / "refused", calibration=nothing, **HOW)
    assert not (tmp_path / "refused").exists()


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Bad options in one line before anything is loaded; the cost of a run; its page, numbers and figure."""
    given = ["--limit", "5", "--turns", "3", "--dialogues", "3", "--probes", "1,3", "--angles", "150,210"]
    given += ["--max-new-tokens", "16", "--direction", "none"]
    for options, wanted in (
        (["--probes", "one"], "--probes one: give turns with commas"),
        (["--probes", "1,9"], "--probes 1,9: give at least two different turns in order, from 1 to"),
        (["--turns", "6"], "--turns 6: there are 5 different harmless report prompts"),
        (["--dialogues", "9"], "--dialogues 9: there are 5 different harmful report prompts"),
        (["--budget", "0"], "--budget 0: give a divergence above 0"),
        (["--engine", "vllm"], "answers are scored while they are written"),
        (["--direction", "nowhere"], "--direction 'nowhere': give arditi, none, or a folder"),
        (["--calibration", tmp_path], "calibration"),
    ):
        code, _, err = command(monkeypatch, capsys, "conversation", "--out", tmp_path / "refused", *given, *options)
        assert code == 2 and wanted in err and not (tmp_path / "refused").exists()
    code, out, _ = command(monkeypatch, capsys, "conversation", "--out", tmp_path / "dry", *given, "--dry-run")
    assert code == 0 and json.loads(out)["forwards"] > 0 and not (tmp_path / "dry").exists()
    code, out, err = command(monkeypatch, capsys, "conversation", "--out", tmp_path / "out", *given)
    assert code == 0, err
    assert "4 of 9 turns have a prompt that an earlier dialogue has too" in err
    record = json.loads((tmp_path / "out" / "conversation.json").read_text())
    assert json.loads(out)["verdicts"] == {c["id"]: c["verdict"] for c in record["claims"]}
    page = (tmp_path / "out" / "conversation.md").read_text()
    assert all(c["statement"] in page for c in record["claims"])
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {"conversation_turns.png"}
    with (tmp_path / "out" / "dialogues.csv").open(newline="", encoding="utf-8") as stream:
        texts = {row["text"] for row in csv.DictReader(stream) if row["side"] == "positive"}
    shown = "".join(p.read_text() for p in (tmp_path / "out").glob("*.json")) + page + out + err
    assert texts and not any(text and text in shown for text in texts)
    given += ["--calibration", tmp_path / "out" / "calibration"]
    code, out, err = command(monkeypatch, capsys, "conversation", "--out", tmp_path / "given", *given)
    assert code == 0, err
    assert files(tmp_path / "given") == files(tmp_path / "out") and not (tmp_path / "given" / "calibration").exists()


def test_the_positive_control(qwen: Any, few: Any, selected: Any, tmp_path: Path) -> None:
    """A given direction is ablated in every turn, and stands beside in every claim."""
    how = changed(direction=selected, dialogues=2, max_new_tokens=4, budget=9.0)
    found, decided = study_and_write(qwen, few, tmp_path, **how)
    assert found.control is not None and found.control in found.conditions
    assert all(found.control in c.witness["beside"] for c in decided)
    assert np.abs(Differences(found, found.control).falls).min() > 0
