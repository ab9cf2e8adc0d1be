"""What a key of the job file decides, said on the key itself: each field is made by the function of its mark.

What follows from it is written nowhere else: what a resumed run may change, what prepared data are kept under, what is
kept with the model, what is asked of a model before a run starts, and which keys are used alongside which others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from launcher.job.sections.section import Section

Decides = Literal["numbers", "data", "measurement", "speed", "report"]
"""numbers: what the model learns; a resumed run must agree in it.
data: also what the prepared samples are; part of the key that they are cached under.
measurement: also how a finished model is measured; kept with it.
speed: how fast and where it runs; may change when a run is resumed.
report: what is said, kept and shown of it; may change when a run is resumed."""


@dataclass(frozen=True)
class Mark:
    """What is said of a field.

    decides: nothing for a section whose fields say it themselves
    asks_model: whether only the model's modules tell if another value than the default can be had
    only: the values of the section's `name` that use this field; empty: all do
    """

    decides: frozenset[Decides]
    asks_model: bool = False
    only: tuple[str, ...] = ()

    @property
    def is_section(self) -> bool:
        """Whether the fields below say what they decide."""
        return not self.decides


def numbers(
    default: Any = PydanticUndefined,
    *,
    data: bool = False,
    measurement: bool = False,
    asks_model: bool = False,
    only: tuple[str, ...] = (),
    **options: Any,
) -> Any:
    """A field that decides what the model learns. `options` are pydantic's."""
    more: dict[Decides, bool] = {"numbers": True, "data": data, "measurement": measurement}
    return _field(Mark(frozenset(name for name, is_so in more.items() if is_so), asks_model, only), default, options)


def speed(
    default: Any = PydanticUndefined,
    *,
    asks_model: bool = False,
    only: tuple[str, ...] = (),
    **options: Any,
) -> Any:
    """A field that changes how fast and where a run computes, and none of its numbers."""
    return _field(Mark(frozenset({"speed"}), asks_model, only), default, options)


def report(default: Any = PydanticUndefined, *, only: tuple[str, ...] = (), **options: Any) -> Any:
    """A field that changes what is reported, kept or shown of a run, and no result of its training."""
    return _field(Mark(frozenset({"report"}), False, only), default, options)


def section(default: Any = PydanticUndefined, **options: Any) -> Any:
    """A section, whose fields have marks of their own."""
    return _field(Mark(frozenset()), default, options)


def _field(mark: Mark, default: Any, options: Mapping[str, Any]) -> FieldInfo:
    made: FieldInfo = Field(default, **options)
    made.metadata.append(mark)
    return made


def mark_in(field: FieldInfo) -> Mark | None:
    """The mark of a field; None where it has none, as those of a cluster's profile."""
    return next((one for one in field.metadata if isinstance(one, Mark)), None)


def mark_of(kind: type[Section], name: str) -> Mark:
    """The mark of a field of the job file. Raises LookupError for one without."""
    found = mark_in(kind.model_fields[name])
    if found is None:
        raise LookupError(f"{kind.__name__}.{name} does not say what it decides; make it by a function of marks.py")
    return found


def values_that(decides: Decides, section: Section, *, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of all keys of a section, and of the sections in it, that decide something.

    leave_out: keys of the section itself that are not wanted
    """
    plain = section.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        mark, value = mark_of(type(section), name), getattr(section, name)
        if name in leave_out:
            continue
        if decides in mark.decides:
            found[name] = plain[name]
        elif mark.is_section and isinstance(value, Section) and (below := values_that(decides, value)):
            found[name] = below
    return found


def names_that(decides: Decides, kind: type[Section]) -> tuple[str, ...]:
    """The keys of a section that decide something."""
    return tuple(name for name in kind.model_fields if decides in mark_of(kind, name).decides)


def changed_fields(section: Section, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Section, Mark]]:
    """Each field, at whatever depth, that has another value than its default: its path, its section and its mark."""
    for name, info in type(section).model_fields.items():
        mark, value = mark_of(type(section), name), getattr(section, name)
        if isinstance(value, Section):
            yield from changed_fields(value, (*path, name))
        for number, one in enumerate(value if isinstance(value, tuple) else ()):
            if isinstance(one, Section):
                yield from changed_fields(one, (*path, name, str(number)))
        if not mark.is_section and value != info.get_default(call_default_factory=True):
            yield (*path, name), section, mark
