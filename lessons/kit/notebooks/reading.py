"""Notebooks as any editor saved them, read in one form or refused in one sentence."""

import itertools
import json
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from lessons.kit.errors import LessonsError
from lessons.kit.notebooks.cells import BEGIN, DIRECTIVES, folded

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read_notebook(path: Path) -> NotebookNode:
    """The notebook in a file, whatever editor saved it, in one form.

    That is nbformat 4.5 with the metadata of a Python notebook, lines that end in \\n, and an id
    for each cell: its own (Colab keeps it in the metadata) or, where it has none or a cell above
    has the same, one made of its first words. Cells keep their metadata and outputs. Raises
    LessonsError, naming the file and, where one is to blame, the cell.
    """
    try:
        notebook = _from_json(path)
        for number, cell in enumerate(notebook.cells, start=1):
            try:
                _tidy(cell)
            except UnicodeEncodeError:
                raise _UnreadableError(f"cell {number} has half a character") from None
            except (AttributeError, TypeError):
                raise _UnreadableError(f"cell {number} is no cell of a notebook") from None
        _give_ids(notebook.cells)
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        place = [*error.relative_path, None, None, None]
        where = f"cell {place[1] + 1}" if place[0] == "cells" and place[1] is not None else "it"
        reason = f"{where} is not as nbformat 4.5 wants it: {error.message.splitlines()[0][:200]}"
        reason += " (clear its outputs)" if "outputs" in place else ""
    except _UnreadableError as error:
        reason = str(error)
    except (AttributeError, KeyError, TypeError):
        reason = "it is not built as a notebook is"
    else:
        return notebook
    raise LessonsError(f"{path} is not a notebook that can be read: {reason}")


class _UnreadableError(Exception):
    """Why a file is no notebook, as the end of a sentence."""


def _from_json(path: Path) -> NotebookNode:
    """A file's notebook in nbformat 4.5, its cells as they are."""
    if path.is_dir():
        raise _UnreadableError("it is a folder")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _UnreadableError((error.strerror or "it cannot be opened").lower()) from None
    if not data.strip():
        raise _UnreadableError("it is empty")
    try:
        raw = json.loads(data)
    except UnicodeDecodeError:
        raise _UnreadableError("it is not a text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise _UnreadableError(
            f"it is no JSON or half of one, line {error.lineno}: {error.msg}"
        ) from None
    except (RecursionError, ValueError):
        raise _UnreadableError("its brackets or its numbers have no end") from None
    version = raw.get("nbformat") if isinstance(raw, dict) else None
    if version not in (3, 4):
        raise _UnreadableError(
            f"it is in nbformat {version}, save it in nbformat 4" if version else "it is other JSON"
        )
    if version == 3:
        raw = nbformat.convert(nbformat.v3.nbjson.to_notebook(raw), 4)
        for cell in raw.cells:
            del cell["id"]  # drawn at random
    notebook = nbformat.v4.nbjson.JSONReader().to_notebook(raw)
    kernel = notebook.metadata.get("kernelspec") or {}
    language = kernel.get("language") or (notebook.metadata.get("language_info") or {}).get("name")
    language = language or "python"
    if not re.fullmatch(r"i?python\d*", language.casefold()):
        raise _UnreadableError(f"it is written in {language}, not in Python")
    return nbformat.from_dict(
        {"cells": notebook.cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    )


def _tidy(cell: NotebookNode) -> None:
    """Keep of a cell what belongs to its kind, with lines that end in \\n."""
    own = {"code": ("outputs", "execution_count")}.get(cell.cell_type, ("attachments",))
    for key in cell.keys() - {"id", "cell_type", "metadata", "source", *own}:
        del cell[key]
    if cell.cell_type == "code":
        cell.outputs = cell.get("outputs") or []
        cell.setdefault("execution_count", None)
    elif not cell.get("attachments"):
        cell.pop("attachments", None)
    cell.source = cell.source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    cell.source.encode()  # half a character cannot be written


def _give_ids(cells: list[NotebookNode]) -> None:
    """An id for each cell that has none, no valid one, or that of a cell above."""
    taken = set()
    nameless = []
    for cell in cells:
        name = cell.get("id", cell.metadata.get("id"))
        if (
            isinstance(name, str)
            and re.fullmatch(r"[\w-]{1,64}", name, re.ASCII)
            and name not in taken
        ):
            taken.add(name)
            cell.id = name
        else:
            nameless.append(cell)
    for cell in nameless:
        # of what is handed out, before the solution, and not of the directives
        text = "\n".join(x for x in cell.source.split(BEGIN)[0].split("\n") if x not in DIRECTIVES)
        first = "-".join(re.findall("[a-z0-9]+", folded(text))[:4])[:56] or "cell"
        cell.id = next(
            name
            for n in itertools.count(1)
            if (name := f"{first}-{n}" if n > 1 else first) not in taken
        )
        taken.add(cell.id)
