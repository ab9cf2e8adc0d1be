"""The sections of the job file that say what a model learns from and is judged on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from launcher.job.home import DEFAULT_CACHE
from launcher.job.sections.marks import numbers, report, section, speed
from launcher.job.sections.section import Section, as_text

LabelFormat = Literal["auto", "names", "vector"]


def _places(value: object) -> object:
    """Refuses samples themselves in one sentence, whose rows would be taken for names of files."""
    is_list = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    if not (isinstance(value, str) or is_list):
        raise ValueError("a file, a folder or a hub id; write samples that a program holds to a file and name that")
    return value


Column = Annotated[str, BeforeValidator(as_text)]


class Source(Section):
    """One data set: where it lies and which columns it has."""

    source: Annotated[str | tuple[str, ...], BeforeValidator(_places)] = numbers(
        description="A csv, tsv, jsonl, parquet, conll or conllu file, or several, a folder saved by `datasets`, a "
        "folder with a folder of files for each class, or a hub id."
    )
    split: str | None = numbers(None, data=True, description="Which split of a hub id or of a `datasets` folder.")
    text: str = numbers("text", data=True, description="Name of the column that holds the text.")
    text_pair: str | None = numbers(
        None, data=True, description="Name of the column of a second text, read with the first."
    )
    prompt: str | None = numbers(
        None, data=True, description="causal-lm: name of the column of the prompt, which gets no loss."
    )
    response: str | None = numbers(
        None, data=True, description="causal-lm: name of the column of the answer, which the loss is on."
    )
    messages: str | None = numbers(
        None,
        data=True,
        description="causal-lm: name of the column of chats: lists of `{role, content}`; the loss is on "
        "the turns of the assistant.",
    )
    words: Column = numbers(
        "words",
        data=True,
        description="token-classification: name of the column of lists of words; of a conllu file a column's name, by "
        "default `form`; of a conll file its place, by default the first.",
    )
    image: str = numbers(
        "image", data=True, description="Name of the column of images: paths, relative to the file, or bytes."
    )
    audio: str = numbers(
        "audio", data=True, description="Name of the column of sounds: paths, relative to the file, or bytes."
    )
    label: Column = numbers(
        "label",
        data=True,
        description="Name of the column that holds the label: text or integers; numbers for regression; lists "
        "for several labels and for words; of a conllu file a column's name, by default `upos`; of a conll file "
        "its place, by default the last.",
    )
    label_separator: str = numbers(
        ",", min_length=1, data=True, description="Separator between several labels in one text."
    )
    label_format: LabelFormat = numbers(
        "auto",
        data=True,
        description="Several labels per sample: a list of `names`, or a `vector` of 0 and 1 with one "
        "place per label. auto: as in the training sets, where lists of 0 and 1 of one length are vectors.",
    )
    columns: dict[str, str] = numbers(
        default_factory=dict,
        data=True,
        description="Names of columns by role, also of roles that a task of your own reads; absent: as the role is "
        "called.",
    )
    encoding: str = numbers("utf-8", data=True, description="Encoding of csv, tsv, jsonl and conll files.")
    quoting: bool | None = numbers(
        None,
        data=True,
        description="Whether a field of a csv or tsv file may be in double quotes and then contain separators and line "
        "ends; null: in csv files only. Where it is false, a quote is a character like any other.",
    )
    limit: PositiveInt | None = numbers(None, data=True, description="Read only the first samples, at most this many.")

    @property
    def files(self) -> tuple[str, ...]:
        """The places named, always as a tuple."""
        return (self.source,) if isinstance(self.source, str) else self.source

    def column(self, role: str) -> str | None:
        """Name of the column in a role; None for one that this source does not have."""
        name: str | None = getattr(self, role) if role in COLUMNS else role
        return self.columns.get(role, name)


COLUMNS = ("text", "text_pair", "prompt", "response", "messages", "words", "image", "audio", "label")
"""The fields of a source that name a column."""


def _plain_source(value: object) -> object:
    """`train: file.csv` is short for `train: {source: file.csv}`."""
    return value if isinstance(value, Mapping | Source) else {"source": value}


def _named_sources(name: str) -> BeforeValidator:
    """`validation: file.csv` and `validation: {source: file.csv}` are one set of the name `validation`.

    `validation: {source: {source: file.csv}}` names one, which is called source.
    """

    def named(value: object) -> object:
        value = _plain_source(value)
        is_one = isinstance(value, dict) and "source" in value and not isinstance(value["source"], dict | Source)
        return {name: value} if is_one else value

    return BeforeValidator(named)


AnySource = Annotated[Source, BeforeValidator(_plain_source)]
SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=60)]


class Mixing(Section):
    """How often each set of `data.train` is drawn from, where there are several. An epoch draws as many as all hold."""

    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = numbers(
        1.0, description="A set of n samples has a share ∝ n^alpha. 1: in proportion to its size; 0: equal shares."
    )
    weights: dict[SetName, PositiveFloat] | None = numbers(
        None, description="Shares of the sets by name, up to a common factor."
    )


class Data(Section):
    """What the model is trained on and what it is evaluated on."""

    train: Annotated[dict[SetName, AnySource], _named_sources("train")] = numbers(
        default_factory=dict,
        description="Labelled samples to train on: one source, or several domains with a name each "
        "(`{films: {…}, shops: {…}}`).",
    )
    mixing: Mixing = section(
        default_factory=Mixing, description="How often each of several training sets is drawn from."
    )
    validation: Annotated[dict[SetName, AnySource], _named_sources("validation")] = numbers(
        default_factory=dict,
        description="Labelled samples to evaluate on: one source, or several with a name each "
        "(`{source: {…}, target: {…}}`). The first is the one that `validation.set` means by default.",
    )
    target: AnySource | None = numbers(
        None,
        description="Unlabelled samples of the target domain, for the methods that use them, `adaptrun gap`, and "
        "`validation.selector: importance-weighted`.",
    )
    allow_leakage: bool = report(
        False,
        description="Train even if validation samples are also in the training data (the same but for "
        "case, white space and forms of characters); their metrics then say less about new samples.",
    )
    cache: str = speed(
        DEFAULT_CACHE,
        description="Folder of the prepared (tokenised) data; on a cluster, one all nodes see. Where "
        "the home directory cannot be written, `.cache` in the folder of the runs.",
    )

    def place_in_train(self, name: str) -> tuple[str, ...]:
        """Where the file has a training set: a single one may bear no name there."""
        return ("data", "train") if list(self.train) == ["train"] else ("data", "train", name)

    def place_in_validation(self, name: str) -> tuple[str, ...]:
        """The same of a validation set."""
        return ("data", "validation") if list(self.validation) == ["validation"] else ("data", "validation", name)
