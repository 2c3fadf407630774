"""What clients ask for: the fields of each request, with what they may be."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SEED = 2**63 - 1
Tokens = list[int]
Unknown = Annotated[int, Field(ge=1, le=2**31)]


class Common(BaseModel):
    """What every request has."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(None, max_length=1000, description="name of the model; the first if not given")
    label: str | int | None = Field(None, description="class of the example, by name or number")
    seed: int = Field(0, ge=0, le=SEED, description="example i depends on (seed, i) alone, not on its batch")


class Draw(Common):
    """What requests for samples have."""

    n: int = Field(1, ge=1, le=2**31, description="number of examples; of /infill, of alternatives")
    first: int = Field(0, ge=0, le=2**31, description="number of the first example, i of (seed, i)")
    sampler: dict[str, Any] | None = Field(
        None,
        description='such as {"class": "Ancestral", "steps": 8, "temperature": 0.9}; /models says what each model has',
        examples=[{"class": "FirstHitting"}],
    )
    length: int | str | None = Field(None, description="tokens of each text: 40, or a range such as 20-60")
    allow: str | None = Field(None, max_length=2000, description="characters, or numbers, that may be drawn: a-z")
    forbid: str | None = Field(None, max_length=2000, description="characters, or numbers, that may not be drawn")
    stream: bool = Field(False, description="answer with a line of JSON for each step, as they come")


class SampleRequest(Draw):
    """New examples."""


class InfillRequest(Draw):
    """What is unknown of an example."""

    text: str | None = Field(None, description="a text in which [4] stands for four unknown tokens")
    placeholder: str | None = Field(None, description="a character that stands for one unknown token of the text")
    prefix: str | None = Field(None, description="what comes before unknown tokens")
    suffix: str | None = Field(None, description="what comes after unknown tokens")
    unknown: Unknown | Literal["rest"] | None = Field(
        None, description="number of unknown tokens, for prefix, suffix, chat; rest: all that fit after a prefix"
    )
    chat: str | list[dict[str, str]] | None = Field(None, description="for chat models: what the user says")
    system: str | None = Field(None, description="for chat: what the conversation begins with")
    row: dict[str, str | None] | None = Field(None, description="for tables: what is known of a row")
    tokens: Tokens | None = Field(None, description="of one example, row by row; -1 where unknown")
    pixels: Tokens | None = Field(None, description="for images: values of 0 to 255, row by row, with a mask")
    mask: list[bool] | None = Field(None, description="true where tokens or pixels are unknown")


class ScoreRequest(Common):
    """A bound on the likelihood of an example."""

    text: str | None = Field(None, description="a text of the model")
    tokens: Tokens | None = Field(None, description="of one example, row by row")
    pixels: Tokens | None = Field(None, description="for images: values of 0 to 255, row by row")
    given: list[bool] | None = Field(None, description="true where a token is conditioned on, not counted")
    draws: int = Field(16, ge=1, le=2**31, description="random masks that the bound is estimated by")


class AlternativesRequest(Common):
    """The likeliest tokens at single positions, given all others."""

    tokens: Tokens = Field(description="of one example, row by row; -1 where unknown")
    positions: list[int] = Field(min_length=1, max_length=64, description="of the tokens, from 0; each is masked alone")
    k: int = Field(8, ge=1, le=256, description="number of alternatives of each")
