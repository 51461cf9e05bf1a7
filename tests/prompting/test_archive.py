"""Archives are read as torch reads them, without running anything of theirs."""

import os
import random
import struct
import zipfile

import pytest
import torch

from dassl.utils import UserError
from prompting.archive import contents_of
from prompting.backbone import load_backbone
from tests.prompting.test_backbone import save_archive, tracing
from tests.reference import tiny_clip


@tracing
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_tensors_are_those_that_torch_finds(kind, tmp_path):
    save_archive(tiny_clip(kind), tmp_path / "model.pt")
    odd = torch.nn.Sequential(torch.nn.Linear(3, 4).half(), torch.nn.Conv1d(1, 2, 3))
    odd[0].weight.data = torch.randn(5, 4)[:3].t()  # a part of its storage, in strides of its own
    odd[1].weight = torch.nn.Parameter(odd[0].weight.data[:, :2])  # the same storage
    torch.jit.script(odd).save(tmp_path / "odd.pt")
    for path in (tmp_path / "model.pt", tmp_path / "odd.pt"):
        expected, found = torch.jit.load(path).state_dict(), contents_of(path)
        assert list(found) == list(expected) and len(expected) > 3
        assert all(torch.equal(found[k], expected[k]) and found[k].dtype == expected[k].dtype for k in expected)


