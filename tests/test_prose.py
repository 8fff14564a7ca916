"""What a lesson's prose says, against what its cells print."""

import json
import re

import nbformat
import pytest

SCORE = re.compile(r"(?<![\d.])\d?\.\d{3}(?!\d)")  # a number with three decimals
LONGER = re.compile(r"(?<![\d.])\d?\.\d{3,}")
BY_HAND = {  # the reader is asked to work these out, or they are no result
    ("04_roi_align", "as-a-formula-bilinear"): {".125", ".375"},
    ("12_set_prediction", "check-a-in-your"): {".087"},
    ("16_oneformer", "vectors-of-words-start"): {"1.702"},  # a constant of a published formula
    ("17_side_by_side", "can-you-trust-a"): {".001"},  # a tolerance
}


def printed(cells):
    """Every number that a cell prints or a figure's caption says, rounded to three decimals."""
    said = [
        text
        for cell in cells
        for out in cell.get("outputs", [])
        for text in [out.get("text", ""), json.dumps(out.get("metadata", {}))]
        + [str(value) for kind, value in out.get("data", {}).items() if kind.startswith("text/")]
    ]
    return {f"{float(number):.3f}" for number in LONGER.findall("\n".join(said))}


@pytest.mark.parametrize("folder", ["notebooks", "solutions"])
def test_every_score_in_prose_was_printed(root, folder):
    missing = {}
    for path in sorted((root / folder).glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        known = printed(cells)
        for cell in cells:
            if cell.cell_type != "markdown":
                continue
            by_hand = BY_HAND.get((path.stem, cell.id), set()) if folder == "notebooks" else set()
            for number in set(SCORE.findall(cell.source)):
                if f"{float(number):.3f}" not in known and number.lstrip("0") not in by_hand:
                    missing.setdefault(f"{path.name}, cell {cell.id}", []).append(number)
    assert not missing


def test_a_score_that_nobody_printed_is_found():
    cell = nbformat.v4.new_code_cell(
        "1", outputs=[nbformat.v4.new_output("stream", text="AP .8716, .5")]
    )
    assert printed([cell]) == {"0.872"}
    assert SCORE.findall("AP .872 and 0.871, not 1.8721 or 0.5; step .001.") == [
        ".872",
        "0.871",
        ".001",
    ]
