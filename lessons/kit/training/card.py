"""A claim as a student sees it: the sentence, the own bet, what the seeds say, and the paper.

The picture has a dot a seed. A card is one output, HTML with the picture inside, and the same as
plain text; so a page shows it without a kernel. What draws is imported when it is drawn: a
machine that only trains has no Jupyter.
"""

import base64
import html
import math
import textwrap
from typing import Any

from lessons.kit.errors import LessonsError
from lessons.kit.training.ledger import HIGHER, Row, measure_in_words
from lessons.kit.training.verdict import LEAST, OPPOSITE, SHOWN, SMALL, UNKNOWN

BETS = {
    "yes": (SHOWN,),
    "no": (OPPOSITE, SMALL),
    "cannot tell": (UNKNOWN,),
    "cannot tell here": (UNKNOWN,),
}
"""What each bet says that the verdict will be."""


class Card:
    """A claim of the ledger to be shown as a cell's last line; see `claims.claim`."""

    def __init__(self, row: Row, bet: str | None = None):
        if bet is not None and bet not in BETS:
            raise LessonsError(f"a bet is yes, no or cannot tell here, not {bet!r}")
        self.row, self.bet = row, bet

    def __repr__(self) -> str:
        question, *answer = paragraphs(self.row, self.bet)
        return "\n".join(f"{title}: {text}" for title, text in [question, *answer])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.page()}

    def page(self) -> str:
        """The card as HTML: open where a bet was made, else folded below the question."""
        (_, sentence), *answer = paragraphs(self.row, self.bet)
        told = {title: text for title, text in answer}
        picture = captioned_claim(self.row)
        png = base64.b64encode(picture.png()).decode()
        alt = html.escape(picture.caption, quote=True)
        shown = f'<img alt="{alt}" src="data:image/png;base64,{png}" style="max-width:100%">'
        interval = told.pop("In numbers")
        bet = told.pop("Your bet")
        lines = [_line(title, text) for title, text in told.items()]
        folded = f"<details><summary>In numbers</summary><p>{html.escape(interval)}</p></details>"
        body = "".join([shown, *lines, folded])
        if self.bet is None:
            body = (
                f"<details><summary><b>Your bet?</b> {html.escape(bet)}</summary>{body}</details>"
            )
        else:
            body = _line("Your bet", bet) + body
        return f"<div>{_line('The claim', sentence)}{body}</div>"


def _line(title: str, text: str) -> str:
    return f"<p><b>{html.escape(title)}:</b> {html.escape(text)}</p>"


def paragraphs(row: Row, bet: str | None) -> list[tuple[str, str]]:
    """What a card says, as titles and sentences."""
    claim = row.claim
    found = [("The claim", f"“{claim.says}” Here: is {_arms(row)[0]} better than {_arms(row)[1]}?")]
    found.append(("Your bet", _bet(row, bet)))
    found.append(("Measured", sentence(row)))
    if claim.mechanism:
        found.append(("Did the mechanism act?", mechanism(row)))
    found.append(("The paper", claim.published or "no number of it is at hand"))
    found.append(("In numbers", numbers(row)))
    return found


def _arms(row: Row) -> tuple[str, str]:
    first, second = row.claim.titles or (arm.title for arm in row.claim.arms)
    return first, second


def _bet(row: Row, bet: str | None) -> str:
    if bet is None:
        return f'yes, no, or cannot tell here: claim("{row.claim.name}", bet="yes")'
    right = "as measured" if row.verdict.word in BETS[bet] else f"measured: {row.verdict.word}"
    return f"{bet}; {right}"


def sentence(row: Row) -> str:
    """The verdict in one sentence."""
    verdict, (first, second) = row.verdict, _arms(row)
    what = measure_in_words(row.claim.measure)
    if not verdict.pairs:
        return "cannot tell: no run of both is there yet."
    if verdict.pairs == 1:
        return f"cannot tell: one seed, and another may say something else ({_pair(row)})."
    over = f"over {verdict.pairs} seeds"
    if verdict.pairs < LEAST:
        return f"cannot tell yet: {verdict.pairs} seeds, and {LEAST} are asked for."
    if verdict.word == SHOWN:
        return f"shown: {over} {first} is ahead of {second} by {amount(verdict.mean)} {what}."
    if verdict.word == OPPOSITE:
        return f"opposite: {over} {second} is ahead of {first} by {amount(-verdict.mean)} {what}."
    if verdict.word == SMALL:
        least = amount(row.claim.margin)
        return f"too small to matter: {over} nobody is ahead by {least} {what} or more."
    return f"cannot tell: {over} the differences in {what} are too far apart."


