"""What of a study's folder is published: numbers, tables and figures, without the text of any answer.

Answers to harmful prompts are never stored outside of the working folder: in published rows the SHA-256 of an answer
stands in its place, by which whoever runs the command again can tell whether theirs is the same.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path

from analyses.comparison import add_headline
from analyses.real.records import claim_rows
from lens_steer._io.atomic import whole_folder
from lens_steer.errors import LensSteerError
from lens_steer.studies.externalities.grading import valid_json

KINDS = (".json", ".csv", ".md", ".png", ".safetensors")
TEXT, HASH = "text", "text_sha256"
# Rows of the choice and parts of runs, from which a run goes on; rows of single tokens, whose means by position are
# published; qualitative.md, which shows answers.
LEFT_OUT = (
    "select.", "select_", "unsteered", "curves_select_", "compliance_select", "json_select", "control_select",
    "traits_select", "traits_token_select", "traits_baseline", "traits_token_baseline", "kl_tokens", "qualitative",
)  # fmt: skip


def publish(work: Path, out: Path) -> None:
    """Copy a finished study from its working folder, with hashes in place of answers.

    Args:
        work: The folder that the command wrote.
        out: The folder to write. Files of an earlier run are removed.
    """
    with whole_folder(out) as made:
        for path in sorted(p for p in work.iterdir() if p.is_file() and is_published(p.name)):
            data = path.read_bytes()
            added = {"json": valid_json} if path.name == "report_json.csv" else {}
            (made / path.name).write_bytes(hashed(data.decode(), added).encode() if path.suffix == ".csv" else data)
        if (made / "comparison.json").exists():
            add_headline(made)
        kept = {p.name for p in made.iterdir()}
        for path in (p for p in out.iterdir() if p.is_file() and p.name not in kept):
            path.unlink()


def is_published(name: str) -> bool:
    """Return whether a file of a working folder is published.

    >>> [is_published(name) for name in ("report.csv", "report.run.json", "select.csv", "figure.pdf", "figure.png")]
    [True, False, False, False, True]
    """
    return name.endswith(KINDS) and not name.endswith(".run.json") and not name.startswith(LEFT_OUT)


def hashed(text: str, added: Mapping[str, Callable[[str], object]] | None = None) -> str:
    """Return a table of rows with the SHA-256 of each text in the place of the text.

    Args:
        text: The table.
        added: Further columns, as functions of the text that is not published.

    Raises:
        LensSteerError: If a row has another number of cells than the head, so that it is not sure which is the text.

    >>> print(hashed("prompt,text\\n0,Hello\\n"), end="")
    prompt,text_sha256
    0,185f8db32271fe25f561a6fc938b2e264306ec304eda518007d1764826381969
    >>> [line[-6:] for line in hashed("text\\n{}\\n", {"json": valid_json}).splitlines()]
    ['6,json', 'a,True']
    >>> hashed("site,value\\n")
    'site,value\\n'
    """
    rows = list(csv.reader(io.StringIO(text, newline="")))
    if not rows or TEXT not in rows[0]:
        return text
    at, width = rows[0].index(TEXT), len(rows[0])
    for i, row in enumerate(rows):
        if len(row) != width:
            raise LensSteerError(f"row {i} has {len(row)} cells, the head {width}: nothing of it is published")
        said = row[at]
        row[at] = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest() if i else HASH
        row += [str(of(said)) if i else name for name, of in (added or {}).items()]
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def verdicts(folder: Path) -> dict[str, str]:
    """Return the verdict of every claim of a model's published studies, by id without the model's name."""
    return {key: row["verdict"] for key, row in claim_rows(folder).items()}


def differing(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return a line for each claim whose verdict is not what it was; claims of one side alone are told too.

    >>> differing({"a": "HOLDS", "b": "HOLDS", "c": "TIED"}, {"a": "HOLDS", "b": "REFUTED", "d": "HOLDS"})
    ['b: was HOLDS, is REFUTED', 'c: was TIED, is gone', 'd: is new, HOLDS']
    """
    found = [f"{k}: was {v}, is {after.get(k, 'gone')}" for k, v in before.items() if after.get(k) != v]
    return found + [f"{k}: is new, {v}" for k, v in after.items() if k not in before]
