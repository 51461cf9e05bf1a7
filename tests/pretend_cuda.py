"""A pretended GPU, for machines without one: tensors that say they are on cuda:0, and compute on the CPU.

    with pretend_cuda() as gpu:
        trainer = train.main([...])     # finds a GPU, and computes on it
    gpu.syncs                           # how often the program waited for it, by kind

What holds on a GPU holds here: an operation on tensors of both devices is a RuntimeError unless the one on the CPU is
a single number or CUDA takes it too; a tensor on the GPU gives no numpy array; autocast follows CUDA's lists. Numbers
are the CPU's: of speed, memory and the kernels' rounding nothing can be learned. Loaders must have no workers.

How: `CudaTensor` wraps a CPU tensor. A dispatch mode sees every operation of torch, takes the wrapped tensors out,
computes, and wraps the result; a function mode catches what names a device. torch.cuda's functions have stand-ins
within the context, and all is as before after it.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._pytree import tree_flatten, tree_map

REPO = Path(__file__).parents[1]
CUDA = torch.device("cuda:0")
aten = torch.ops.aten

ACROSS = {aten.copy_.default, aten._to_copy.default, aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
ACROSS |= {aten._index_put_impl_.default}
"""Operations that CUDA does with tensors of both devices: copies, and indices on the CPU."""

OF_UNKNOWN_SIZE = ("aten.nonzero", "aten.masked_select", "aten._unique", "aten.unique")
"""What has to wait to know its result's size; an index of booleans does too."""

FLOAT32_UNDER_AUTOCAST = (
    *("exp", "log", "log1p", "pow.Tensor_Scalar", "rsqrt", "reciprocal", "cumsum", "softplus", "layer_norm"),
    *("softmax.int", "log_softmax.int", "sum", "sum.dim_IntList", "linalg_vector_norm", "norm.ScalarOpt_dim"),
    *("nll_loss", "cross_entropy_loss", "kl_div", "l1_loss", "cosine_similarity"),
)
"""Operations that autocast does in float32 on a GPU and not on a CPU, as far as this project may come by them."""


class Gpu:
    """What happened on the pretended GPU.

    Attributes:
        syncs: {kind: how often the program waited for the GPU}, kinds "item" (a number or truth value is asked for),
            "to cpu", "tolist", "size" (of a result that depends on the values) and "upload" (unless it is told that it
            need not be waited for, which is taken for a copy from pinned memory).
        places: {(kind, "file:line" of the repository): how often}.
        operations, uploads: how many operations it did, and tensors it was given.
    """

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self.syncs, self.places, self.operations, self.uploads = Counter(), Counter(), 0, 0

    def upload(self, waits=True):
        self.uploads += 1
        if waits:
            self.sync("upload")

    def sync(self, kind):
        self.syncs[kind] += 1
        self.places[kind, _place()] += 1


