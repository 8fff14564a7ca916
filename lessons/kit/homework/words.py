"""Values in a few words, for the one line that `check` prints."""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import numpy as np
from torch import Tensor

SHOWN_ELEMENTS = 9  # larger tensors are described by type and shape


KINDS = {"b": "bool", "i": "int", "u": "int", "f": "float", "c": "complex"}


def as_array(value: object) -> np.ndarray | None:
    """Numbers as an array; None for what is not made of numbers."""
    if isinstance(value, Tensor):
        try:
            value = value.detach().cpu().to_dense().resolve_conj().resolve_neg()
            return (value.double() if value.is_floating_point() else value).numpy()
        except Exception:  # a tensor without data, a nested one …
            return None
    is_number = isinstance(value, bool | int | float | complex | np.ndarray | np.generic)
    array = np.asarray(value) if is_number else None
    return array if is_number and array.dtype.kind in KINDS else None


def parts_of(value: object) -> dict[str, object] | None:
    """What a list, tuple, mapping or dataclass consists of; None for anything else."""
    if isinstance(value, list | tuple):
        return {f"[{index}]": part for index, part in enumerate(value)}
    if isinstance(value, Mapping):
        return {f"[{key!r}]": part for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {f".{field.name}": getattr(value, field.name, None) for field in fields(value)}
    return None


def describe(value: object, depth: int = 0) -> str:
    """A value in a few words: itself when small, otherwise its type and shape."""
    array, parts = as_array(value), parts_of(value)
    if array is not None:
        small = array.ndim == 0 or 0 < array.size <= SHOWN_ELEMENTS
        kind = "" if small else str(value.dtype).removeprefix("torch.")
        return numbers(array) if small else f"{kind} {array.shape}"
    if isinstance(value, str):
        return one_line(repr(value), 60)
    if parts is None or depth == 2 or len(parts) > SHOWN_ELEMENTS:
        return kind_of(value)
    words = {key.strip("[.]'"): describe(part, depth + 1) for key, part in parts.items()}
    if isinstance(value, list | tuple):
        text = ", ".join(words.values())
        return f"[{text}]" if isinstance(value, list) else f"({text})"
    return f"{type(value).__name__}({', '.join(f'{key}={words[key]}' for key in words)})"


def kind_of(value: object) -> str:
    if isinstance(value, Tensor):
        return "a tensor"
    if isinstance(value, np.ndarray):
        return "a numpy array"
    if isinstance(value, bool | int | float | complex | np.generic):
        return "a number"
    return "None" if value is None else with_article(type(value).__name__)


def numbers(array: np.ndarray | np.generic) -> str:
    if array.ndim:
        return "[" + ", ".join(map(numbers, array)) + "]"
    if array.dtype.kind != "f":
        return str(array)
    text = f"{array:.4g}"
    return text if set(text) & set(".en") else text + "."


def with_article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiouAEIOU' else 'a'} {word}"


def one_line(text: str, length: int = 200) -> str:
    """One short line without memory addresses, which differ from run to run."""
    text = " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", text).split())
    return text if len(text) <= length else text[: length - 1] + "…"
