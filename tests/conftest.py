"""Shape checks on every call, the device option, and a cache of their own for all tests."""

import os
import sys
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from jaxtyping import _import_hook, install_import_hook

if TYPE_CHECKING:
    import torch

sys.dont_write_bytecode = False  # else each process compiles torch, lightning and the others anew: half a minute
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: else it asks for names at length, and waits
os.environ["OMP_WAIT_POLICY"] = "passive"  # other tests need the cores
if "PYTEST_XDIST_WORKER" in os.environ:  # one core for each worker, and for the processes that it starts
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


class Loader(_import_hook._JaxtypingLoader):
    """Keep the checked bytecode apart as jaxtyping does, but not that of all which a module imports.

    Else torch, lightning and the others are compiled anew in every process: 20 seconds.
    """

    exec_module = SourceFileLoader.exec_module

    def get_code(self, fullname: str) -> Any:
        cache = partial(_import_hook._optimized_cache_from_source, self._typechecker.get_hash())
        with patch("importlib._bootstrap_external.cache_from_source", cache):
            return super().get_code(fullname)


_import_hook._JaxtypingLoader = Loader
install_import_hook("unmask", "beartype.beartype")
sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device for the tests that can run on a GPU: cpu or cuda")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> "torch.device":
    import torch

    name = request.config.getoption("--device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.fail(f"--device {name}: no GPU that torch can use is here")
    return torch.device(name)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def shared_data() -> Path:
    """The real data beside the checkout, where there are any."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder shared/data with real data is not beside this checkout")
    return folder
