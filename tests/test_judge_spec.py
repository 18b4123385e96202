"""Judges named on the command line: words, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lens_steer.errors import LensSteerError
from lens_steer.metrics.judges import LLMJudge
from lens_steer.metrics.judges.spec import judge_of


def written(folder: Path, content: Any) -> Path:
    path = folder / "judge.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_words_and_files(tmp_path: Path) -> None:
    """A template beside the file is found there; the other arguments reach the judge."""
    assert judge_of("world").name == "world"
    assert judge_of("refusal_12").name == "refusal_12"
    (tmp_path / "ask.txt").write_text("Is this a lie? {prompt} {response}", encoding="utf-8")
    path = written(
        tmp_path,
        {
            "kind": "endpoint",
            "model": "m",
            "base_url": "http://localhost:1/v1",
            "template": "ask.txt",
            "retries": 2,
            "cache": "c.jsonl",
        },
    )
    judge = judge_of(path)
    assert isinstance(judge, LLMJudge)
    assert (judge.model, judge.retries, judge.template) == ("m", 2, "Is this a lie? {prompt} {response}")
    assert judge.cache is not None
    assert Path(str(judge.cache)).parent == tmp_path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ([1], "give world, refusal_12, .*or a .json file with a kind"),
        ({"kind": "oracle"}, r"with a kind \(classifier, endpoint, generative, pattern, preset\)"),
        ({"kind": "endpoint", "modell": "m"}, "missing a required argument: 'model'; endpoint takes model, base_url"),
        ({"kind": "endpoint", "model": "m", "colour": 1}, "unexpected keyword argument 'colour'"),
        ({"kind": "endpoint", "model": "m", "api_key": "sk-secret"}, "holds an api_key: name the environment variable"),
    ],
)
def test_bad_files(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(LensSteerError, match=message) as caught:
        judge_of(written(tmp_path, content))
    assert "sk-secret" not in str(caught.value)


def test_unknown_words(tmp_path: Path) -> None:
    for word in ("nobody", str(tmp_path / "missing.json"), str(tmp_path)):
        with pytest.raises(LensSteerError, match="is neither a known word nor a file: give world"):
            judge_of(word)
