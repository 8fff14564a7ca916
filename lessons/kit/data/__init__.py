"""The shared words, and the data sets that speak them: drawn scenes, real images, files."""

from lessons.kit.data.types import (
    VOID,
    Category,
    DataSet,
    Sample,
    Segments,
    areas,
    boxes,
    empty_segments,
    is_crowd,
    semantic_map,
    stuff,
    things,
)

__all__ = [
    "VOID",
    "Category",
    "DataSet",
    "Sample",
    "Segments",
    "areas",
    "boxes",
    "empty_segments",
    "is_crowd",
    "semantic_map",
    "stuff",
    "things",
]
