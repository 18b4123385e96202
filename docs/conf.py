"""Sphinx configuration: ``make docs`` reads the docstrings and writes ``build/docs``."""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import names  # noqa: E402
import sources  # noqa: E402

sources.write()  # into ``docs/generated``: ignored by git, written anew by every build

project = "lens_steer"
release = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "myst_parser"]

html_theme = "furo"
html_title = f"lens_steer {release}"
html_show_copyright = False
templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autosummary_context = {"public": names.public_by_module(), "constants": names.constants()}
autosummary_filename_map = names.filenames()
autodoc_default_options = {"members": True, "member-order": "bysource", "ignore-module-all": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]  # as written: two names may share one line

nitpicky = True
nitpick_ignore_regex = [
    # Names of other projects: shown, not linked, so that the build needs no network
    (r"py:.*", r"(collections|contextlib|functools|logging|pathlib|pickletools|random|re|types)\..*"),
    (r"py:.*", r"(httpx|jaxtyping|numpy|torch|transformers|transformer_lens|matplotlib|typer)\..*"),
    (
        r"py:class",
        r"Path|RetryCallState|Tensor|ndarray|HookedTransformer|TransformerBridge|HookPoint|Figure|Axes|DataFrame",
    ),  # without their modules
]


UNREADABLE = re.compile(r"""= (<[^<>]*>|'(?:[^'\\]|\\.){80,}'|"(?:[^"\\]|\\.){80,}")""")


def to_documented(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """A name as Python finds it in the module that uses it leads to where it is documented; a field of a dataclass to
    the class.
    """
    if node.get("refdomain") != "py":
        return None
    name = names.documented_name(node["reftarget"], node.get("py:module"), node["refdoc"])
    owner = name.rpartition(".")[0] if name else ""
    domain: Any = env.get_domain("py")
    for target in (name, owner if owner not in names.modules() else None):
        found = target and domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)
        if found:
            return found
    return None


def keep_colons(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """napoleon reads the first line of a property's docstring as ``type: description``; behind an empty comment it
    leaves it alone.
    """
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def readable(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """A default that is no Python (``<factory>``) or a whole page of text stands as ``...``."""
    return signature and UNREADABLE.sub("= ...", signature), returned


def know_inherited_fields(app: Sphinx) -> None:
    """The constructor of a dataclass names the types of inherited fields, which its own module need not know: they
    stand as the module that has them knows them.
    """
    for module in names.modules():
        for value in vars(import_module(module)).values():
            if isinstance(value, type) and value.__module__ == module and is_dataclass(value):
                constructor: Any = value.__init__
                try:
                    get_type_hints(constructor)
                except NameError:
                    known = get_type_hints(value, include_extras=True)
                    constructor.__annotations__ |= {n: known[n] for n in constructor.__annotations__ if n in known}


def relink(app: Sphinx, docname: str, source: list[str]) -> None:
    """The links of a page that is written by hand lead to files of the checkout; here they lead to pages and
    downloads.
    """
    page = Path(app.env.doc2path(docname))
    if page.suffix == ".md" and sources.GENERATED not in page.parents:
        source[0] = sources.with_links(source[0], page.parent, page.parent)


def setup(app: Sphinx) -> None:
    app.connect("source-read", relink)
    app.connect("builder-inited", know_inherited_fields, priority=100)  # before autosummary
    app.connect("missing-reference", to_documented)
    app.connect("autodoc-process-docstring", keep_colons, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", readable)
