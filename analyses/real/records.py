"""What the studies of real models published, as it is read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from analyses.real.studies import QUICK, STUDIES
from lens_steer._io.atomic import whole_file
from lens_steer.studies.claim import Claim, changed_at

T = TypeVar("T")
MODEL, TOOK, WORK = "model.json", "took.json", "work.json"
NOT_RUN = "Not run yet.\n"  # in place of a table
CLAIM_FILES = (
    "propositions", "site_choice", "headline", "transfer", "angle_transfer", "formats", "conversation", "externalities",
    "traits",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """What one model's studies published."""

    name: str
    folder: Path
    quick: bool

    def record(self, study: str, file: str) -> dict[str, Any] | None:
        """Return what a study's JSON file holds; None where the study was not run."""
        path = self.folder / study / f"{file}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def claims(self, *files: str) -> dict[str, Claim]:
        """Return every claim by its id, without the model's name in it; with names of files, the claims in these."""
        return {key: Claim.of(row) for key, row in claim_rows(self.folder, files or CLAIM_FILES).items()}

    @property
    def head(self) -> str:
        return f"{self.name} (quick)" if self.quick else self.name


def published(out: Path) -> list[Published]:
    """Return what there is, whole studies first."""
    found = []
    for folder, quick in ((out, False), (out / QUICK.name, True)):
        for model in sorted(folder.glob(f"*/{MODEL}")):
            found.append(Published(model.parent.name, model.parent, quick))
    return found


def columns(found: Sequence[Published], read: Callable[[Published], T | None]) -> list[tuple[str, T]]:
    """Return the head of each model's column with what is read of it, where there is anything.

    A quick study stands only where the model has no whole one.
    """
    every = [(p, read(p)) for p in found]
    whole = {p.name for p, data in every if data and not p.quick}
    return [(p.head, data) for p, data in every if data and not (p.quick and p.name in whole)]


def describe(source: Path, folder: Path) -> None:
    """Write which model it was, with the SHA-256 of its weights and of the GGUF file from which they come, if it lies
    beside them.
    """
    name, place = source.name, source.resolve()
    weights = sorted(place.glob("*.safetensors")) if place.is_dir() else []
    beside = [p for p in place.parent.glob("*.gguf") if p.name.lower().startswith(name.lower())] if weights else []
    config = json.loads((place / "config.json").read_text(encoding="utf-8")) if weights else {}
    record = {
        "name": name,
        "architecture": config.get("model_type"),
        "blocks": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "files": {p.name: _sha256(p) for p in (*beside, *weights)},
    }
    write_json(folder / MODEL, record)


def write_json(path: Path, record: Any) -> None:
    """Write a record, whole or not at all."""
    with whole_file(path) as work:
        work.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def claim_rows(folder: Path, files: Sequence[str] = CLAIM_FILES) -> dict[str, Mapping[str, Any]]:
    """Return the rows of all claims in a model's folder, by id without the model's name.

    Where two studies decide one claim, it is that of the later study in :data:`analyses.real.studies.STUDIES`.
    """
    found: dict[str, Mapping[str, Any]] = {}
    paths = [folder / study.name / f"{name}.json" for name in files for study in STUDIES]
    for path in filter(Path.exists, paths):
        record = json.loads(path.read_text(encoding="utf-8"))
        model = record["meta"]["model"]
        for row in record["claims"]:
            statement = row["statement"].replace(model, "the model")
            found[row["id"].removesuffix(f"-{model}")] = {**row, "statement": statement}
    return found


def took(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return what is told of each study's run: its seconds, and where it could not be done, why (``cannot``)."""
    paths = sorted(folder.glob(f"*/{TOOK}"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def verdict_of(claim: Claim) -> str:
    """Return a claim's verdict, marked where its criterion was changed, or it was added, after a look."""
    return claim.verdict if changed_at(claim.id) is None else f"{claim.verdict} (post hoc)"
