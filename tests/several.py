"""Several processes that train together, as torchrun starts them: one start for many trainings."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fresh


def together(work: Callable[..., Any], count: int, folder: Path, *arguments: Any, nodes: int = 1) -> list[Any]:
    """Call work(rank, folder, *arguments) in several processes at once, and return what each returned.

    It is None for one that ended in another way. What they print is in the files out and err of folder/rank.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here, before, processes = count // nodes, dict(os.environ), []
    try:
        for rank in range(count):
            place = {"RANK": rank, "LOCAL_RANK": rank % here, "GROUP_RANK": rank // here, "WORLD_SIZE": count}
            place |= {
                "LOCAL_WORLD_SIZE": here,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "TORCHELASTIC_RUN_ID": "test",
            }
            os.environ.update({name: str(value) for name, value in place.items()} | {"OMP_NUM_THREADS": "1"})
            (folder / str(rank)).mkdir(exist_ok=True)
            shown = folder / str(rank)
            processes.append(fresh.start(_result, work, rank, folder, arguments, folder=folder, shown=shown))
    finally:
        os.environ.clear()
        os.environ.update(before)
    for process in processes:
        process.join()
    found = [folder / str(rank) / "result.json" for rank in range(count)]
    return [json.loads(path.read_text()) if path.is_file() else None for path in found]


def _result(work: Callable[..., Any], rank: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    import torch
    from lightning.fabric.utilities import rank_zero as fabric
    from lightning.pytorch.utilities import rank_zero

    torch.set_num_threads(1)
    fabric.rank_zero_only.rank = rank_zero.rank_zero_only.rank = rank  # which lightning took from the environment
    path = folder / str(rank) / "result.json"
    path.unlink(missing_ok=True)
    result = work(rank, folder, *arguments)
    path.write_text(json.dumps(result))
