"""A stand-in for a GPU: tensors that say they are on another device, and are computed on the CPU.

An operation on tensors of both devices raises, as it does on a GPU, and what makes the host wait for the device is
counted. Not imitated: kernels and their rounding, memory, streams, and what torch does inside an operation.

    with pretend_device() as waits:
        model = move(model)
        model.sample(4)
    waits.total()
"""

import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("privateuseone", 0)
HOST = torch.device("cpu")
CPU_GENERATOR = torch.Generator
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
COUNTING = (
    aten._local_scalar_dense.default,  # .item(), bool(), int(), float()
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.bincount.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
)
"""Operations whose result, or its shape, the host must know."""

in_use = False
waits: Counter[str] = Counter()
"""How often the host waited for the device, by what it did and where."""


class DeviceTensor(Tensor):
    """A tensor on the device; its values are in `values`, on the CPU."""

    values: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> "DeviceTensor":
        made = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        made.values = values.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.values})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of the device to numpy; use .cpu() first")


class Kind(type(CPU_GENERATOR)):  # type: ignore[misc]
    """What makes every generator an instance of the class that stands for `torch.Generator`."""

    def __instancecheck__(cls, x: object) -> bool:
        return isinstance(x, CPU_GENERATOR)


class Generator(CPU_GENERATOR, metaclass=Kind):
    """A generator that draws the CPU's numbers on the device; on the CPU an ordinary one."""

    def __new__(cls, device: torch.device | str = HOST) -> Any:
        return super().__new__(cls) if torch.device(device).type == DEVICE.type else CPU_GENERATOR(device)

    @property
    def device(self) -> torch.device:
        return DEVICE


class Intercept(TorchDispatchMode):
    """Sees the operations that have no tensor of the device among their arguments, such as `torch.zeros`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU; raise a RuntimeError where it mixes devices, and count it where the host waits."""
    tensors: list[Tensor] = []
    change((args, kwargs), tensors.append)
    ours = [x for x in tensors if isinstance(x, DeviceTensor)]
    target = kwargs.get("device")
    to_device = bool(ours) if target is None else torch.device(target).type == DEVICE.type
    if func is aten.copy_.default:
        to_device = isinstance(args[0], DeviceTensor)
    if not ours and not to_device:
        return func(*args, **kwargs)

    indices = [x for x in args[1] if isinstance(x, Tensor)] if func in INDEXING else []
    hosts = [x for x in tensors if not isinstance(x, DeviceTensor) and x.dim()]  # a GPU takes numbers of the host
    if func in COPIES:
        unlike = not ours or not to_device or len(ours) < len(tensors)
        at_leisure = to_device and (kwargs.get("non_blocking") or args[2:3] == (True,))
        if unlike and not at_leisure:
            count("copy to the device" if to_device else "copy to the host")
    elif ours and len(hosts) > sum(x is host for host in hosts for x in indices):
        raise RuntimeError(f"{func}: tensors on {DEVICE} and on the CPU, shapes {[tuple(x.shape) for x in tensors]}")
    elif func in COUNTING or hosts or any(x.dtype == torch.bool for x in indices):
        count(str(func))

    args, kwargs = change((args, kwargs), lambda x: x.values if isinstance(x, DeviceTensor) else x)
    found = func(*args, **kwargs | ({} if target is None else {"device": HOST if to_device else target}))
    known = {id(x.values): x for x in ours}  # what is changed in place stays the same tensor

    def wrapped(x: Tensor) -> Tensor:
        return known[id(x)] if id(x) in known else DeviceTensor(x)

    return change(found, wrapped) if to_device else found


def change(found: Any, how: Callable[[Tensor], Any]) -> Any:
    """Return the arguments or the results of an operation with every tensor changed."""
    if isinstance(found, Tensor):
        return how(found)
    if isinstance(found, tuple | list):
        return type(found)([change(part, how) for part in found])
    return {key: change(part, how) for key, part in found.items()} if isinstance(found, dict) else found


def count(what: str) -> None:
    """Count a wait, under the line of the package that it is in."""
    frame: Any = sys._getframe(1)
    while frame is not None and "/src/unmask/" not in frame.f_code.co_filename:
        frame = frame.f_back
    place = "elsewhere" if frame is None else f"{frame.f_code.co_filename.split('/src/')[1]}:{frame.f_lineno}"
    waits[f"{place}: {what}"] += 1


@cache
def register() -> None:
    """Make the device known to torch, once per process."""

    class Module(backend_registration._DummyBackendModule):
        def is_available(self) -> bool:
            return in_use

        def device_count(self) -> int:
            return int(in_use)

        def get_rng_state(self, device: Any = None) -> torch.Tensor:
            return torch.get_rng_state()

        def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
            torch.set_rng_state(state)

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    class Hook(backend_registration._DummyPrivateUse1Hook):
        def is_available(self) -> bool:
            return in_use

        def device_count(self) -> int:
            return int(in_use)

    backend_registration._setup_privateuseone_for_python_backend("pretend", Module(), Hook())
    torch.set_autocast_dtype(DEVICE.type, torch.bfloat16)


@contextmanager
def pretend_device() -> Iterator[Counter[str]]:
    """Have the device, and yield the count of waits since then."""
    global in_use
    register()
    waits.clear()
    in_use = True
    one_thread = torch.autograd.set_multithreading_enabled(False)  # torch has no threads for a device that came late
    with Intercept(), one_thread, patch.object(torch, "Generator", Generator):
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` then copies to the device where that is seen
        try:
            yield waits
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
            in_use = False


def move(module: Any) -> Any:
    """Return a copy of a module on the device; parameters that were shared stay shared."""
    module = copy.deepcopy(module)
    moved: dict[int, Any] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, x in tensors.items():
                if x is not None and id(x) not in moved:
                    there = DeviceTensor(x.detach())
                    moved[id(x)] = nn.Parameter(there, x.requires_grad) if isinstance(x, nn.Parameter) else there
                tensors[name] = None if x is None else moved[id(x)]
    return module
