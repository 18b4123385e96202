"""A calibration of a pretrained model by the command line: what it prints and stores of every site, and what ties it to
template and prompts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import lens_steer as ls
from lens_steer.data import fitted_overlap
from lens_steer.geometry.discriminative import RULES
from tests.real.command import Ended, classes, lens
from tests.real.conftest import CODER

N = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is written."""
    return tmp_path_factory.mktemp("calibrate") / "calibration"


@pytest.fixture(scope="module")
def ended(models: Path, prompts: Path, folder: Path) -> Ended:
    """The command, in bfloat16."""
    return lens(
        "calibrate",
        "--model",
        models / CODER,
        "--dtype",
        "bfloat16",
        *classes(prompts, limit=f"{N},first"),
        "--out",
        folder,
    )


@pytest.fixture(scope="module")
def record(ended: Ended, folder: Path) -> dict[str, Any]:
    """What it wrote."""
    return json.loads((folder / "calibration.json").read_text(encoding="utf-8"))


def test_every_site_is_told_with_how_sure_it_is(ended: Ended, record: dict[str, Any]) -> None:
    """Two sites a block; membership a probability, the area as much; members are what the record says; every rule has
    its number of sites.
    """
    said = ended.printed
    assert (said["n_sites"], len(said["sites"]), said["selected_site"]) == (48, 48, record["selected_site"])
    assert [row["site"] for row in said["sites"] if row["discriminative"]] == record["discriminative_sites"]
    assert all(0 <= row[key] <= 1 for row in said["sites"] for key in ("membership", "auroc"))
    assert said["sites_by_rule"].keys() == set(RULES)
    assert said["sites_by_rule"]["paper"] == said["discriminative_sites"] == len(record["discriminative_sites"])
    assert 0 <= said["selection_margin"] < 2
    sure = said["membership"]
    assert sum(sure[key] for key in ("probability_above_0.95", "between", "probability_below_0.05")) == sure["n"] == 48
    for key in ("membership", "auroc", "cohens_d", "mean_projection_positive", "mean_projection_negative"):
        assert len(record[key]) == 48, key
    d = dict(zip(record["sites"], record["cohens_d"], strict=True))
    assert d[record["selected_site"]] > 1  # what is asked for parts the classes of a real model widely


def test_a_site_s_membership_says_what_the_sign_does(record: dict[str, Any]) -> None:
    """A site inside has opposite signs, one outside has not."""
    inside = {
        site
        for site, p, n in zip(
            record["sites"], record["mean_projection_positive"], record["mean_projection_negative"], strict=True
        )
        if p * n < 0
    }
    assert inside == set(record["discriminative_sites"])


def test_what_was_read_stands_first_and_by_prompt(ended: Ended, record: dict[str, Any], prompts: Path) -> None:
    """The draw in a line; a hash of each prompt, by which those that are asked again later are found."""
    assert ended.err[0].startswith(f"read harmful_train.json: column 'instruction', {N} of 260 prompts (the first)")
    assert ended.err[0].endswith(f"fit {N}+{N}, select 0+0, report 0+0")
    assert len({*record["prompt_hashes_positive"], *record["prompt_hashes_negative"]}) == 2 * N
    seen = (*record["prompt_hashes_positive"], *record["prompt_hashes_negative"])
    again = ls.load_prompts(prompts / "harmful_train.json")[N - 4 : N + 4]
    assert "4 of 8" in str(fitted_overlap(seen, {"": [again]}))
    assert fitted_overlap(seen, {"": [ls.load_prompts(prompts / "harmful_val.json")[:8]]}) is None


def test_the_template_is_recorded_and_its_ids_are_shown(models: Path, record: dict[str, Any], tmp_path: Path) -> None:
    """By hash and text; ``tokens`` tells the same hash, and ids that are Transformers' own."""
    tokenizer = AutoTokenizer.from_pretrained(models / CODER)
    text = record["template"]["text"]
    assert text == tokenizer.chat_template
    assert record["template"]["hash"] == hashlib.sha256(text.encode()).hexdigest()
    file = tmp_path / "prompts.jsonl"
    chats = [
        [{"role": "user", "content": "What is 4 plus 3?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße!"}],
    ]
    file.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats), encoding="utf-8")
    shown = lens("tokens", "--model", models / CODER, "--prompts", file).printed
    assert shown["template"]["hash"] == record["template"]["hash"]
    for chat, row in zip(chats, shown["prompts"], strict=True):
        assert (
            row["ids"] == tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        )
        assert tokenizer.bos_token_id not in row["ids"]  # the conversion gives one that the template does not write
