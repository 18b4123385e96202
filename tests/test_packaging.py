"""What is told about the package agrees with itself: pins with ranges, versions, the files of a wheel, the names that
the reference documents.
"""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lens_steer as ls
from tests.wheel import PACKAGE, ROOT, complaints, expected

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the documentation that knows where a name is documented."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    yield importlib.import_module("names")
    sys.modules.pop("names", None)


def pins() -> dict[str, str]:
    """Pinned versions by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines if "==" in line)
    }


def test_every_requirement_is_pinned_within_its_range() -> None:
    """The package's, and those of every extra; vLLM, which needs an environment of its own, in the Makefile."""
    extras = PROJECT["optional-dependencies"]
    assert set(extras) >= {"dev", "docs", "evals", "export", "notebook"}
    (vllm,) = re.findall(r"^VLLM \?= (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    pinned = {**pins(), "vllm": vllm}
    for text in [*PROJECT["dependencies"], *(line for lines in extras.values() for line in lines)]:
        requirement = Requirement(text)
        assert requirement.specifier, f"{text} has no range"
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text


def test_one_version_everywhere() -> None:
    """pyproject.toml, CITATION.cff, and the newest heading of the changelog."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    headings = [
        line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line.startswith("## ")
    ]
    assert headings[0].split()[1] == PROJECT["version"]


def test_every_folder_of_modules_is_a_package() -> None:
    """So that tools which know no namespace packages find what is in it."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_files_of_a_wheel() -> None:
    """Modules, style, typing mark and all three organisms; what is missing, what does not belong, and a wheel that is
    too large are told.
    """
    wanted = expected()
    for family in ("gemma2", "llama", "qwen2"):
        assert f"lens_steer/organisms/weights/{family}/model.safetensors" in wanted
    assert wanted >= {"lens_steer/py.typed", "lens_steer/figures/lens_steer.mplstyle", "lens_steer/geometry/planes.py"}
    assert complaints([*wanted, "lens_steer-0.1.0.dist-info/METADATA"], 16.0, wanted) == []
    weights = "lens_steer/organisms/weights/llama/model.safetensors"
    assert complaints([*(wanted - {weights}), "notebooks/01_first_steps.ipynb"], 99.0, wanted) == [
        f"{weights} is missing",
        "notebooks/01_first_steps.ipynb does not belong in it",
        "it has 99.0 MiB, more than 20",
    ]


def test_every_public_name_is_documented_once(names: Any) -> None:
    """Under its own page, whose file names differ in more than case; nothing else is."""
    listed = [name for public in names.public_by_module().values() for name in public]
    assert sorted(listed) == sorted(ls.__all__)
    files = [names.filenames().get(f"lens_steer.{name}", f"lens_steer.{name}").lower() for name in listed]
    assert len(files) == len(set(files))
    homes = {module for module in names.public_by_module() if ".cli" not in module}
    assert homes <= set(names.modules())


def test_references_lead_where_python_does(names: Any) -> None:
    """A name means in a docstring what it means in its module; a public one leads to its public page; what is not there
    leads nowhere.
    """
    for target, module, found in (
        ("calibrate", "lens_steer.reports.report", "lens_steer.calibrate"),
        ("lens_steer.geometry.calibration.Calibration", None, "lens_steer.Calibration"),
        ("lens_steer.data.Prompt.group", "lens_steer.data.splits", "lens_steer.Prompt.group"),
        ("METHODS", "lens_steer.steer.methods", "lens_steer.steer.method_table.METHODS"),
        ("Drawn", "lens_steer.figures.stability", "lens_steer.figures.core.Drawn"),
        ("lens_steer.metrics.judges.Verdict", None, "lens_steer.metrics.judges.verdicts.Verdict"),
        ("LensSteerError", "lens_steer._io.jsonl", "lens_steer.LensSteerError"),
        ("no_such_name", "lens_steer.steer.methods", None),
        ("lens_steer.no_such_module.name", None, None),
    ):
        assert names.documented_name(target, module, "generated/api/some-page") == found, target
    assert (
        names.documented_name("PENALTIES", "lens_steer", "generated/api/lens_steer.fit_probe")
        == "lens_steer.probes.probe.PENALTIES"
    )
    assert names.documented_name("PENALTIES", "lens_steer", "generated/api/lens_steer.calibrate") is None


def test_constants_say_what_the_source_says(names: Any) -> None:
    """Short values as written, comments as words, keys and entries of what is long."""
    found = {c.name: c for c in names.constants()["lens_steer.steer.method_table"]}
    assert found["DEFAULT_OF_A_PROBE"].value == "'sttp'"
    assert found["DEFAULT_OF_A_PROBE"].text == "The methods used when none is named."
    assert found["METHODS"].value is None
    assert found["METHODS"].text.startswith("Keys: ``selective``, ``standard``")
    tuples = {c.name: c.value for c in names.constants()["lens_steer.figures.core"]}
    assert tuples["ONE_COLUMN"] == "3.35"


def test_the_prompts_of_the_wheel_test_are_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen of each class, one a line."""
    from tests.wheel import PROMPTS

    monkeypatch.chdir(tmp_path)
    exec(PROMPTS, {})
    texts = {side: (tmp_path / f"{side}.txt").read_text().splitlines() for side in ("positive", "negative")}
    assert {side: len(set(lines)) for side, lines in texts.items()} == {"positive": 16, "negative": 16}
    assert not set(texts["positive"]) & set(texts["negative"])
