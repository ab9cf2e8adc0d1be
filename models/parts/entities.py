"""Entities in tagged words, counted as the CoNLL evaluation counts them (Tjong Kim Sang and De Meulder 2003).

A tag is a prefix (B begins, I is inside, E ends, S is single, O is outside) and a type (`B-PER`). Sequences that break
the scheme still contain entities: `I-PER` after `O` begins one.
"""

from __future__ import annotations

from collections.abc import Sequence

Entity = tuple[str, int, int]
"""Type, first word, last word."""


def entities_of(tags: Sequence[str]) -> set[Entity]:
    """The entities of one sequence of tags."""
    found: set[Entity] = set()
    before, kind, first = "O", "_", 0
    for place, tag in enumerate([*tags, "O"]):
        prefix, kind_here = tag[:1], tag[1:].removeprefix("-") or "_"
        changes = kind_here != kind
        if before in ("E", "S") or (before != "O" and changes) or (before in ("B", "I") and prefix in ("B", "S", "O")):
            found.add((kind, first, place - 1))
        if prefix in ("B", "S") or (prefix in ("I", "E") and before in ("E", "S", "O")) or (prefix != "O" and changes):
            first = place
        before, kind = prefix, kind_here
    return found
