"""Groups of options that several commands share: a command takes a group as one parameter.

On the command line each field of the group is an option of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Group:
    """A set of options that belong together.

    In a subclass every field is an option, with its annotation and default.
    """

    def given(self, *names: str) -> dict[str, Any]:
        """Return the options that were given, by name.

        Args:
            names: The fields to look at; without any, all fields.

        Returns:
            The fields that are not None.
        """
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in every.items() if value is not None and (not names or name in names)}


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Spread every parameter of a command that is a :class:`Group` into the fields of the group.

    The fields come after the command's own parameters. All parameters of the returned command are keyword-only.

    >>> @dataclass(frozen=True)
    ... class Size(Group):
    ...     width: int = 1
    ...     height: int = 2
    >>> @grouped
    ... def draw(size: Size, colour: str = "red") -> None:
    ...     print(size, colour)
    >>> draw(height=5)
    Size(width=1, height=5) red
    >>> list(inspect.signature(draw).parameters)
    ['colour', 'width', 'height']
    """
    own, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    groups: dict[str, type[Group]] = {}
    parameters: list[inspect.Parameter] = []
    for p in own.parameters.values():
        kind = hints[p.name]
        if isinstance(kind, type) and issubclass(kind, Group):
            groups[p.name] = kind
        else:
            parameters.append(p.replace(annotation=kind, kind=p.KEYWORD_ONLY))
    for kind in groups.values():
        options = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=options[f.name])
            for f in fields(kind)
        ]

    @wraps(command)
    def run(**given: Any) -> None:
        made = {
            name: kind(**{f.name: given.pop(f.name) for f in fields(kind) if f.name in given})
            for name, kind in groups.items()
        }
        command(**given, **made)

    # typer reads the options from the signature and the annotations, so both must list the fields and not the groups
    vars(run)["__signature__"] = own.replace(parameters=parameters, return_annotation=None)
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
