"""The pages say what is there: links lead somewhere, files and names exist, the picture of the rooms is the one that is
held, the README is short and runs.
"""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

import lens_steer
from tests.pages import PAGES, ROOT, tables

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`]+)`")
NAME = re.compile(r"lens_steer(?:\.\w+)+")
FILE = re.compile(r"(?:lens_steer|tests|analyses|notebooks|docs|figures)/[\w./-]*")
WRITTEN = "docs/generated/"  # by `make docs`
MAX_README = 10500  # bytes
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in a link to them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", re.sub(r"`", "", head)).strip().lower().replace(" ", "-") for head in heads}


def spans(page: Path) -> list[str]:
    return [" ".join(span.split()) for span in SPAN.findall(prose(page))]


def exists(name: str) -> bool:
    """Whether Python finds something under a dotted name: a module, or what is in one."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file or folder of the checkout, and where a heading is named, to one of the page that is meant; other sites
    are not asked.
    """
    wrong = []
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        found = (page.parent / path).resolve() if path else page
        if WRITTEN in found.as_posix():
            continue
        if not found.exists() or (anchor and anchor not in anchors(found)):
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_names_and_files_exist(page: Path) -> None:
    """What stands in back quotes as a dotted name of the package, as ``ls.…`` or as a path of the checkout is there."""
    text = spans(page)
    names = {name for span in text for name in NAME.findall(span)}
    names |= {f"lens_steer.{name}" for span in text for name in re.findall(r"\bls\.([A-Za-z]\w*)", span)}
    files = {span for span in text if FILE.fullmatch(span)}
    assert not [name for name in sorted(names) if not exists(name)]
    assert not [file for file in sorted(files) if not file.startswith(WRITTEN) and not (ROOT / file).exists()]


def test_what_is_not_there_is_told() -> None:
    """The look-up itself can fail."""
    assert exists("lens_steer.steer.hooks.steering")
    assert not exists("lens_steer.steer.hooks.no_such_name")
    assert not exists("lens_steer.no_such_room.name")
    assert anchors(ROOT / "docs" / "conventions.md") >= {"sites", "answers-without-a-ground-truth"}


def test_the_picture_of_the_rooms_is_the_order_that_is_held() -> None:
    """The rooms in docs/design.md, line by line, are the layers that import-linter holds, and all rooms there are."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = [tuple(layer.split(" | ")) for layer in next(c for c in contracts if c["name"] == "rooms")["layers"]]
    picture = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("## The rooms")[1].split("```")[1]
    drawn = [tuple(line[:36].strip().split(" | ")) for line in picture.strip().splitlines()]
    assert drawn == layers
    package = Path(lens_steer.__file__).parent
    there = {
        p.stem
        for p in package.iterdir()
        if (p / "__init__.py").exists() or (p.suffix == ".py" and p.stem != "__init__")
    }
    assert there == {room for layer in layers for room in layer}
    assert not there & set(lens_steer.__all__)  # a room of that name would hide what users import


def test_every_page_is_in_the_table_of_contents() -> None:
    """docs/index.md names each page of docs/, itself apart."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {line.split("<")[-1].rstrip(">") for line in index.splitlines()}
    pages = [page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in PAGES if page.parent != ROOT]
    assert [page for page in pages if page not in listed] == ["index"]


def test_each_table_is_where_its_command_puts_it() -> None:
    """The Makefile gives every page with markers to a command, and no page without."""
    given = {
        page
        for line in re.findall(r"--page (.+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
        for page in line.split()
    }
    assert given == {page.relative_to(ROOT).as_posix() for _, page in tables()}


def test_the_readme_is_short() -> None:
    """One screen after the other is for the pages it leads to."""
    assert len((ROOT / "README.md").read_bytes()) <= MAX_README


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python, line by line, on the embedded model: the plan steers, and is on disk afterwards."""
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(tmp_path)
    ran: dict[str, object] = {}
    exec(code, ran)
    assert len(ran["texts"]) == len(ran["prompts"].report.positive)  # type: ignore[arg-type,attr-defined]
    assert ran["log"].gate_fire_rate == 1  # type: ignore[attr-defined]
    assert lens_steer.load_plan(tmp_path / "plan") == ran["plan"]
