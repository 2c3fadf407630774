"""A prepared corpus as a data set: its documents, how they are split, and what they are packed into."""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from unmask.codecs.tokenizer import TOKENIZER, Tokenizer
from unmask.data.base import DataSet, Part, Split
from unmask.data.index import Index, check_sizes
from unmask.data.packing import PACKED, Packing, Shards
from unmask.data.remote import open_remote
from unmask.data.text import check_lengths
from unmask.lengths import Lengths
from unmask.storage.folders import INDEX
from unmask.storage.remote import is_remote, last_name
from unmask.storage.sums import verify_file

SplitBy = Literal["90-5-5", "last-2-percent", "last-100000"]


@dataclass(frozen=True)
class Corpus(DataSet):
    """Documents that `unmask prepare` cut into tokens.

    Args:
        path: the folder that it made; or where that was copied, s3://bucket/corpus (also gs:// and hf://).
        length: of a sequence.
        packing: how documents fill sequences. `concatenated`: one after another, each followed by the token that ends
            a text (MD4, SEDD, RADD). `wrapped`: so, and every sequence begins and ends with what the tokenizer puts
            around examples, such as [CLS] and [SEP], or, if that is nothing, with that token (MDLM). `padded`: each by
            itself, wrapped if the tokenizer does so; what is filled up is neither learned nor counted. `filled`: each
            by itself, filled up with tokens that end a text, which are learned and counted (LLaDA); samples end there.
        split_by: how documents are split. `90-5-5`: percent to train, validate and test, in their order.
            `last-2-percent` (MD4) and `last-100000` (MDLM): so many at the end both validate and test, as those papers
            report what they validate on; the others train.
    """

    path: str
    length: int = 1024
    packing: Packing = "concatenated"
    split_by: SplitBy = "90-5-5"

    def __post_init__(self) -> None:
        check_lengths(self.length, None)
        for name, value, known in (("packing", self.packing, PACKED), ("split_by", self.split_by, get_args(SplitBy))):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if self.packing == "wrapped" and self.length < 3:
            raise ValueError(f"packing wrapped needs a length of at least 3, got {self.length}")
        if not self.path:
            raise ValueError("no corpus was named: give --data.path FOLDER, as unmask prepare makes it")

    @cached_property
    def shards(self) -> Shards:
        """The tokens, opened on first use.

        Raises:
            FileNotFoundError: no corpus there.
            ValueError: it is damaged, or its preparation was interrupted.
        """
        if is_remote(self.path):
            return open_remote(self.path)
        folder = Path(self.path)
        index = Index.read(folder)
        if not index.complete:
            raise ValueError(
                f"{folder}: its preparation was interrupted; the same unmask prepare again goes on with it"
            )
        check_sizes(folder, index)
        return Shards(folder, index)

    @property
    def name(self) -> str:
        return last_name(self.path) if is_remote(self.path) else Path(self.path).resolve().name

    @cached_property
    def codec(self) -> Tokenizer:
        index = self.shards.index
        path = self.shards.folder / TOKENIZER
        if index.tokenizer_sha256 is not None and path.is_file():
            verify_file(path, index.tokenizer_sha256, INDEX)
        roles: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in (index.roles or {}).items()
        }
        codec = Tokenizer(str(path), index.key["tokenizer"], **roles)
        with suppress(ValueError):  # it has no token of a known name
            if codec.end == index.end:
                return codec
        name = codec.tokenizer.id_to_token(index.end)
        if name is None:
            raise ValueError(f"{self.path}: damaged index: texts end with {index.end}, which is not a token")
        return replace(codec, end_token=name)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def has_given(self) -> bool:
        return self.packing == "padded"

    @cached_property
    def lengths(self) -> Lengths | None:
        rows = getattr(self.split("train"), "rows", None)
        if self.packing != "padded" or rows is None:
            return None
        around = sum(map(len, self.codec.wrap))
        ended = not self.codec.wrap[1] and self.shards.fill == self.shards.index.end
        apart = self.shards.padding is not None and self.shards.padding != self.shards.index.end
        n = rows[:, 1] - rows[:, 0] + around
        return Lengths.of(n, self.length, self.shards.fill, ended=ended, apart=apart)

    def split(self, part: Part) -> Split:
        self.shards.fit(self.codec)
        count = len(self.shards.ends)
        held = {"last-2-percent": count // 50, "last-100000": 100_000}.get(self.split_by)
        if held is None:
            bounds = {
                "train": (0, count * 90 // 100),
                "valid": (count * 90 // 100, count * 95 // 100),
                "test": (count * 95 // 100, count),
            }
        else:
            bounds = {"train": (0, count - held), "valid": (count - held, count), "test": (count - held, count)}
        first, last = (0, count) if part == "all" else bounds[part]
        if not 0 <= first < last:
            raise ValueError(f"{self.path}: {count} documents are too few for the split {self.split_by}")
        try:
            return PACKED[self.packing](self.shards, first, last, self.length)
        except ValueError as error:
            raise ValueError(f"{self.path}, {part}: {error}") from None