@tracing
def test_what_is_written_to_stays_out_of_the_file(tmp_path):
    save_archive(tiny_clip(), tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    model = load_backbone(str(tmp_path / "model.pt"))
    for parameter in model.parameters():
        parameter.add_(1)
    assert (tmp_path / "model.pt").read_bytes() == before
    assert not torch.equal(model.ln_final.weight, load_backbone(str(tmp_path / "model.pt")).ln_final.weight)


# Pickles that are up to something, in the machine's own operations


def text(value):
    return b"X" + struct.pack("<i", len(value)) + value.encode()


def number(value):
    return b"\x8a" + bytes([9]) + value.to_bytes(9, "little", signed=True)


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def row(*items):
    return b"(" + b"".join(items) + b"t"


def called(function, *arguments):
    return function + row(*arguments) + b"R"


def storage(length=4, key="0"):
    kind = named("torch", "FloatStorage")
    return row(text("storage"), kind, text(key), text("cpu"), number(length)) + b"Q"


def tensor(size=(4,), stride=(1,), offset=0, shape=None):
    shape = shape or (row(*map(number, numbers)) for numbers in (size, stride))
    what = named("torch._utils", "_rebuild_tensor_v2")
    return called(what, storage(), number(offset), *shape, b"\x89", b"}")


def module(**attributes):
    items = b"".join(text(key) + value for key, value in attributes.items())
    return named("__torch__.clip", "CLIP") + b")\x81}(" + items + b"ub"


FOLDER = named("__torch__.clip", "CLIP")
SLOTS = row(b"N", b"}" + text("__setstate__") + named("torch._utils", "_rebuild_tensor_v2") + b"s")
DEEP = b")" + b"\x85" * 100_000
NOT_CALLED = "which neither modules nor state dicts need"
OUT = "out of the bounds of its bytes"
ATTACKS = {
    "a command": (called(named("posix", "system"), text("true")), NOT_CALLED),
    "code": (called(named("builtins", "exec"), text("raise SystemExit")), NOT_CALLED),
    "an attribute": (called(named("builtins", "getattr"), tensor(), text("tofile")), NOT_CALLED),
    "a function of torch": (called(named("torch", "load"), text("/dev/zero")), NOT_CALLED),
    "a file of torch": (called(named("torch", "FloatStorage.from_file"), text("/etc/passwd")), NOT_CALLED),
    "a name with dots": (named("torch._utils", "_rebuild_tensor_v2.__globals__"), NOT_CALLED),
    "an instance": (b"(" + named("os", "system").replace(b"c", b"i", 1), "operation INST"),
    "a name off the stack": (text("os") + text("system") + b"\x93", "operation STACK_GLOBAL"),
    "an extension": (b"\x82\x01", "operation EXT1"),
    "a tensor called": (called(tensor(), number(1)), "makes no sense"),
    "a module called": (called(module(), number(1)), "makes no sense"),
    "a dtype called": (called(named("torch", "FloatStorage"), number(1)), "makes no sense"),
    "state of a function": (named("torch._utils", "_rebuild_tensor_v2") + SLOTS + b"b", "gives attributes"),
    "state of a class": (FOLDER + SLOTS + b"b", "gives attributes"),
    "state of a tensor": (tensor() + row(storage(), number(0), number(9), number(9)) + b"b", "gives attributes"),
    "slots of a module": (FOLDER + b")\x81" + SLOTS + b"b", "makes no sense"),
    "a storage of a storage": (row(text("storage"), storage(), text("0"), text("cpu"), number(4)) + b"Q", "no sense"),
    "a storage that is not there": (storage(key="7"), "makes no sense"),
    "a storage elsewhere": (storage(key="../../code/__torch__/clip.py"), "makes no sense"),
    "a storage with a longer tail": (storage(5), OUT),
    "a storage of negative length": (storage(-4), OUT),
    "a tensor behind its storage": (tensor((1 << 20,)), OUT),
    "in steps behind it": (tensor((2,), (1 << 40,)), OUT),
    "in steps that overflow": (tensor((2, 2), (1 << 62, 1 << 62)), OUT),
    "from an offset behind it": (tensor(offset=1), OUT),
    "from a negative offset": (tensor(offset=-1), "a shape that is none"),
    "in negative steps": (tensor(stride=(-1,), offset=3), "a shape that is none"),
    "of a negative size": (tensor((-4,)), "a shape that is none"),
    "of steps that are missing": (tensor((2, 2)), "a shape that is none"),
    "of text": (tensor(shape=[row(text("4")), row(text("1"))]), "a shape that is none"),
    "all memory from four numbers": (tensor((1 << 40,), (0,)), OUT),
    "a key that is deep": (b"}" + DEEP + b"Ns", "neither text nor numbers"),
    "keys of a list": (b"]" + text("key") + b"Ns", "makes no sense"),
    "an empty stack": (b"R", "not enough"),
    "no end": (b"N" * 10 + b"\x8a\xff", "not enough"),
    "a list": (b"]", "holds no state dict"),
}


def write(path, pickled, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("model/data/0", bytes(16), kind)
        archive.writestr("model/code/__torch__/clip.py", "torch.sigmoid(")


@pytest.mark.parametrize("attack", ATTACKS)
def test_pickles_that_are_up_to_something(attack, tmp_path):
    pickled, message = ATTACKS[attack]
    write(tmp_path / "model.pt", pickled)
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(str(tmp_path / "model.pt"), family="openai")
    assert len(str(caught.value).splitlines()) == 1


def test_modules_within_modules(tmp_path):
    """More paths than atoms lead to one tensor; and one path never ends."""
    doubled = module(t=tensor())
    for n in range(200):
        doubled = module(a=doubled + b"q" + bytes([n]), b=b"h" + bytes([n]))
    write(tmp_path / "many.pt", doubled)
    assert list(contents_of(tmp_path / "many.pt")) == ["a." * 200 + "t"]
    write(tmp_path / "round.pt", FOLDER + b")\x81q\0}(" + text("a") + b"h\0" + text("t") + tensor() + b"ub")
    assert list(contents_of(tmp_path / "round.pt")) == ["t"]


def test_zip_files_that_are_up_to_something(tmp_path):
    """Bytes that would have to be unpacked are not mapped, and names are no paths."""
    path = tmp_path / "model.pt"
    write(path, module(t=tensor()), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="makes no sense"):
        load_backbone(str(path), family="openai")
    write(path, module(t=tensor()))
    with zipfile.ZipFile(path, "a") as archive:
        for n in range(3000):
            archive.writestr(f"model/../../{n}", b"")
        (link := zipfile.ZipInfo("model/data/1")).external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        with archive.open(zipfile.ZipInfo("model/data/2"), "w", force_zip64=True) as file:
            file.write(bytes(range(16)))
    assert contents_of(path)["t"].tolist() == [0.0] * 4
    assert os.listdir(tmp_path) == ["model.pt"]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"N.")
    with pytest.raises(UserError, match="not one that torch writes"):
        load_backbone(str(path), family="openai")


@pytest.mark.parametrize("kind", ["archive", "state dict"])
def test_flipped_bits(kind, tmp_path):
    """Each is noticed, or changes nothing."""
    path, model = tmp_path / "model.pt", torch.nn.Sequential(torch.nn.Linear(9, 8), torch.nn.Linear(8, 2).half())
    torch.jit.script(model).save(path) if kind == "archive" else torch.save(model.state_dict(), path)
    whole, expected, noticed = path.read_bytes(), contents_of(path), 0
    expected = {key: value.clone() for key, value in expected.items()}
    for bit in random.Random(0).sample(range(8 * len(whole)), 400):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.unlink()
        path.write_bytes(flipped)
        try:
            found = contents_of(path)
        except (ValueError, zipfile.BadZipFile):
            noticed += 1
            continue
        assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected), bit
    assert 0 < noticed < 400
