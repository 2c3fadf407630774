"""Plain values and tensors as bytes, and back: what processes tell each other. No code can come with them."""

import json
from typing import Any

VALUE = "value"


def to_bytes(value: Any) -> bytes:
    """Write a value: None, a bool, number, text or bytes, a tensor, or a tuple, list or dict of such.

    Named tuples become tuples. Tensors of any device are written.

    Raises:
        TypeError: a value of another kind.
    """
    import torch
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}

    def plain(one: Any) -> Any:
        if one is None or isinstance(one, bool | int | float | str):
            return one
        if isinstance(one, tuple):
            return {"tuple": [*map(plain, one)]}
        if isinstance(one, list):
            return [*map(plain, one)]
        if isinstance(one, dict):
            return {"dict": [[plain(name), plain(inside)] for name, inside in one.items()]}
        if not isinstance(one, bytes | torch.Tensor):
            raise TypeError(f"processes share plain values and tensors, not {type(one).__name__}")
        kind, tensor = (
            ("bytes", _tensor(one)) if isinstance(one, bytes) else ("tensor", one.detach().cpu().contiguous())
        )
        tensors[str(len(tensors))] = tensor.clone()  # safetensors takes none that share memory
        return {kind: str(len(tensors) - 1)}

    written = json.dumps(plain(value))
    return save(tensors | {VALUE: _tensor(written.encode())})


def from_bytes(content: bytes) -> Any:
    """Read what `to_bytes` wrote; tensors are on the CPU."""
    from safetensors.torch import load

    tensors = load(content)

    def value(one: Any) -> Any:
        if isinstance(one, list):
            return [*map(value, one)]
        if not isinstance(one, dict):
            return one
        ((kind, inside),) = one.items()
        if kind == "tuple":
            return tuple(map(value, inside))
        if kind == "dict":
            return {value(name): value(each) for name, each in inside}
        return tensors[inside] if kind == "tensor" else tensors[inside].numpy().tobytes()

    return value(json.loads(tensors[VALUE].numpy().tobytes()))


def _tensor(content: bytes) -> Any:
    import torch

    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
