"""Weights that are sharded over processes (FSDP2): each holds some rows of every tensor."""

import math
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from unmask.networks.base import Network
from unmask.networks.layers import Block
from unmask.storage.checkpoint import find_rows, load_tree, remove_unused_shards, save_tree
from unmask.storage.shards import Rows, join_shards, write_shard

NAMES = ("fsdp2", "fsdp2_hybrid")
"""What the strategies are called: shards over all processes; or over those of a node, each node having them all."""
FORWARD_METHODS = ("cross_entropy", "features")
"""What objectives and networks call beside `forward`."""


def local(tensor: Tensor) -> Tensor:
    """Return the rows of a tensor that are here: all, unless it is sharded. They share its memory."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, value: Tensor) -> Any:
    """Return what a checkpoint is to hold in the place of a tensor: the rows of `value`, which are those of it here."""
    if not isinstance(tensor, DTensor):
        return value
    first, _ = rows_here(tensor)
    others = [i for i, placement in enumerate(tensor.placements) if not placement.is_shard()]
    written = all(tensor.device_mesh.get_local_rank(i) == 0 for i in others)
    return Rows(value, first, tuple(tensor.shape), written)


def rows_here(tensor: DTensor) -> tuple[int, int]:
    """Return the first row of a sharded tensor that is here, and how many there are."""
    number = next(i for i, placement in enumerate(tensor.placements) if placement.is_shard())
    size, me = tensor.device_mesh.size(number), tensor.device_mesh.get_local_rank(number)
    chunk = math.ceil(tensor.shape[0] / size)
    first = min(me * chunk, tensor.shape[0])
    return first, min(chunk, tensor.shape[0] - first)


def reshard(module: nn.Module) -> None:
    """Have every parameter be its rows alone: after an evaluation some are whole, and would stay what they are."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@torch.no_grad()
def load_local(module: nn.Module, state: dict[str, Any]) -> None:
    """Load a state, of sharded weights the rows that are here."""
    if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        module.load_state_dict(state)
        return
    for name, value in module.state_dict(keep_vars=True).items():
        if name in state:
            local(value).copy_(state[name])


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of a module with every tensor whole, on the CPU; all processes call this together."""
    reshard(module)
    state = module.state_dict()
    return {name: (value.full_tensor() if isinstance(value, DTensor) else value).cpu() for name, value in state.items()}


@contextmanager
def emptied(module: nn.Module) -> Iterator[None]:
    """Free the memory of a module's parameters for a while, as a copy of it is sharded; afterwards they are NaN."""
    storages = {p.untyped_storage() for p in module.parameters() if p.untyped_storage().resizable()}
    sizes = [(storage, storage.nbytes()) for storage in storages]
    for storage, _ in sizes:
        storage.resize_(0)
    try:
        yield
    finally:
        for storage, size in sizes:
            storage.resize_(size)
        for parameter in module.parameters():
            if parameter.untyped_storage() in storages:
                parameter.detach().fill_(math.nan)


