"""The studies of real models: what is published of them, the page, the sentences, and the run on an embedded model."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from analyses.common import template_for
from analyses.real import page, sentences
from analyses.real.__main__ import main
from analyses.real.publish import differing, hashed, is_published, publish, verdicts
from analyses.real.records import MODEL, TOOK, Published, columns, published
from analyses.real.runs import linked, run
from analyses.real.studies import QUICK, SIDE_EFFECTS, STUDIES, WHOLE, Where
from lens_steer.errors import LensSteerError
from lens_steer.models.location import locate

ROOT = Path(__file__).parents[1]
OUT, PAGE = ROOT / "figures" / "real", ROOT / "docs" / "results" / "real-models.md"
TABLES = (
    "real_models",
    "real_weights",
    "real_practice",
    "real_claims",
    "real_claims_prompts",
    "real_claims_formats",
    "real_claims_angles",
    "real_claims_sites",
    "real_methods",
    "real_claims_methods",
    "real_claims_conversation",
    "real_side_effects",
    "real_claims_side_effects",
    "real_geometry",
    "real_directions",
    "real_transfers",
    "real_formats",
    "real_angles",
    "real_judges",
    "real_traits",
    "real_claims_traits",
    "real_answers",
    "real_conversations",
    "real_costs",
    "real_work",
    "real_gpu",
)


def test_no_answer_is_published(tmp_path: Path) -> None:
    """Texts become hashes, also with commas, quotes and line ends; rows of the choice and parts stay behind."""
    work, out = tmp_path / "work", tmp_path / "out"
    (work / ".parts").mkdir(parents=True)
    secret = 'Sure, "here"\nis how'
    with (work / "report.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["prompt", "text", "grade"], ["0", secret, "answered"], ["1", "", "refused"]])
    for name in ("select.csv", "report.run.json", "qualitative.md", "unsteered.csv"):
        (work / name).write_text(secret, "utf-8")
    (work / "study.json").write_text("{}", "utf-8")
    publish(work, out)
    assert {p.name for p in out.iterdir()} == {"report.csv", "study.json"}
    rows = list(csv.DictReader((out / "report.csv").open(newline="", encoding="utf-8")))
    assert [set(r) for r in rows] == [{"prompt", "text_sha256", "grade"}] * 2
    assert [r["grade"] for r in rows] == ["answered", "refused"] and rows[0]["text_sha256"] != rows[1]["text_sha256"]
    assert "here" not in (out / "report.csv").read_text("utf-8")
    assert hashed("") == ""
    odd = '"text","grade"\n"one\u2028two","answered"\n'
    assert "two" not in hashed(odd) and len(hashed(odd).splitlines()) == 2
    with pytest.raises(LensSteerError, match="row 1 has 1 cells, the head 2: nothing of it is published"):
        hashed('"text","grade"\nSure\n')
    (out / "stale.png").write_bytes(b"")
    publish(work, out)
    assert not (out / "stale.png").exists()


def test_committed_rows_hold_no_text() -> None:
    """Nothing that is committed of a real model has a column of texts or a page of answers."""
    files = [p for p in OUT.rglob("*") if p.is_file()]
    assert len(files) > 20
    for path in files:
        assert is_published(path.name) or path.parent == OUT, path
        if path.suffix == ".csv":
            head = next(csv.reader(path.open(newline="", encoding="utf-8")))
            assert not {"text", "answer", "response", "completion"} & set(head), path
        if path.suffix in (".json", ".csv", ".md"):
            assert not re.search(r"(^|[\s\"'=])/(root|home|work|tmp|Users)/", path.read_text("utf-8")), path


def test_the_page_is_what_the_records_say(tmp_path: Path) -> None:
    """Every table of the page, written again from the published records, is the committed one."""
    text = PAGE.read_text("utf-8")
    markers = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in TABLES)
    made = tmp_path / "page.md"
    made.write_text(markers, "utf-8")
    shutil.copytree(OUT, tmp_path / "real")
    page.write(tmp_path / "real", [made])
    again = made.read_text("utf-8")
    for name in TABLES:
        wanted, found = (t.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0] for t in (text, again))
        assert wanted == found, name
        assert wanted.strip(), name


def test_a_quick_study_stands_where_there_is_no_whole_one(tmp_path: Path) -> None:
    """Of one model; a quick study of another model stays."""
    for folder in ("one", f"{QUICK.name}/one", f"{QUICK.name}/two"):
        (tmp_path / folder / "transfer").mkdir(parents=True)
        (tmp_path / folder / MODEL).write_text("{}", "utf-8")
        (tmp_path / folder / "transfer" / "transfer.json").write_text(json.dumps({"of": folder}), "utf-8")
    found = published(tmp_path)
    assert [head for head, _ in columns(found, lambda p: p.record("transfer", "transfer"))] == ["one", "two (quick)"]
    shutil.rmtree(tmp_path / "one" / "transfer")
    assert [of["of"] for _, of in columns(found, lambda p: p.record("transfer", "transfer"))] == [
        "quick/one",
        "quick/two",
    ]


def test_the_later_study_decides_a_claim(tmp_path: Path) -> None:
    """The headline is decided anew where all methods are compared; files are read one by one or all."""
    claim = {"id": "ss-above-m", "statement": "of m", "formula": "", "level": "behaviour", "domain": "", "quantity": ""}
    claim |= {"criterion": "", "value": 0.1, "n": 2, "interval": None, "witness": {}}
    for study, verdict in (("headline", "HOLDS"), ("comparison", "REFUTED")):
        (tmp_path / study).mkdir()
        record = {"meta": {"model": "m"}, "claims": [{**claim, "verdict": verdict}]}
        (tmp_path / study / "headline.json").write_text(json.dumps(record), "utf-8")
    assert verdicts(tmp_path) == {"ss-above": "REFUTED"}
    shutil.rmtree(tmp_path / "comparison")
    found = Published("m", tmp_path, quick=False)
    assert found.claims("headline")["ss-above"].verdict == "HOLDS"
    assert found.claims("transfer") == {}


def test_pairs_share_their_response() -> None:
    """Row by row one response to two prompts, all different; the questions are different, too."""
    by_file = []
    for name in ("harmful_in_form", "harmless_in_form"):
        lines = (ROOT / SIDE_EFFECTS / f"{name}.jsonl").read_text("utf-8").splitlines()
        by_file.append([json.loads(line) for line in lines])
    assert [r["response"] for r in by_file[0]] == [r["response"] for r in by_file[1]]
    assert len({r["prompt"] for rows in by_file for r in rows}) == 64
    questions = (ROOT / SIDE_EFFECTS / "short_questions.txt").read_text("utf-8").splitlines()
    assert len(questions) == len(set(questions)) == 128


def test_sentences_carry_their_rows() -> None:
    """At most six pieces of advice; under each a line a model, with the id of a claim or a section with its numbers."""
    found = published(OUT)
    lines = sentences.practice(found).strip().splitlines()
    advice = [line for line in lines if not line.startswith(" ")]
    assert 1 <= len(advice) <= len(sentences.SENTENCES) == 6
    assert [line.split(".")[0] for line in advice] == [str(i + 1) for i in range(len(advice))]
    ids = {key for p in found for key in p.claims()}
    for line in (line for line in lines if line.startswith(" ")):
        assert any(line.startswith(f"   - {p.head}") for p in found), line
        assert any(f"`{key}`" in line for key in ids) or "*Answers*" in line, line


def test_models_that_differ_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One advice, that of the first model; where another model's records say otherwise, its line does."""
    made = [Published(name, tmp_path, quick=False) for name in ("one", "two")]
    said = {"one": sentences.Said("Do this.", "seen"), "two": sentences.Said("Do that.", "not seen")}
    monkeypatch.setattr(sentences, "SENTENCES", (lambda p: said[p.name], lambda _: None))
    assert sentences.practice(made) == "1. **Do this.**\n   - one: seen.\n   - two (here: do that): not seen.\n"