def _pair(row: Row) -> str:
    ((one, other),) = row.values.values()
    return f"{amount(one)} against {amount(other)} {measure_in_words(row.claim.measure)}"


def amount(number: float) -> str:
    """A number as a card says it: counts whole, shares in three digits."""
    return f"{number:.0f}" if abs(number) >= 10 else f"{number:.3f}"


def mechanism(row: Row) -> str:
    """Whether the mechanism acted, and by which number one sees it."""
    said = row.claim.mechanism
    if row.acted is None:
        return f"not measured yet ({said['says']})."
    limit = f"at least {said['least']:g}" if "least" in said else f"at most {said['most']:g}"
    word = "yes" if row.acted else "no"
    return f"{word}: {said['says']}; {row.mechanism:.3f}, where {limit} was asked for."


def numbers(row: Row) -> str:
    """The interval, the margin and the spread over scenes."""
    verdict, claim = row.verdict, row.claim
    better = "more" if claim.better == HIGHER else "less"
    found = f"{better} {measure_in_words(claim.measure)} is better; margin {claim.margin:g}; "
    if verdict.pairs < 2:
        return found + f"{verdict.pairs} of {claim.seeds} seeds, no interval."
    found += (
        f"difference {verdict.mean:+.3f}, 95 % interval {verdict.low:+.3f} … {verdict.high:+.3f} "
    )
    found += f"over {verdict.pairs} of {claim.seeds} seeds; "
    if math.isnan(row.scenes):
        return found + "of the spread over scenes nothing was kept."
    return found + f"other scenes would move it by {row.scenes:.3f} (standard deviation)."


def caption(row: Row) -> str:
    """What is to be seen in the picture."""
    if not row.values:
        return "No run of both arms is there yet."
    text = "A dot a run, a line joins the two of one seed. "
    if row.verdict.pairs > 1:
        return text + "Right: their differences, the 95 % interval of the mean, the margin in grey."
    return text + "Right: the difference, the margin in grey; one seed has no interval."


def captioned_claim(row: Row) -> Any:
    """The picture of a claim with its caption: `draw.captioned`."""
    from lessons.kit.draw import captioned

    return captioned(draw_claim(row), caption(row))


def draw_claim(row: Row) -> Any:
    """The two arms with a dot a seed, and the differences with their interval: a figure."""
    import matplotlib.pyplot as plt

    from lessons.kit.draw import PALE, PALETTE

    figure, (left, right) = plt.subplots(1, 2, figsize=(6, 1.9), width_ratios=[1.2, 1])
    what, (first, second) = measure_in_words(row.claim.measure), _arms(row)
    for one, other in row.values.values():
        left.plot([one, other], [1, 0], "-", color=PALE, lw=1, zorder=1)
        left.plot([one], [1], "o", color=PALETTE[4], ms=5)
        left.plot([other], [0], "o", color=PALETTE[0], ms=5)
    left.set(ylim=(-0.5, 1.5), xlabel=what)
    left.set_yticks([1, 0], [_broken(first), _broken(second)], size=8)
    _draw_differences(right, row)
    figure.tight_layout(w_pad=1.5)
    return figure


def _draw_differences(ax: Any, row: Row) -> None:
    from lessons.kit.draw import INK, PALE

    claim, verdict = row.claim, row.verdict
    sign = 1 if claim.better == HIGHER else -1
    differences = [sign * (one - other) for one, other in row.values.values()]
    ax.axvspan(-claim.margin, claim.margin, color="#E6E6E6", lw=0)
    ax.axvline(0, color=INK, lw=1)
    ax.plot(differences, [1] * len(differences), "o", color=PALE, ms=5)
    if verdict.pairs > 1:
        ax.plot([verdict.low, verdict.high], [0, 0], "-", color=INK, lw=2.5)
        ax.plot([verdict.mean], [0], "D", color=INK, ms=5)
    ax.set(ylim=(-0.7, 1.7), xlabel="first better →")
    ax.set_yticks([1, 0], ["seeds", "mean"], size=8)
    ax.locator_params(axis="x", nbins=5)


def _broken(title: str, width: int = 22) -> str:
    """A title on at most three lines."""
    return "\n".join(textwrap.wrap(title, width)[:3])
