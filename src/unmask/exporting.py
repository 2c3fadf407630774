"""Writing a model as `transformers` has it, for other engines."""

import json
from pathlib import Path

from unmask.codecs.tokenizer import Tokenizer
from unmask.networks.adapters import has_adapter
from unmask.networks.pretrained import Pretrained
from unmask.saving import Saved
from unmask.storage.model_files import saving
from unmask.storage.remote import is_remote, uploading


def export(model: Saved, folder: Path | str) -> None:
    """Write a model whose network is one of `transformers` as such: config.json, weights and tokenizer.

    A decoder keeps `is_causal: false`. What the others cannot know stands in config.json, too: `mask_token_id`, and
    `shifted_logits`, whether position i is predicted at position i − 1. `load` reads both.

    Args:
        model: of a `Pretrained` network.
        folder: to write, or a URL such as s3://bucket/model.

    Raises:
        ValueError: the network is no model of `transformers`, or has an adapter.
    """
    if is_remote(folder):
        with uploading(str(folder)) as here:
            export(model, here)
        return
    network, codec = model.network, model.codec
    if not isinstance(network, Pretrained):
        raise ValueError(f"{type(network).__name__} is no model of transformers: only Pretrained is exported")
    if has_adapter(network):
        raise ValueError("the model is an adapter: merge it first (unmask import, or unmask.opening.import_checkpoint)")
    with saving(Path(folder)) as temporary:
        network.export(temporary)
        if isinstance(codec, Tokenizer):
            codec.saved(temporary)
            names = {
                "mask_token": codec.mask_token,
                "pad_token": codec.padding_token,
                "eos_token": codec.end_token,
                "unk_token": codec.unknown_token,
                "cls_token": codec.before[0] if codec.before else None,
                "sep_token": codec.after[-1] if codec.after else None,
            }
            known = {role: token for role, token in names.items() if token is not None}
            settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": network.shape[0]} | known
            text = json.dumps(settings, indent=2, ensure_ascii=False)
            (temporary / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
