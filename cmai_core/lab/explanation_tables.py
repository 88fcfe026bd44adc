"""The numbers behind the pictures of an explanation: rows for tables, and the one scale of what is compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from cmai_core.explanations.result import shared_scale

if TYPE_CHECKING:
    from cmai_core.explanations.result import TokenMaps
    from cmai_core.lab.explanation import LabExplanation, RoleExplanation

SIDES = ("clean", "adversarial")
DIRECTIONS = ("denoising", "noising")
CELLS = 16


def sides(made: LabExplanation) -> tuple[str, ...]:
    """Return the sides that there are."""
    return SIDES if made.attack else SIDES[:1]


def map_rows(made: LabExplanation, method: str) -> list[dict[str, Any]]:
    """Return a method's maps as rows, one a cell; of maps finer than 16×16 the mean over each of 16×16 cells."""
    rows = []
    for role, explained in made.roles.items():
        if method not in explained.maps:
            continue
        both = [_coarse(values) for values in explained.maps[method].map[:2]]
        for row, column in np.ndindex(both[0].shape):
            values = {side: float(both[k][row, column]) for k, side in enumerate(sides(made))}
            rows.append({"model": role, "row": row + 1, "column": column + 1} | values)
    return rows


def _coarse(values: np.ndarray) -> np.ndarray:
    height, width = values.shape
    if height <= CELLS or height % CELLS or width % CELLS:
        return values
    return values.reshape(CELLS, height // CELLS, CELLS, width // CELLS).mean(axis=(1, 3))


def head_scale(made: LabExplanation) -> float:
    """Return the largest value of every head's map."""
    return _scale([explained.heads for explained in made.roles.values() if explained.heads is not None])


def head_rows(made: LabExplanation) -> list[dict[str, Any]]:
    """Return each head with its largest weight, where that lies, and its weight on all patches together."""
    rows = []
    for role, explained in made.roles.items():
        if explained.heads is None:
            continue
        for k, side in enumerate(sides(made)):
            for layer, head in np.ndindex(explained.heads.shape[1:3]):
                found = explained.heads[k, layer, head]
                rows.append(
                    {"model": role, "side": side, "layer": layer + 1, "head": head + 1}
                    | _peak(found)
                    | {"on patches": float(found.sum())}
                )
    return rows


def _peak(found: np.ndarray) -> dict[str, Any]:
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    return {"largest": float(found.max()), "row": int(row) + 1, "column": int(column) + 1}


def words_scale(made: LabExplanation, kind: str) -> float:
    """Return the largest attention to a patch. `kind`: "written" or "said"."""
    return _scale([found for _, maps in _token_maps(made, kind) for found in maps.word_maps])


def written_rows(made: LabExplanation) -> list[dict[str, Any]]:
    """Return each written word with the patch that it looked at most."""
    return [
        {"model": role, "side": side, "word": word} | _peak(found)
        for role, maps in _token_maps(made, "written")
        for k, side in enumerate(sides(made))
        for word, found in zip(maps.words[k], maps.word_maps[k], strict=True)
    ]


def said_rows(made: LabExplanation, side: int) -> list[dict[str, Any]]:
    """Return every word's attention to every patch of one side."""
    return [
        {"model": role, "word": word, "row": row + 1, "column": column + 1, "attention": float(found[row, column])}
        for role, maps in _token_maps(made, "said")
        for word, found in zip(maps.words[side], maps.word_maps[side], strict=True)
        for row, column in np.ndindex(found.shape)
    ]


def sharpest_word(explained: RoleExplanation, side: int) -> int:
    """Return the place of the sentence's word whose attention is most on one patch; 0 where there is none."""
    maps = () if explained.said is None else explained.said.word_maps[side]
    return int(np.argmax([float(one.max()) for one in maps])) if len(maps) else 0


def words_at(explained: RoleExplanation, side: int, row: int, column: int) -> list[tuple[str, float]]:
    """Return the sentence's words with their attention to one patch, most first; the patch counts from 0."""
    if explained.said is None:
        return []
    maps = explained.said.word_maps[side]
    found = [(word, float(one[row, column])) for word, one in zip(explained.said.words[side], maps, strict=True)]
    return sorted(found, key=lambda pair: -pair[1])


def trace_scale(made: LabExplanation, direction: str) -> float:
    """Return the largest effect of a patch alone, over all layers and models."""
    traces = [explained.trace for explained in made.roles.values() if explained.trace is not None]
    return _scale([trace.maps(direction) for trace in traces if trace.grid is not None])


def trace_rows(made: LabExplanation) -> list[dict[str, Any]]:
    """Return every effect of every trace."""
    rows: list[dict[str, Any]] = []
    for role, explained in made.roles.items():
        if explained.trace is None:
            continue
        for direction in DIRECTIONS:
            for state, layer, value, random in _effects(explained.trace, direction):
                rows.append(
                    {"model": role, "direction": direction, "state": state, "layer": layer, "effect": value}
                    | {"random patches": random}
                )
    return rows


def _effects(trace: Any, direction: str) -> Iterator[tuple[str, int, float, float | None]]:
    """Yield (state, layer, effect, that of random patches) of one direction."""
    found = getattr(trace, direction)
    curves = {"all tokens": found.everything, "all patches": found.patches, "class token": found.summary}
    curves |= {"attention": found.attention, "MLP": found.mlp}
    curves |= {f"head {k + 1}": found.heads[:, k] for k in range(found.heads.shape[1])}
    for name, values in curves.items():
        for layer, value in enumerate(values):
            yield name, layer, float(value), None
    for name, values in found.sets.items():
        for layer, value in enumerate(values):
            yield name, layer, float(value), float(found.random[name][layer])
    for layer, token in np.ndindex(found.tokens.shape):
        yield trace.labels[token], layer, float(found.tokens[layer, token]), None


def _token_maps(made: LabExplanation, kind: str) -> list[tuple[str, TokenMaps]]:
    found = {role: getattr(explained, kind) for role, explained in made.roles.items()}
    return [(role, maps) for role, maps in found.items() if maps is not None]


def _scale(maps: list[np.ndarray]) -> float:
    return shared_scale(maps) if maps else 1.0