def _place():
    """The innermost line of the repository that is not in this file."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(REPO) and path != Path(__file__) and "site-packages" not in path.parts:
            return f"{path.relative_to(REPO)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class CudaTensor(torch.Tensor):
    """A tensor on the pretended GPU; `held` is where its numbers are.

    To torch's C++ it is on the CPU, so that autograd needs no stream; asked from python it is on cuda:0.
    """

    gpu = None  # the Gpu of the context

    @staticmethod
    def __new__(cls, held):
        self = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype
        )
        self.held = held
        return self

    def __init__(self, held):
        pass

    def __repr__(self, **kwargs):
        return f"CudaTensor({self.held})"

    # that there are these two has modules keep their parameters when they move, as on a GPU

    def __tensor_flatten__(self):
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner, *shape):
        return CudaTensor(inner["held"])

    def __reduce_ex__(self, protocol):
        return self.cpu().__reduce_ex__(protocol)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(cls.gpu, function, args, kwargs or {})

    device, is_cuda, is_cpu = CUDA, True, False

    def get_device(self):
        return 0

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.held = value.held

    def to(self, *args, **kwargs):
        return _to(self.gpu, self, *args, **kwargs)

    def cpu(self):
        return _moved(self.gpu, self, torch.device("cpu"))

    def cuda(self, *args, **kwargs):
        return self

    def pin_memory(self, *args):
        raise RuntimeError("cannot pin a tensor on cuda:0, only dense CPU tensors can be pinned")

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")

    __array__ = numpy

    def tolist(self):
        self.gpu.sync("tolist")
        return self.held.tolist()


class _Functions(TorchFunctionMode):
    """Where tensors on the CPU come to the GPU: torch's functions that are told a device."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.backward:
            with self:
                return _backward(*args, **kwargs)
        if function is torch.Tensor.pin_memory:
            return args[0]
        kwargs.pop("pin_memory", None)
        if function is torch.Tensor.cuda:
            return _moved(self.gpu, args[0], CUDA)
        if function is torch.Tensor.to:
            return _to(self.gpu, *args, **kwargs)
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type != "meta":
            # a factory; told so, torch would start CUDA
            device, needs_grad = torch.device(kwargs.pop("device")), kwargs.pop("requires_grad", False)
            made, has_data = function(*args, **kwargs), function in (torch.tensor, torch.as_tensor, torch.asarray)
            if has_data or device.type != "cuda" or isinstance(made, CudaTensor):
                return _moved(self.gpu, made, device).requires_grad_(needs_grad)
            return CudaTensor(made).requires_grad_(needs_grad)
        return function(*args, **kwargs)


def _to(gpu, tensor, *args, **kwargs):
    device, dtype, waits = _what_to(*args, **kwargs)
    if dtype is not None:
        tensor = torch.Tensor.to(tensor, dtype)
    return tensor if device is None else _moved(gpu, tensor, torch.device(device), waits)


def _what_to(*args, device=None, dtype=None, non_blocking=False, **how):
    """What the arguments of Tensor.to ask for: device, dtype, and to wait for it."""
    for argument in args:
        if isinstance(argument, torch.Tensor):
            device, dtype = argument.device, argument.dtype
        elif isinstance(argument, torch.dtype):
            dtype = argument
        elif isinstance(argument, bool):
            non_blocking = argument
        elif isinstance(argument, str | int | torch.device):
            device = f"cuda:{argument}" if isinstance(argument, int) else argument
    return device, dtype, not non_blocking


def _moved(gpu, tensor, device, waits=True):
    if isinstance(tensor, CudaTensor) == (device.type == "cuda"):
        return tensor
    if tensor.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(f"a gradient across devices, at {_place()}")
    if device.type == "cuda":
        gpu.upload(waits)
        return CudaTensor(tensor.detach().clone())
    gpu.sync("to cpu")
    return tensor.detach().held.clone()


def compute(gpu, function, args, kwargs):
    """An operation of torch, on what the tensors hold."""
    flat = tree_flatten((args, kwargs))[0]
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    on_gpu = [x for x in tensors if isinstance(x, CudaTensor)]
    if not on_gpu:
        return function(*args, **kwargs)
    gpu.operations += 1
    if function not in ACROSS and any(x.dim() for x in tensors if not isinstance(x, CudaTensor)):
        found = [f"{'cuda:0' if isinstance(x, CudaTensor) else 'cpu'} {tuple(x.shape)}" for x in tensors]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found {', '.join(found)} in {function} at {_place()}"
        )
    if function is aten._local_scalar_dense.default:
        gpu.sync("item")
    elif (
        str(function).startswith(OF_UNKNOWN_SIZE)
        or function is aten.index.Tensor
        and any(x is not None and x.dtype == torch.bool for x in args[1])
    ):
        gpu.sync("size")
    elif function is aten.copy_.default and not (isinstance(args[0], CudaTensor) and isinstance(args[1], CudaTensor)):
        waits = not (len(args) > 2 and args[2])
        if isinstance(args[0], CudaTensor):
            gpu.upload(waits)
        elif waits:
            gpu.sync("to cpu")
    elif function in ACROSS and any(x.dim() for x in tensors if not isinstance(x, CudaTensor)):
        gpu.upload()  # an index on the CPU
    held = {id(x.held): x for x in on_gpu}
    args, kwargs = tree_map(lambda x: x.held if isinstance(x, CudaTensor) else x, (args, kwargs))
    result = function(*args, **kwargs)

    def wrap(x):
        if not isinstance(x, torch.Tensor) or isinstance(x, CudaTensor):
            return x
        # what an operation in place gives back is its argument
        return held[id(x)] if id(x) in held else x if any(x is y for y in args) else CudaTensor(x)

    return tree_map(wrap, result)


