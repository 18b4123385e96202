"""Chat templates: what they drop, the date that stands still, arguments, and what artifacts carry of them."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import lens_steer as ls
from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.inference import batching
from lens_steer.models.templates import DATE, ChatTemplate, fix_template, template_of
from tests.chats import CHATS, DATED, OWN_DATE, RAISES, TURNS, organism, theirs


def test_a_template_that_drops_the_system_message_is_refused(field: Path, tmp_path: Path) -> None:
    """From the file and the command line, in one line; without a system message it serves."""
    tokenizer = organism(chat_template=str(field / "drops_system.jinja"))
    assert batching.encode(tokenizer, CHATS[0]) == theirs(tokenizer, CHATS[0])
    with pytest.raises(LensSteerError, match="leaves out the system message"):
        batching.encode(tokenizer, CHATS[1])


def test_a_system_text_that_also_stands_elsewhere_does_not_hide_that_it_is_dropped() -> None:
    """It is told by a mark of its own, not by looking for its words; one that is written trimmed is no dropped one."""
    tokenizer = organism()
    tokenizer.chat_template = TURNS.replace("in messages", "in messages if m.role != 'system'")
    with pytest.raises(LensSteerError, match="leaves out the system message"):
        batching.render(tokenizer, Prompt.of("Be brief. Hello", system="Be brief."))
    tokenizer.chat_template = TURNS.replace("m.content", "m.content | trim")
    assert "[system] Be brief.\n" in batching.render(tokenizer, Prompt.of("Hello", system="  Be brief. "))


def test_a_template_that_raises_gets_the_system_text_in_the_user_s_message() -> None:
    """As before; where it raises then too, that is one line."""
    tokenizer = organism()
    tokenizer.chat_template = RAISES + TURNS
    assert batching.render(tokenizer, CHATS[1]).startswith("[user] Be brief.\n\n  Gr")
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    for prompt in CHATS[:2]:
        with pytest.raises(LensSteerError, match="the chat template refuses the messages: never"):
            batching.render(tokenizer, prompt)


# --- template, arguments, date ---


def test_the_date_stands_still(field: Path) -> None:
    """The default date for a template that writes today's, another on request, none for a template that writes none."""
    path = str(field / "date.jinja")
    assert "Today is 01 January 2025" in batching.render(organism(chat_template=path), CHATS[0])
    assert "Today is 29 February 2024" in batching.render(
        organism(chat_template=path, template_date="2024-02-29"), CHATS[0]
    )
    assert (template_of(organism(chat_template=path)).date, template_of(organism()).date) == (DATE, None)


@pytest.mark.parametrize(
    "pattern", ["%d %B %Y", "%A, %-d. %b %y (%j) 100%% %m/%d %H:%M:%S", "%Y-%m-%dT%I%p", "%%d", ""]
)
def test_the_clock_that_stands_still(pattern: str) -> None:
    """Writes what Python's own does, whatever the format, also within a macro of the template's."""
    tokenizer = organism(
        chat_template="{% macro today(f) %}{{ strftime_now(f) }}{% endmacro %}{{ today('" + pattern + "') }}",
        template_date="2024-02-09",
    )
    assert batching.render(tokenizer, CHATS[0]) == datetime(2024, 2, 9).strftime(pattern)


def test_dates_as_llama_asks_for_them() -> None:
    """``date_string`` where it is asked for; a template with a date of its own keeps it unless another is given."""
    tokenizer = organism(chat_template=DATED, template_date="2024-02-29")
    assert "Today: 29 Feb 2024" in batching.render(tokenizer, CHATS[0])
    tokenizer = organism(chat_template=OWN_DATE)
    assert "26 Jul 2024" in batching.render(tokenizer, CHATS[0]) and template_of(tokenizer).date is None
    assert "Today: 29 Feb 2024" in batching.render(
        organism(chat_template=OWN_DATE, template_date="2024-02-29"), CHATS[0]
    )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"template_args": {"enable_thinkng": False}},
            "template_args: the chat template has no use for 'enable_thinkng'",
        ),
        ({"template_args": {"messages": 1}}, "template_args: 'messages' is not the caller's to set"),
        ({"template_args": {"m": object()}}, "template_args=.*: values must be plain"),
        ({"template_date": "2024-02-29"}, "template_date='2024-02-29': the chat template writes no date"),
        (
            {"chat_template": DATED, "template_date": "tomorrow"},
            "template_date='tomorrow' is no date: give it as YYYY-MM-DD",
        ),
    ],
)
def test_bad_arguments(how: dict[str, Any], message: str) -> None:
    """Named, with the value and the mend."""
    with pytest.raises(LensSteerError, match=message):
        organism(**{"chat_template": TURNS} | how)