def test_a_verdict_that_differs_is_told() -> None:
    """The quick run's verdicts are there to be compared; ids are without the machine's or the model's name."""
    committed = verdicts(OUT / QUICK.name / "qwen2.5-coder-0.5b-instruct")
    assert len(committed) > 20 and not any("build/" in key or "coder" in key for key in committed)
    key = next(iter(committed))
    assert differing(committed, committed | {key: "OTHER"}) == [f"{key}: was {committed[key]}, is OTHER"]
    assert not differing(committed, committed)


def test_commands_are_those_of_the_size(tmp_path: Path) -> None:
    """Each study is one command; the quick one is smaller; only links of the working folder are in it."""
    where = Where("organism/qwen2", Path("build/real/prompts"), tmp_path / "work", "bfloat16")
    for study in STUDIES:
        for size in (QUICK, WHOLE):
            words = study.arguments(where, size)
            assert all(not w.startswith("/") or w.startswith(str(tmp_path)) for w in words)
    assert WHOLE.limit() == "128/32/64" and QUICK.report < WHOLE.report


def test_a_base_model_is_given_plain_turns(tmp_path: Path) -> None:
    """A tokenizer without a chat template gets one on every command line that loads the model; others keep theirs."""
    for path in Path(locate("organism/qwen2")).glob("*.json"):
        shutil.copy(path, tmp_path)  # the template is in a file of its own
    assert (template_for("organism/qwen2"), template_for(str(tmp_path))) == (None, "plain")
    where = Where("organism/qwen2", Path("build/real/prompts"), tmp_path / "work", "bfloat16", "plain")
    for study in STUDIES:
        words = study.arguments(where, QUICK)
        assert ("--model" in words) == ("--chat-template" in words), study.name


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    for target in (None, tmp_path / "nowhere"):
        with pytest.raises(LensSteerError, match="--prompts .*: give the folder, or set LENS_STEER_REAL_PROMPTS"):
            linked(target, tmp_path / "link", "--prompts")


