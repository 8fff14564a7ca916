"""Drawings to play with: controls and a picture that is drawn again when one of them is moved.

    play(draw_nms, threshold=slide(0.5, 0, 1, 0.05), scene=[3, 6, 9], boxes=False)

as a cell's last line. The picture for the starting values is an ordinary output of the cell, so
that a page is whole where no kernel runs; the controls appear only where one does. Stored
notebooks and pages leave them out.
"""

import html
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import display

from lessons.kit.draw import captioned
from lessons.kit.errors import LessonsError

VIEW = "application/vnd.jupyter.widget-view+json"
MOST_FRAMES = 24
"""Of a page without a kernel: what it could show beside the picture at the start."""

# A picture that was drawn again takes the place of the cell's own, which is the next output: one
# of them is hidden, not cleared, so that a notebook that is saved keeps it.
IN_PLACE = """<style>.jp-OutputArea-child:has(.lessons-picture) + .jp-OutputArea-child {{
display: none }}</style>
<img class="lessons-picture" decoding="sync" alt="{alt}" width="{width}"
style="max-width: 100%; height: auto" src="data:image/png;base64,{png}">"""
FAILED = '<span class="lessons-failed" style="color: #a4330b">{}</span>'


class PlayError(LessonsError):
    """A drawing that fails, or a control that is none: one sentence, in a notebook too."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]  # what IPython shows


@dataclass(frozen=True)
class Control:
    """The values that an argument of a drawing takes, the one at the start, and what is moved.

    `labels` are the values' names where they are chosen by name. `kind` is a class of widgets.
    """

    start: Any
    values: Sequence
    kind: type[ipywidgets.Widget]
    labels: Sequence[str] = ()

    def widget(self, name: str) -> ipywidgets.Widget:
        """What is moved; its value is a number, or the place of a value that has a name."""
        options = {"description": name.replace("_", " "), "style": {"description_width": "initial"}}
        if self.kind is ipywidgets.Checkbox:
            options |= {"indent": False}
        else:
            options |= {"continuous_update": False}  # drawn when it is let go
        if self.labels:
            places = list(zip(self.labels, range(len(self.values)), strict=True))
            return self.kind(value=self.values.index(self.start), options=places, **options)
        if self.kind in (ipywidgets.IntSlider, ipywidgets.FloatSlider):
            low, high, step = self.values[0], self.values[-1], self.values[1] - self.values[0]
            options |= {"min": low, "max": high, "step": step}
            if self.kind is ipywidgets.FloatSlider:
                options |= {"readout_format": f".{_decimals(step)}f"}
        return self.kind(value=self.start, **options)

    def value_at(self, moved: float) -> Any:
        """The value at which a widget stands."""
        if self.labels:
            return self.values[moved]
        return min(self.values, key=lambda value: abs(value - moved))


def slide(start: float, low: float, high: float, step: float = 1) -> Control:
    """A slider from `low` to `high`, both among its values, that begins at `start`."""
    given = f"slide({start}, {low}, {high}, {step})"
    if not all(math.isfinite(number) for number in (start, low, high, step)):
        raise PlayError(f"{given}: a slider goes over finite numbers")
    if step <= 0 or high <= low:
        raise PlayError(f"{given}: a slider goes up, from low to high in steps above 0")
    steps = round((high - low) / step)
    if not math.isclose(low + steps * step, high, abs_tol=1e-6 * step):
        raise PlayError(f"{given}: {high} is no whole number of steps above {low}")
    digits = max(_decimals(low), _decimals(step))
    values = [round(low + k * step, digits) for k in range(steps + 1)]
    nearest = min(values, key=lambda value: abs(value - start))
    if not math.isclose(nearest, start, abs_tol=1e-6 * step):
        raise PlayError(f"{given}: {start} is none of its values, the nearest is {nearest}")
    whole = all(isinstance(value, int) for value in values)
    return Control(nearest, values, ipywidgets.IntSlider if whole else ipywidgets.FloatSlider)


def choose(start: Any, options: Sequence | Mapping[str, Any]) -> Control:
    """One of some options, given by their values or by names: {name: value}; begins at `start`.

    Numbers that rise become a slider over them, all else a list to choose from.
    """
    values = list(options.values() if isinstance(options, Mapping) else options)
    labels = list(options) if isinstance(options, Mapping) else values
    if len(values) < 2:
        raise PlayError(f"choose({start!r}, {options!r}): there must be two options or more")
    if start not in values:
        raise PlayError(f"choose({start!r}, …): the start is none of the options, {values}")
    names = [f"{each:.3g}" if isinstance(each, float) else str(each) for each in labels]
    if len(set(names)) < len(names):
        raise PlayError(f"choose({start!r}, {options!r}): two options have one name")
    as_slider = labels is values and _are_rising_numbers(values)
    kind = ipywidgets.SelectionSlider if as_slider else ipywidgets.Dropdown
    return Control(values[values.index(start)], values, kind, names)


def play(
    draw: Callable[..., captioned],
    /,
    *,
    frames: Mapping[str, Sequence] | None = None,
    **controls: Any,
) -> "Play":
    """A drawing and its controls, one for each argument that can be moved: a cell's last line.

    `draw` returns what `captioned` returns. A control is `slide(…)`, `choose(…)`, options (the
    first is the start; see `choose`), or True or False for a box to tick. `frames` names the
    values that a page without a kernel should show, `{argument: values}` for some arguments and
    in all combinations, at most 24; else each control is moved alone. Raises PlayError, also
    where the drawing fails at the start.
    """
    made = {name: _control(name, given) for name, given in controls.items()}
    return Play(draw, made, frames)


def _control(name: str, given: Any) -> Control:
    if isinstance(given, Control):
        return given
    if isinstance(given, bool):
        return Control(given, [False, True], ipywidgets.Checkbox)
    if isinstance(given, Mapping | list | tuple | range) and given:
        values = given.values() if isinstance(given, Mapping) else given
        return choose(next(iter(values)), given)
    raise PlayError(
        f"{name}={given!r} is no control: take slide(start, low, high, step), a list of options, "
        "True or False"
    )


class Play:
    """Made by `play`: `grid` has each control's values, `frames` those that a page should show."""

    def __init__(
        self,
        draw: Callable[..., captioned],
        controls: Mapping[str, Control],
        frames: Mapping[str, Sequence] | None = None,
    ):
        self.draw, self.controls = draw, dict(controls)
        self.name = getattr(draw, "__name__", "the drawing")
        if not controls:
            raise PlayError(f"{self.name} has no control to play with")
        try:
            inspect.signature(draw).bind(**self.start)
        except TypeError as error:
            raise PlayError(f"{self.name} cannot be drawn with these controls: {error}") from None
        self.frames = self._chosen_frames(frames)
        self._first = self.picture()  # here: an error while a cell shows something does not end it

    @property
    def start(self) -> dict[str, Any]:
        """Each control's value at the start."""
        return {name: control.start for name, control in self.controls.items()}

    @property
    def grid(self) -> dict[str, list]:
        """Each control's values, in order."""
        return {name: list(control.values) for name, control in self.controls.items()}

    def picture(self, **values: Any) -> captioned:
        """What is drawn for these values, of the others the start's. Raises PlayError."""
        values = self.start | values
        called = f"{self.name}({', '.join(f'{name}={v!r}' for name, v in values.items())})"
        before, picture = plt.get_fignums(), None
        try:
            picture = self.draw(**values)
        except Exception as error:  # whatever a reader's function raises
            words = (str(error).strip() or "it says no more").splitlines()[0]
            raise PlayError(f"{called} failed: {type(error).__name__}: {words}") from error
        finally:
            for number in set(plt.get_fignums()).difference(before):
                plt.close(number)  # or it would appear below the next cell
        if not isinstance(picture, captioned):
            kind = "nothing" if picture is None else type(picture).__name__
            raise PlayError(f"{called} returned {kind}: it must return captioned(figure, caption)")
        return picture

    def _ipython_display_(self) -> None:
        data, metadata = self._first.bundle()
        view = self._controls()._repr_mimebundle_()[VIEW]
        display({VIEW: view}, raw=True)
        display(data, metadata=metadata, raw=True)

    def _controls(self) -> ipywidgets.Widget:
        """The controls in rows, and below them room for a sentence and for a picture."""
        moved = {name: control.widget(name) for name, control in self.controls.items()}
        failed, picture = ipywidgets.HTML(), ipywidgets.HTML()

        def draw_again(_) -> None:
            values = {name: self.controls[name].value_at(w.value) for name, w in moved.items()}
            try:
                data, metadata = self.picture(**values).bundle(quick=True)
            except PlayError as error:
                failed.value = FAILED.format(html.escape(str(error)))
                return
            failed.value, shown = "", metadata["image/png"]
            alt = html.escape(shown["alt"])
            picture.value = IN_PLACE.format(alt=alt, width=shown["width"], png=data["image/png"])

        for widget in moved.values():
            widget.observe(draw_again, "value")
        rows = ipywidgets.Box(list(moved.values()), layout={"flex_flow": "row wrap"})
        return ipywidgets.VBox([rows, failed, picture])

    def _chosen_frames(self, chosen: Mapping[str, Sequence] | None) -> list[dict[str, Any]]:
        """Values of all controls, frame by frame, in the grid's order."""
        if chosen is None:
            frames = [self.start]
            for name, count in self._shares().items():
                others = [v for v in self.controls[name].values if v != self.start[name]]
                frames += [self.start | {name: value} for value in _evenly(others, count)]
        else:
            for name, values in chosen.items():
                absent = [value for value in values if value not in self.grid.get(name, [])]
                if absent or not values:
                    raise PlayError(f"frames: {name} has no value {absent[0] if absent else ''}")
            frames = [
                self.start | dict(zip(chosen, values, strict=True))
                for values in itertools.product(*chosen.values())
            ]
        if len(frames) > MOST_FRAMES:
            raise PlayError(f"frames: {len(frames)} are too many, at most {MOST_FRAMES} are drawn")
        return sorted(frames, key=self._place)

    def _shares(self) -> dict[str, int]:
        """How many frames each control gets: what those with few values leave is the others'."""
        left, shares = MOST_FRAMES - 1, {}
        few_first = sorted(self.controls, key=lambda name: len(self.controls[name].values))
        for k, name in enumerate(few_first):
            others = len(self.controls[name].values) - 1
            shares[name] = min(others, left // (len(few_first) - k))
            left -= shares[name]
        return shares

    def _place(self, frame: Mapping[str, Any]) -> list[int]:
        return [self.grid[name].index(value) for name, value in frame.items()]


def _evenly(values: list, count: int) -> list:
    """At most so many of the values, the first and the last among them."""
    if len(values) <= count or count < 2:
        return values[:count]
    return [values[round(k * (len(values) - 1) / (count - 1))] for k in range(count)]


def _are_rising_numbers(values: Sequence) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return numbers and all(a < b for a, b in itertools.pairwise(values))


def _decimals(number: float) -> int:
    """How many decimals a number is written with, 2 for 0.05 and 0 for 3; at most 9."""
    return next((d for d in range(9) if math.isclose(round(number, d), number)), 9)
