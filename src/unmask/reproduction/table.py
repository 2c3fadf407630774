"""What a table of a paper is here: rows, each a model and how it is trained, at two scales.

Plain values and no import of torch: the command line checks a request before anything heavy is loaded. An object is
described as in `unmask.storage.description`: {"class": name, argument: value}.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from unmask.reproduction.published import Published

Described = dict[str, Any]
SCALES = ("cpu", "paper")
TIMED = {"time_conditioning": True}
"""Of networks that are told the time."""


@dataclass(frozen=True)
class Scale:
    """What all rows of a table have in common at one scale; a row replaces some of it.

    Args:
        data: description of the data set, where none is given.
        network: description of the network.
        optimizer: settings of `Optimizer`.
        run: settings of `Run`.
        steps: of training, where neither minutes nor steps are asked for.
        path: whether the data set can be read from a file or a folder that is named.
        trainer: settings of lightning's Trainer.
        needed: what the path must be, where there are no data without one.
    """

    data: Described
    network: Described
    optimizer: Described
    run: Described
    steps: int
    path: bool
    trainer: Described = field(default_factory=dict)
    needed: str | None = None


@dataclass(frozen=True)
class Row:
    """A model of a table.

    Args:
        title: what it is called in the table.
        kind: of model: "masked", "scores", "learned schedule", "left-to-right", "uniform" or "vectors".
        objective: its description.
        network: changes of the network of all rows; a "class" takes the place of all of it but the sizes.
        optimizer, run: changes of these settings.
        published: name of the published figure that is beside it; None: there is none.
        paper: whether it has a full-size configuration.
    """

    title: str
    kind: str
    objective: Described
    network: Described = field(default_factory=dict)
    optimizer: Described = field(default_factory=dict)
    run: Described = field(default_factory=dict)
    published: str | None = None
    paper: bool = True


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Args:
        about: what is compared.
        figure: name of the figure in the reports of `unmask.evaluation.likelihood`.
        rows: by the short name that commands use.
        scales: by name.
        published: the figures of the paper.
        steps: numbers T of steps; with these the table has a row for the bound of each, published by T.
        sets: of texts that models are measured on in place of the test part (`unmask.evaluation.zeroshot`), each a
            column.
        published_sets: the figures of the paper on these, by model and set.
        judged: what looks at samples, where samples are measured: "texts", a left-to-right model
            (`unmask.evaluation.generative`), or "images", a network with features (`unmask.evaluation.frechet`).
        sampling_steps: numbers of steps of the samplers.
    """

    about: str
    figure: str
    rows: dict[str, Row]
    scales: dict[str, Scale]
    published: dict[str, Published]
    steps: tuple[int | float, ...] = ()
    sets: tuple[str, ...] = ()
    published_sets: dict[str, dict[str, Published]] = field(default_factory=dict)
    judged: Literal["texts", "images"] | None = None
    sampling_steps: tuple[int, ...] = ()

    def at(self, scale: str) -> dict[str, Row]:
        """Return the rows that there are at a scale."""
        return {name: row for name, row in self.rows.items() if scale != "paper" or row.paper}


def network_of(row: Row, scale: Scale, name: str) -> Described:
    """Return the description of a row's network, without what the data decide.

    Args:
        row: of the table.
        scale: has the network of all rows.
        name: of the scale; at "paper" a row that has the class of all rows keeps its sizes.
    """
    own = dict(row.network)
    if own.get("class") == scale.network["class"]:
        return scale.network | {key: value for key, value in own.items() if name != "paper" or key in TIMED}
    return own if own.get("class") == "UNet" else scale.network | own