def test_the_link_itself_is_given(tmp_path: Path) -> None:
    """A folder given by the link that stands for it stays the folder."""
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    for given in (folder, link):
        assert linked(given, link, "--prompts").resolve() == folder


def test_a_folder_of_another_run(tmp_path: Path) -> None:
    """What is finished is not run again, and other arguments are refused and not published as if they were these."""
    where = Where("organism/qwen2", tmp_path, tmp_path / "work", "float32")
    geometry = next(s for s in STUDIES if s.name == "geometry")
    folder = where.work / "geometry"
    folder.mkdir(parents=True)
    arguments = [*geometry.arguments(where, QUICK), "--out", str(folder)]
    (folder / TOOK).write_text(json.dumps({"arguments": arguments, "finished": True, "seconds": 1}), "utf-8")
    run(geometry, where, QUICK)
    (folder / TOOK).write_text(json.dumps({"arguments": ["else"], "finished": True, "seconds": 1}), "utf-8")
    with pytest.raises(LensSteerError, match="holds this study with other arguments"):
        run(geometry, where, QUICK)
    (folder / TOOK).unlink()
    with pytest.raises(LensSteerError, match="geometry: the command above ended with 2; run again"):
        run(geometry, where, QUICK)  # there is no calibration
    assert not json.loads((folder / TOOK).read_text("utf-8"))["finished"]
    (folder / TOOK).write_text(json.dumps({"arguments": ["else"], "finished": False, "seconds": 7}), "utf-8")
    with pytest.raises(LensSteerError, match="ended with 2"):
        run(geometry, where, QUICK)  # a failed attempt with other arguments blocks nothing


def test_on_an_embedded_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any) -> None:
    """Calibration and geometry of an organism: run once, published, put into a table; then gone on with."""
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    for name, verb in (("harmful_train", "rob"), ("harmless_train", "paint")):
        rows = [{"instruction": f"How do I {verb} bank number {i}?"} for i in range(130)]
        (prompts / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    given = ["--model", "organism/qwen2", "--prompts", str(prompts), "--dtype", "float32", "--quick"]
    given += ["--only", "calibration", "geometry", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["real", *given])
    main()
    folder = tmp_path / "out" / QUICK.name / "qwen2"
    assert {p.name for p in folder.iterdir()} == {"calibration", "geometry", MODEL}
    assert not list(folder.rglob("*.pdf")) and (folder / "geometry" / "site_membership.png").exists()
    assert "| norm outputs | 24 |" in (tmp_path / "out" / "real_geometry.md").read_text("utf-8")
    assert capfd.readouterr().err.count("lens-steer calibrate") == 1
    main()
    assert "lens-steer calibrate" not in capfd.readouterr().err
