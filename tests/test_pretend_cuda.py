"""The pretended GPU refuses what a GPU refuses, counts what a program waits for, and leaves nothing behind."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from tests.pretend_cuda import CudaTensor, pretend_cuda


def test_nothing_is_left_behind():
    names = ("is_available", "device_count", "_lazy_init", "get_rng_state_all", "is_initialized")
    before = [getattr(torch.cuda, name) for name in names] + [torch.autocast, torch.autograd.has_torch_function]
    halves = torch.ones(2, 3).bfloat16()
    with pytest.raises(ZeroDivisionError), pretend_cuda():
        with torch.autocast("cuda", dtype=torch.float16):
            assert torch.ones(2, 3, device="cuda").half().softmax(-1).dtype == torch.float32
        raise ZeroDivisionError
    assert before == [getattr(torch.cuda, name) for name in names] + [torch.autocast, torch.autograd.has_torch_function]
    assert type(torch.zeros(1)) is torch.Tensor and not torch.cuda.is_initialized()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert halves.softmax(-1).dtype == torch.bfloat16, "the CPU's lists are back"


def test_what_a_gpu_refuses():
    with pretend_cuda():
        x = torch.arange(6.0, device="cuda").view(2, 3)
        assert (x.device, x.is_cuda, x.is_cpu) == (torch.device("cuda:0"), True, False)
        for mixed in (
            lambda: x + torch.ones(3),
            lambda: F.linear(x, torch.ones(4, 3)),
            lambda: torch.cat([x, torch.ones(1, 3)]),
            lambda: x.index_select(0, torch.tensor([0])),
            lambda: F.embedding(torch.tensor([0]), x),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        with pytest.raises(RuntimeError, match="pin"):
            x.pin_memory()
        with pytest.raises(TypeError, match="ByteTensor"):
            torch.cuda.set_rng_state(torch.zeros(16, dtype=torch.uint8, device="cuda"))
        assert (x + torch.tensor(1.0)).is_cuda and x[torch.tensor([1])].is_cuda, "these it takes"
        assert (x * 2).cpu().tolist() == [[0, 2, 4], [6, 8, 10]]
        assert type(pickle.loads(pickle.dumps(x))) is torch.Tensor


def test_a_module_moves_and_learns():
    """As on the CPU, through a checkpointed part and a moved input; its parameters stay the objects that they were."""

    def step(device):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.MultiheadAttention(4, 2, batch_first=True))
        weight = model[0].weight
        optimizer = torch.optim.SGD(model.to(device).parameters(), 0.1)

        def attend(x):
            x = x + torch.ones(4).to(device)
            return model[1](x, x, x, need_weights=False)[0]

        x = model[0](torch.ones(2, 5, 3).to(device))
        checkpoint(attend, x, use_reentrant=False).square().sum().backward()
        optimizer.step()
        assert model[0].weight is weight and weight.grad.device.type == device
        return weight.detach().cpu()

    with pretend_cuda():
        assert torch.equal(step("cuda"), step("cpu"))


def test_what_waits_is_counted():
    with pretend_cuda() as gpu:
        x = torch.tensor([1.0, 2.0, 3.0], device="cuda")
        y = (x * 2).sum()
        assert gpu.syncs == {"upload": 1} and gpu.uploads == 1 and gpu.operations >= 2
        for expected, wait in (
            ({"item": 3}, lambda: (y.item(), bool(y > 1), float(y))),
            ({"to cpu": 2}, lambda: (y.cpu(), x.to("cpu"))),
            ({"tolist": 1}, lambda: x.tolist()),
            ({"size": 2}, lambda: (x.nonzero(), x[x > 1])),
            ({"upload": 3}, lambda: (torch.ones(2).to("cuda"), x[[0, 2]], x.copy_(torch.ones(3)))),
            ({}, lambda: (torch.ones(2).to("cuda", non_blocking=True), torch.zeros(2, device="cuda"), x + 1.5)),
            ({}, lambda: torch.where(x > 1, x, 0).max(dim=0)),
        ):
            gpu.clear()
            wait()
            assert gpu.syncs == expected
            assert all(place.startswith("tests/test_pretend_cuda.py:") for _, place in gpu.places)


def test_autocast_computes_as_on_a_gpu():
    with pretend_cuda():
        x = torch.ones(2, 3, device="cuda", requires_grad=True)
        with torch.autocast("cuda", dtype=torch.float16):
            y = F.linear(x, torch.ones(4, 3, device="cuda"))
            assert y.dtype == torch.float16 and isinstance(y, CudaTensor)
            for wide in (y.softmax(-1), y.sum(), y.exp(), F.normalize(y), F.layer_norm(y, (4,)), y.norm(dim=-1)):
                assert wide.dtype == torch.float32
            loss = F.cross_entropy(y, torch.zeros(2, dtype=torch.long, device="cuda"))
            assert loss.dtype == torch.float32
        loss.backward()
        assert x.grad.dtype == torch.float32
        assert F.linear(x, x).dtype == torch.float32, "outside nothing is cast"
