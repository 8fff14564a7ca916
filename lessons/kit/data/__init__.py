"""The shared words, and the data sets that speak them: drawn scenes, real images, files."""

from lessons.kit.data.types import (
    VOID,
    Category,
    DataSet,
    Sample,
    Segments,
    areas,
    boxes,
    check_images,
    empty_segments,
    flatten_overlaps,
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
    "check_images",
    "empty_segments",
    "flatten_overlaps",
    "is_crowd",
    "semantic_map",
    "stuff",
    "things",
]
