"""A reader of NumPy object files as data: nothing that the pickle in them names is imported or called.

``numpy.save`` of a dict (the steering configs of Angular Steering) writes a pickle. NumPy's ``allow_pickle=False``
rightly refuses it, because an unpickler runs what the file says. No unpickler is used here. :func:`pickletools.genops`
only splits the stream into opcodes, and this module builds what a plain config needs: dicts, lists, strings, numbers,
arrays of numbers. The few names that NumPy uses to write its own arrays are compared as strings; with any other name
the file is refused. An unpickler with a list of allowed names, such as ``torch.load(weights_only=True)``, would still
call what the list names.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from lens_steer.errors import LensSteerError
from lens_steer.interop.imports.source_files import BROKEN, decoding

RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_LITERALS = (
    "BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8"
).split()
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_KINDS = re.compile(r"[fiu][1248]|O8?")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass
class Array:
    """An array in the stream.

    Attributes:
        value: The numbers of the array or, if NumPy wrapped one object in an array, that object.
    """

    value: Any = None


@dataclass(frozen=True)
class _Name:
    path: str


@dataclass
class _Kind:
    """A dtype: a code such as ``f4``, and a byte order, which follows later in the stream."""

    code: str
    order: str = "="


def read_object_npy(path: Path) -> Any:
    """Return the one object of a ``.npy`` file written by ``numpy.save(path, obj)``, with its arrays as :class:`Array`.

    Raises:
        LensSteerError: If the file is not such a file, if it is truncated, or if it names anything but NumPy's own
            arrays.
    """
    with path.open("rb") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(stream)
        except BROKEN as error:
            raise LensSteerError(f"{str(path)!r} is not a NumPy file, or truncated: {str(error)[:120]}") from None
        if dtype != np.dtype(object) or shape != ():
            raise LensSteerError(f"{str(path)!r} holds an array of {dtype} with shape {shape}, not one object")
        try:
            with decoding(path):
                found = _Walk(stream).result()
        except _Refused as refused:
            raise LensSteerError(
                f"{str(path)!r} holds more than plain data ({refused}) and was not loaded, as that could run code"
            ) from None
    if not isinstance(found, Array):
        raise LensSteerError(f"{str(path)!r} holds a {type(found).__name__}, not an array of one object")
    return found.value


class _Refused(Exception):
    """A request of the stream that plain data does not need."""


class _Walk:
    """A stack machine for the opcodes of plain data.

    Pickle is a program for a stack machine. Literals are pushed onto the stack, MARK begins a group of items, and
    opcodes such as APPENDS or SETITEMS move the group into the container below it. The memo keeps objects for later
    use. REDUCE (a call) and BUILD (setting a state) are allowed for NumPy's arrays and dtypes alone, and build an
    :class:`Array` or a ``_Kind`` here instead of calling anything. Any other opcode is refused.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._actions: dict[str, Callable[[Any], None]] = {
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
            "MARK": self._mark,
            "TUPLE": lambda _: self._put(tuple(self._unmark())),
            "APPEND": lambda _: self._extend([self._stack.pop()]),
            "APPENDS": lambda _: self._extend(self._unmark()),
            "SETITEM": lambda _: self._set([self._stack.pop(-2), self._stack.pop()]),
            "SETITEMS": lambda _: self._set(self._unmark()),
            "MEMOIZE": lambda _: self._remember(len(self._memo)),
            "BINPUT": self._remember,
            "LONG_BINPUT": self._remember,
            "BINGET": lambda index: self._put(self._memo[index]),
            "LONG_BINGET": lambda index: self._put(self._memo[index]),
            "GLOBAL": lambda arg: self._name(*arg.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self._name(self._stack.pop(-2), self._stack.pop()),
            "REDUCE": lambda _: self._reduce(),
            "BUILD": lambda _: self._build(),
        }

    def result(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self._stream):
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            if name in _LITERALS:
                self._put(argument)
            elif name in _CONSTANTS:
                self._put(_CONSTANTS[name]())
            elif name in _TUPLES:
                items = self._stack[-_TUPLES[name] :]
                del self._stack[-_TUPLES[name] :]
                self._put(tuple(items))
            elif name in self._actions:
                self._actions[name](argument)
            else:
                raise _Refused(f"pickle opcode {name}")
        raise EOFError("no end")

    def _put(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _unmark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise _Refused("items appended to what is no list")
        self._stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], dict) or not all(isinstance(key, str) for key in items[::2]):
            raise _Refused("items set by something else than names in a dict")
        self._stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _name(self, module: Any, name: Any) -> None:
        path = f"{module}.{name}"
        if path not in (*RECONSTRUCT, "numpy.ndarray", "numpy.dtype"):
            raise _Refused(f"it names {path}")
        self._put(_Name(path))

    def _reduce(self) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if isinstance(called, _Name) and called.path in RECONSTRUCT:
            self._put(Array())
        elif called == _Name("numpy.dtype") and isinstance(arguments[0], str) and _KINDS.fullmatch(arguments[0]):
            self._put(_Kind(arguments[0]))
        else:
            raise _Refused(f"it calls {called.path if isinstance(called, _Name) else 'what is no name'}")

    def _build(self) -> None:
        state, built = self._stack.pop(), self._stack[-1]
        if isinstance(built, _Kind):
            built.order = {"<": "<", ">": ">", "|": "="}[state[1]]
        elif isinstance(built, Array):
            _, shape, kind, by_column, data = state
            built.value = _contents(shape, kind, bool(by_column), data)
        else:
            raise _Refused(f"it sets the state of {type(built).__name__}")


def _contents(shape: tuple[int, ...], kind: _Kind, by_column: bool, data: Any) -> Any:
    if kind.code.startswith("O"):
        if shape != () or not isinstance(data, list) or len(data) != 1:
            raise _Refused(f"an array of objects of shape {shape}")
        return data[0]
    if not isinstance(data, bytes):
        raise ValueError(f"the numbers of an array of shape {shape} are no bytes")
    flat = np.frombuffer(data, np.dtype(kind.order + kind.code))
    return flat.reshape(shape, order="F" if by_column else "C").copy()
