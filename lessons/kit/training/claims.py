"""The lecture's claims: `claim("roi_align")` in a notebook, `lessons claims` on the command line.

    claim("roi_align", bet="yes")

shows a claim's card: the sentence, the own bet, a dot a seed, the verdict, the paper's number.
"""

import math
from collections import Counter
from pathlib import Path

from lessons.kit.training.card import Card, amount, captioned_claim, draw_claim, numbers, sentence
from lessons.kit.training.ledger import (
    Claim,
    Row,
    Tuning,
    claim_named,
    claims,
    measure_in_words,
    row,
    rows,
    runs_of,
    tunings,
    value,
)
from lessons.kit.training.making import Wanted, missing, record_claims
from lessons.kit.training.verdict import VERDICTS, Verdict, judge

__all__ = [
    "Card",
    "Claim",
    "Row",
    "Tuning",
    "Verdict",
    "Wanted",
    "amount",
    "cells",
    "claim",
    "claim_named",
    "claims",
    "counted",
    "described",
    "draw_claim",
    "judge",
    "missing",
    "numbers",
    "picture",
    "record_claims",
    "row",
    "rows",
    "runs_of",
    "sentence",
    "tunings",
    "tunings_described",
    "value",
]


def claim(name: str, bet: str | None = None) -> Card:
    """A claim's card, for a cell's last line.

    `bet` is what the reader says before the answer is seen: "yes", "no" or "cannot tell"; without
    one the card asks, and its answer is folded. Raises LessonsError for an unknown claim or bet.
    """
    return Card(row(claim_named(name)), bet)


HEADINGS = ("claim", "lesson", "seeds", "difference", "verdict", "mechanism", "published")


def cells(each: Row) -> tuple[str, ...]:
    """A row of the ledger's table, under HEADINGS."""
    verdict, said = each.verdict, each.claim
    difference = "–"
    if verdict.pairs:
        difference = f"{verdict.mean:+.3f} {measure_in_words(said.measure)}"
    if verdict.pairs > 1:
        difference += f" [{verdict.low:+.3f}, {verdict.high:+.3f}]"
    if math.isfinite(each.scenes):
        difference += f", scenes ±{each.scenes:.3f}"
    word = verdict.word
    if verdict.pairs < 2:
        word += " (one seed)" if verdict.pairs else " (no run)"
    acted = {True: "acted", False: "did not act", None: "not measured"}[each.acted]
    mechanism = f"{acted}" + (f" ({each.mechanism:.2f})" if each.acted is not None else "")
    seeds = f"{verdict.pairs} of {said.seeds}"
    published = said.published or "–"
    return (
        said.name,
        said.lesson,
        seeds,
        difference,
        word,
        (mechanism if said.mechanism else "–"),
        published,
    )


def counted(ledger: list[Row]) -> str:
    """How often each verdict was given, in words."""
    counts = Counter(each.verdict.word for each in ledger)
    return ", ".join(f"{counts[word]} {word}" for word in VERDICTS)


def described(name: str) -> list[str]:
    """A claim with its runs, as lines."""
    each = row(claim_named(name))
    lines = repr(Card(each)).splitlines()
    lines = [line for line in lines if not line.startswith("Your bet")]
    what = measure_in_words(each.claim.measure)
    for arm in each.claim.arms:
        lines.append(f"{arm.name}: {arm.title}")
        for seed, run in runs_of(arm).items():
            score = value(run, each.claim.measure)
            shown = "not measured" if math.isnan(score) else f"{amount(score)} {what}"
            lines.append(
                f"  seed {seed}: {shown}; {run['steps']:,} steps of {run['batch']} in "
                f"{run['seconds'] / 60:.0f} min on {run['device']}, {run['date']}"
            )
    return lines


def tunings_described() -> list[str]:
    """What the tunings chose from, with the scores that are there, as lines."""
    lines = []
    for tuning in tunings().values():
        lines.append(f"{tuning.name}: {tuning.says}")
        scores = {
            arm.title: value(run, tuning.measure)
            for arm in tuning.arms
            if (run := runs_of(arm).get(tuning.seed))
        }
        lines += [f"  {title}: {amount(score)}" for title, score in scores.items()]
        lines.append(f"  {len(scores)} of {len(tuning.arms)} runs are there")
    return lines


def picture(name: str, path: Path) -> None:
    """Write a claim's picture, with its caption, as a PNG."""
    each = row(claim_named(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(captioned_claim(each).png())
