"""Archives are read as torch reads them, without running anything of theirs."""

import io
import pickle
import zipfile

import pytest
import torch

from dassl.utils import UserError
from prompting.archive import tensors_of
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
        expected, found = torch.jit.load(path).state_dict(), tensors_of(path)
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


class Executed:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


class TooMuch:
    """A tensor that reaches behind its storage."""

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (Storage(), 0, (1 << 20,), (1,), False, {})


class Storage:
    pass


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(obj, Storage) else None


@pytest.mark.parametrize(
    ("content", "message"),
    [(Executed(), "names builtins.exec, which no module needs"), (TooMuch(), "out of bounds"), ([], "holds no module")],
)
def test_archives_that_are_up_to_something(content, message, tmp_path):
    path, data = tmp_path / "model.pt", io.BytesIO()
    Pickler(data, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", data.getvalue().replace(b"__builtin__", b"builtins"))
        archive.writestr("model/data/0", bytes(16))
        archive.writestr("model/code/__torch__/clip.py", "torch.sigmoid(")
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(str(path), family="openai")
    assert len(str(caught.value).splitlines()) == 1
