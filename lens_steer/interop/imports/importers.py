"""The importers of all published formats, one function per format; the module of each describes its format."""

from __future__ import annotations

from lens_steer.interop.gguf.vectors import export_gguf_cvec, import_gguf
from lens_steer.interop.imports.angular import import_angular
from lens_steer.interop.imports.official import import_official
from lens_steer.interop.imports.refusal_direction import import_refusal_direction
from lens_steer.interop.imports.steering_vectors import import_steering_vectors

__all__ = [
    "export_gguf_cvec",
    "import_angular",
    "import_gguf",
    "import_official",
    "import_refusal_direction",
    "import_steering_vectors",
]
