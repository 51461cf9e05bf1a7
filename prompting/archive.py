"""What torch writes, OpenAI's TorchScript archives and state dicts, read without running anything of it.

Both are zip files: a pickle that describes the content, the bytes of each tensor, neither compressed nor split, and in
archives code. Of the pickle the data is taken, by an interpreter that has no way to call anything: modules, containers,
tensors, numbers and strings; what names anything else is refused. All checksums are compared. The bytes stay in the
file, mapped.
"""

import math
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dassl.utils.zips import members

DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


class Module:
    """A module of an archive: its attributes by name."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}


def code_of(path: Path) -> bytes:
    """The code in an archive; empty for other files, as state dicts hold none. Errors as `contents_of` has them."""
    members(path)
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(n) for n in archive.namelist() if "/code/" in n and n.endswith(".py"))


def contents_of(path: Path) -> Any:
    """What a file holds, on the CPU; of an archive {name in the module's state dict: tensor}.

    The tensors are the file's pages: read when they are used, shared by all processes that use them, and copied before
    they are written to.

    Raises:
        zipfile.BadZipFile: it is damaged, or no such file.
        ValueError: it names what neither modules nor state dicts need, or its tensors reach out of their bytes.
        OSError: it cannot be read.
    """
    where = members(path)
    entries = [name for name in where if name.count("/") == 1 and name.endswith("/data.pkl")]
    orders = [_bytes(path, place) for name, place in where.items() if name.endswith("/byteorder")]
    if len(entries) != 1 or orders not in ([], [b"little"]):
        raise zipfile.BadZipFile("it is not one that torch writes on machines of this kind")
    folder = entries[0].removesuffix(".pkl")
    mapped = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)

    def storage(kind: str, dtype: torch.dtype, key: str, device: str, length: int) -> torch.Tensor:
        start, size = where[f"{folder}/{key}"]
        if not 0 <= length * dtype.itemsize <= size:
            raise ValueError("a tensor is out of the bounds of its bytes")
        return torch.empty(0, dtype=dtype).set_(mapped[start : start + length * dtype.itemsize])

    try:
        found = _unpickled(_bytes(path, where[entries[0]]), storage)
    except (ValueError, OSError):
        raise
    except Exception as error:  # of a pickle that is up to something, any
        raise ValueError(f"its pickle makes no sense ({type(error).__name__})") from error
    return dict(_named(found, "", set())) if isinstance(found, Module) else found


def _bytes(path, place):
    with open(path, "rb") as file:
        file.seek(place[0])
        return file.read(place[1])


def _named(module, prefix, seen):
    """The tensors of a module; of one that is in several places, under the first of their names."""
    seen.add(id(module))
    for name, value in module.attributes.items():
        if isinstance(value, Module) and id(value) not in seen:
            yield from _named(value, f"{prefix}{name}.", seen)
        elif isinstance(value, torch.Tensor):
            yield prefix + name, value


# The pickle


def _tensor(flat, offset, size, stride, *_):
    """A part of a storage. What torch would check of it depends on its version."""
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor has a shape that is none")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > len(flat) or (0 not in size and last >= len(flat)):
        raise ValueError("a tensor is out of the bounds of its bytes")
    return flat.as_strided(size, stride, offset)


def _first(value, *_):
    return value


def _dict():
    return {}


LISTS = ("boollist", "doublelist", "intlist", "tensorlist")
KNOWN = {
    "collections OrderedDict": _dict,
    "torch Size": _first,
    "torch._utils _rebuild_parameter": _first,
    "torch._utils _rebuild_tensor_v2": _tensor,
    **{f"torch.jit._pickle build_{kind}": _first for kind in LISTS},
    **{f"torch {name}": dtype for name, dtype in DTYPES.items()},
}
"""What a pickle may name; functions take data alone and do nothing but return it."""

FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
FRESH = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
VALUES = {"BINFLOAT", "BININT", "BININT1", "BININT2", "BINUNICODE", "LONG1"}
TUPLES = {"TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _unpickled(data: bytes, storage: Callable[..., torch.Tensor]) -> Any:
    """What a pickle of protocol 2 describes, which is the one that torch writes."""
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        found, stack = stack, marked.pop()
        return found

    def last(count: int) -> list[Any]:
        found = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return found

    for opcode, argument, _ in pickletools.genops(data):
        name: str = opcode.name
        if name in VALUES:
            stack.append(argument)
        elif name in FIXED:
            stack.append(FIXED[name])
        elif name in FRESH:
            stack.append(FRESH[name]())
        elif name == "MARK":
            marked.append(stack)
            stack = []
        elif name in TUPLES:
            items = last(TUPLES[name]) if TUPLES[name] else since_mark()
            stack.append(tuple(items))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("APPEND", "APPENDS"):
            items = last(1) if name == "APPEND" else since_mark()
            list.extend(stack[-1], items)
        elif name in ("SETITEM", "SETITEMS"):
            items = last(2) if name == "SETITEM" else since_mark()
            keys = items[::2]
            if not all(isinstance(key, str | int) for key in keys):
                raise ValueError("a dict has keys that are neither text nor numbers")
            dict.update(stack[-1], zip(keys, items[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_known(argument))
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = last(2)
            stack.append(function(*arguments))
        elif name == "BUILD":
            (state,) = last(1)
            if isinstance(stack[-1], Module):
                stack[-1].attributes.update(dict.items(state))
            elif not isinstance(stack[-1], dict):  # a dict's attributes, its version, are of no use
                raise ValueError("it gives attributes to what has none")
        elif name == "BINPERSID":
            stack.append(storage(*last(1)[0]))
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"its pickle has the operation {name}, which torch does not write")
    (found,) = stack
    return found


def _known(name):
    if name.startswith("__torch__."):
        return Module
    if name not in KNOWN:
        raise ValueError(f"it names {name.replace(' ', '.')}, which neither modules nor state dicts need")
    return KNOWN[name]