def test_arguments_for_no_template() -> None:
    """A tokenizer without a template takes none."""
    tokenizer = organism()
    tokenizer.chat_template = None
    with pytest.raises(
        LensSteerError, match="template_args and template_date are for a chat template, and the model has none"
    ):
        fix_template(tokenizer, {"a": 1})


def test_a_record_of_a_template() -> None:
    """Comes back as it was; its short name tells text, arguments and date apart; a broken one is refused."""
    kinds = [ChatTemplate("a"), ChatTemplate("b"), ChatTemplate("a", {"x": 1}), ChatTemplate("a", {}, DATE)]
    assert [ChatTemplate.read(json.loads(json.dumps(k.row()))) for k in kinds] == kinds
    assert len({k.short for k in kinds}) == 4 and kinds[0].hash == kinds[2].hash
    with pytest.raises(LensSteerError, match="the record of a chat template lacks text, args or date"):
        ChatTemplate.read({"hash": "a"})


def test_artifacts_carry_the_template_and_a_difference_is_told_once(
    field: Path, tmp_path: Path, refusal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Calibration, plan and probe, through their files; another template, arguments or date is told at the first
    steering, and only then.
    """
    path = str(field / "thinks.jinja")
    model: Any = ls.load_model("organism/qwen2", chat_template=path, template_args={"enable_thinking": False})
    few = type(refusal.fit)(refusal.fit.positive[:6], refusal.fit.negative[:6])
    sites = ["blocks.5.hook_resid_post", "blocks.6.hook_resid_post"]
    acts = ls.record(model, few, sites, progress=False)
    calibration = ls.calibrate(acts)
    ls.save_calibration(calibration, tmp_path / "cal")
    ls.save_plan(ls.act_add(calibration, 1.0, at=sites[0]), tmp_path / "plan")
    ls.save_probe(ls.fit_probe(acts, sites[0], C=1.0), tmp_path / "probe")
    back = ls.load_calibration(tmp_path / "cal"), ls.load_plan(tmp_path / "plan"), ls.load_probe(tmp_path / "probe")
    for made in back:
        assert made.template is not None
        assert made.template == model.lens_info.template and made.template.args == {"enable_thinking": False}
    assert ls.boundary(calibration).template == calibration.template
    with ls.steering(model, back[1]):
        pass
    assert not caplog.records
    other: Any = ls.load_model("organism/qwen2", chat_template=path)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with ls.steering(other, back[1]):
                pass
    told = [r.getMessage() for r in caplog.records if "chat template" in r.getMessage()]
    assert len(told) == 1 and "args {'enable_thinking': False} and {}" in told[0]
    # what an earlier release wrote says nothing of its template, and nothing is told
    facts = json.loads((tmp_path / "cal" / "calibration.json").read_text(encoding="utf-8"))
    del facts["template"]
    (tmp_path / "cal" / "calibration.json").write_text(json.dumps(facts), encoding="utf-8")
    assert ls.load_calibration(tmp_path / "cal").template is None


@pytest.mark.parametrize("value", ["false", "True"])
def test_a_truth_value_in_quotation_marks_is_refused(value: str) -> None:
    """A template takes every text for true, so that ``"false"`` would leave thinking on."""
    with pytest.raises(LensSteerError, match=f"is a text, which counts as true: write {value.lower()} without"):
        ChatTemplate.of("{% if enable_thinking %}…{% endif %}", {"enable_thinking": value})


# --- tokenizers and folders that lack something ---
