"""The tensors of a TorchScript archive, as OpenAI publishes its models, read without running anything of it.

An archive is a zip file: code, a pickle that describes the modules, and the bytes of each tensor, neither compressed
nor split. The pickle may name modules, tensors and containers, and nothing else; the bytes stay in the file, mapped.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}

LISTS = {"build_boollist", "build_doublelist", "build_intlist", "build_tensorlist"}


def code_of(path: Path) -> bytes:
    """The code in a TorchScript archive; empty for other files, as state dicts hold none."""
    if not zipfile.is_zipfile(path):
        return b""
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(n) for n in archive.namelist() if "/code/" in n and n.endswith(".py"))


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """{name in the module's state dict: tensor} of an archive, on the CPU.

    The tensors are the file's pages: read when they are used, shared by all processes that use them, and copied before
    they are written to.

    Raises:
        pickle.UnpicklingError: the pickle names what a module does not need.
        zipfile.BadZipFile, KeyError, ValueError, RuntimeError: the file is damaged, or no such archive.
    """
    with zipfile.ZipFile(path) as archive:
        (entry,) = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        with archive.open(entry) as file:
            module = _Reader(file, archive, path, entry.removesuffix(".pkl")).load()
    if not isinstance(module, _Module):
        raise ValueError("it holds no module")
    return dict(_named(module))


class _Module:
    """What a pickle's modules become: a bag of attributes."""


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, path: Path, folder: str) -> None:
        super().__init__(file)
        self.archive, self.path, self.folder = archive, path, folder
        self.mapped = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name in LISTS:
            return list
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no module needs")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """All of a storage, flat; pid is ("storage", dtype, key, device, number of elements)."""
        _, dtype, key, _, length = pid
        entry = self.archive.getinfo(f"{self.folder}/{key}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{entry.filename} is compressed")
        with open(self.path, "rb") as file:  # names and extras of the entry's own header come before its bytes
            file.seek(entry.header_offset + 26)
            start = entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
        flat = torch.empty(0, dtype=dtype).set_(self.mapped[start : start + entry.file_size])
        return flat[:length]


def _tensor(flat, offset, size, stride, *more):
    return flat.as_strided(size, stride, offset)  # which fails where that is more than there is


def _named(module, prefix=""):
    for name, value in vars(module).items():
        if isinstance(value, _Module):
            yield from _named(value, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor):
            yield prefix + name, value