def _backward(loss, gradient=None, retain_graph=None, create_graph=False, inputs=None):
    torch.autograd.backward(loss, gradient, retain_graph, create_graph, inputs=inputs)


def _in_float32(operation):
    """What autocast does on a GPU with an operation that half precision does not suffice for."""

    def cast(x):
        return x.float() if isinstance(x, torch.Tensor) and x.dtype in (torch.float16, torch.bfloat16) else x

    def kernel(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
            return operation(*map(cast, args), **kwargs)

    return kernel


@contextmanager
def _cuda_autocast_lists() -> Iterator[None]:
    """Autocast on a CPU with the operations that a GPU does in float32."""
    library = torch.library.Library("aten", "IMPL")
    for name in FLOAT32_UNDER_AUTOCAST:
        packet, _, overload = name.partition(".")
        operation = getattr(getattr(aten, packet), overload or "default")
        library.impl(name, _in_float32(operation), "AutocastCPU")
    try:
        yield
    finally:
        library._destroy()


class _Event:
    """Of a GPU that is never behind, though nobody may count on it."""

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return True


def _groups(tensors, with_indices=False):
    """How optimizers and clip_grad_norm_ group tensors, by device and dtype; torch's C++ says cpu."""
    found = _foreach_utils._group_tensors_by_device_and_dtype(tensors, with_indices)
    return {(lists[0][0].device, dtype): (lists, indices) for (_, dtype), (lists, indices) in found.items()}


@contextmanager
def pretend_cuda() -> Iterator[Gpu]:
    """The context in which there is a GPU, see above; gives the Gpu."""
    gpu, generator = Gpu(), [torch.zeros(16, dtype=torch.uint8)]

    def set_generator(state, device=0):
        if type(state) is not torch.Tensor or state.dtype != torch.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")  # as torch says, of one on the CPU
        generator[0] = state.clone()

    stand_ins = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *args, **kwargs: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *args: "pretended GPU",
        "get_device_capability": lambda *args: (9, 0),
        "max_memory_allocated": lambda *args: 2**20,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda *args: generator[0].clone(),
        "get_rng_state_all": lambda: [generator[0].clone()],
        "set_rng_state": set_generator,
        "is_current_stream_capturing": lambda: False,
        "Event": _Event,
    }
    with ExitStack() as stack:
        autocast, lists = torch.autocast, []

        def cuda_autocast(device_type, **options):
            if not lists:  # once it is needed: torch takes a fifth of a second for them
                lists.append(stack.enter_context(_cuda_autocast_lists()))
            return autocast("cpu" if device_type == "cuda" else device_type, **options)

        for name, stand_in in stand_ins.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        stack.enter_context(mock.patch.object(torch, "autocast", cuda_autocast))
        stack.enter_context(mock.patch.object(torch.accelerator, "current_accelerator", lambda *args, **kwargs: None))
        for module in (sys.modules[Optimizer.__module__], torch.nn.utils.clip_grad):
            stack.enter_context(mock.patch.object(module, "_group_tensors_by_device_and_dtype", _groups))
        # else torch leaves the function mode for the backward pass, in which checkpointing computes again
        stack.enter_context(mock.patch.object(torch.autograd, "has_torch_function", lambda *args: False))
        stack.enter_context(mock.patch.object(CudaTensor, "gpu", gpu))
        stack.enter_context(_Functions(gpu))
        yield gpu