def units(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts that are gathered one at a time, inner ones first: the members of lists of modules.

    What is inside a member stays together, which may be experts that are called in one process and not in another; but
    for our own blocks, which are always called.
    """
    for child in network.children():
        for part in child if isinstance(child, nn.ModuleList) else ():
            if isinstance(part, nn.ModuleList):
                yield from units(nn.ModuleList([part]))
                continue
            yield from (inner for inner in part.modules() if isinstance(inner, Block) and inner is not part)
            if any(True for _ in part.parameters()):
                yield part
        if not isinstance(child, nn.ModuleList):
            yield from units(child)


def shard(network: Network, mesh: DeviceMesh, low: torch.dtype | None) -> None:
    """Shard a network in place, one unit after another, with its gradients and what optimizers keep of it.

    Args:
        network: whose parameters become rows.
        mesh: of processes; of two dimensions, the second is sharded over.
        low: the type in which units are gathered for a pass; None: their own. Gradients are summed in their own type.
    """
    half = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in dict.fromkeys(units(network)):
        fully_shard(part, mesh=mesh, mp_policy=half if low is not None else MixedPrecisionPolicy())
    fully_shard(network, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    for name in FORWARD_METHODS:
        if hasattr(network, name):
            register_fsdp_forward_method(network, name)


class Sharded(ModelParallelStrategy):
    """FSDP2 through lightning, with checkpoints of our own: no pickle, and each process writes its rows at once.

    Args:
        hybrid: whether each node has all weights, sharded over its own processes; else they are over all processes.
    """

    def __init__(self, hybrid: bool = False) -> None:
        super().__init__()
        self.hybrid = hybrid

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        """Settle the mesh before lightning makes it."""
        nodes = self.num_nodes if self.hybrid else self.num_nodes * self.num_processes
        self._data_parallel_size, self._tensor_parallel_size = nodes, self.num_nodes * self.num_processes // nodes
        super().setup_environment()

    @property
    def mesh(self) -> DeviceMesh:
        """The processes over which weights are sharded."""
        return self.device_mesh if self.hybrid else self.device_mesh["data_parallel"]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        reshard(self._module)
        return {name: like(value, local(value)) for name, value in self._module.state_dict(keep_vars=True).items()}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return _as_rows(getattr(optimizer, "_optimizer", optimizer).state_dict())

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        self.checkpoint_io.save_checkpoint(checkpoint, filepath)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, sharded or not, and of what is sharded here the rows of this process alone."""
        module = self._module
        reshard(module)
        state = module.state_dict(keep_vars=True)
        groups = [optimizer.param_groups for optimizer in self.optimizers]
        parameters = [[p for group in some for p in group["params"]] for some in groups]

        def target(name: str) -> Any:
            _, part, *rest = name.split(".")
            if part in ("state_dict", "current_model_state"):
                return state.get(".".join(rest))
            known = part == "optimizer_states" and len(rest) == 4 and rest[1] == "state"
            return parameters[int(rest[0])][int(rest[2])] if known else None

        def rows(name: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
            found = target(name)
            return rows_here(found) if isinstance(found, DTensor) and tuple(found.shape) == shape else None

        tree: dict[str, Any] = together(lambda: load_tree(checkpoint_path, rows=rows))
        for some, states in zip(parameters, tree["optimizer_states"], strict=True):
            for number, kept in states["state"].items():
                states["state"][number] = {key: _sharded(value, some[number]) for key, value in kept.items()}
        return tree

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        Strategy.load_optimizer_state_dict(self, checkpoint)

    @property
    def _module(self) -> nn.Module:
        if self.lightning_module is None:
            raise RuntimeError("there is nothing to train yet")
        return self.lightning_module


def save_shards(tree: dict[str, Any], path: Path) -> None:
    """Write a checkpoint of which every process holds some rows; all call this together.

    Raises:
        OSError: some process could not write; says which. What was there before is kept.
    """
    rank, rows = dist.get_rank(), find_rows(tree)
    token: list[Any] = [f"shards-{tree.get('global_step', 0)}-{secrets.token_hex(4)}"]
    dist.broadcast_object_list(token)
    folder = path.parent / token[0]
    try:
        described = together(lambda: write_shard(rows, folder / f"{rank:05}.safetensors"), gathered=True)
        together(lambda: save_tree(tree, path, join_shards(rows, described)) if rank == 0 else None)
    finally:
        if rank == 0:
            remove_unused_shards(path.parent)


def together(work: Any, gathered: bool = False) -> Any:
    """Do some work in every process; if it fails in one, all raise its error, which names the process.

    Args:
        work: what is done.
        gathered: whether the results of all are returned, in a list, or that of this process.
    """
    said, result, kind = "", None, ""
    try:
        result = work()
    except (OSError, ValueError) as error:
        said, kind = f"process {dist.get_rank()} of {dist.get_world_size()}: {error}", type(error).__name__
    everything: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everything, (said, kind, result if gathered else None))
    for message, name, _ in everything:
        if message:
            raise {"FileNotFoundError": FileNotFoundError, "ValueError": ValueError}.get(name, OSError)(message)
    return [one for _, _, one in everything] if gathered else result


def _as_rows(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _as_rows(value) for key, value in tree.items()}
    return like(tree, local(tree)) if isinstance(tree, DTensor) else tree


def _sharded(value: Any, parameter: Tensor) -> Any:
    """Return what an optimizer keeps of a parameter, sharded like it if it is of its shape."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.dim() != parameter.dim():
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    there = value.to(parameter.to_local().device)
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(there, mesh, placements, run_check=False, shape=shape, stride=stride)
