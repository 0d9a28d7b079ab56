"""A quick check: the reader commits to an answer first, and sees what happens second.

`p = predict("question", options=[…])` asks; `p.reveal(answer, because=…)`, in the cell after the
experiment, sets the answer beside what was committed. Nothing blocks: a notebook that runs without a reader
goes through. In the book (`COURSEKIT_BOOK=1`) the question has buttons to press and the answer is folded
away.
"""

from __future__ import annotations

import html
import math
import os
import zlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import anywidget
import traitlets
from IPython.display import display

__all__ = ["Prediction", "predict"]

_CSS = (files("coursekit") / "assets" / "predict.css").read_text(encoding="utf-8")
_JS = (files("coursekit") / "assets" / "predict.js").read_text(encoding="utf-8")


class _Question(anywidget.AnyWidget):
    _esm = _JS
    _css = _CSS
    part = traitlets.Unicode("question").tag(sync=True)
    spec = traitlets.Dict().tag(sync=True)
    committed = traitlets.Any(None, allow_none=True).tag(sync=True)


class _Reveal(anywidget.AnyWidget):
    _esm = _JS
    _css = _CSS
    part = traitlets.Unicode("reveal").tag(sync=True)
    markup = traitlets.Unicode("").tag(sync=True)


class Prediction:
    """What `predict` returns: `committed` (None until then), `commit(value)` from Python, `reveal(…)`."""

    def __init__(
        self,
        question: str,
        options: Sequence[str] | None,
        kind: str,
        unit: str,
        answer: Any,
        because: str,
    ) -> None:
        self.question, self.options, self.kind, self.unit = question, list(options or []), kind, unit
        self._answer, self._because = answer, because
        self._committed: str | float | None = None
        self._widget: _Question | None = None

    @property
    def committed(self) -> str | float | None:
        """The committed answer: an option, a number or a text; None before."""
        return self._committed if self._widget is None else self._widget.committed

    def _ask(self) -> None:
        # No widget is made for the book: its state would be stored in the page.
        if os.environ.get("COURSEKIT_BOOK") == "1":
            display({"text/html": self._static(), "text/plain": self.question}, raw=True)
            return
        spec = {"question": self.question, "options": self.options, "kind": self.kind, "unit": self.unit}
        self._widget = _Question(spec=spec)
        display(self._widget)

    def commit(self, value: str | float) -> None:
        """Commit from Python, as the button does; a commitment stays."""
        if self.committed is not None:
            raise ValueError(
                f"predict: you have committed to {self._say(self.committed)} already; that stays"
            )
        valid = self._valid(value, "commit")
        if self._widget is None:
            self._committed = valid
        else:
            self._widget.committed = valid

    def reveal(self, answer: Any = None, because: str = "") -> None:
        """Show the answer beside the commitment; before one is made, wait for it on the page (never in
        Python).

        `answer` may be what the notebook has just measured; it defaults to the one given to `predict`.
        `because` is the reason. Raises `ValueError` if there is no answer, or one that is none of the
        options.
        """
        answer = self._answer if answer is None else answer
        if answer is None:
            raise ValueError("reveal: no answer given; pass it here or as predict(…, answer=…)")
        answer = self._valid(answer, "reveal")
        because = because or self._because
        if os.environ.get("COURSEKIT_BOOK") == "1":
            data = {"text/html": self._folded(answer, because), "text/plain": self._plain(answer, because)}
            display(data, raw=True)
            return
        box = _Reveal(markup=self._compared(answer, because))
        if self.committed is None and self._widget is not None:
            self._widget.observe(
                lambda _: setattr(box, "markup", self._compared(answer, because)), names="committed"
            )
        display(box)

    # -- words ------------------------------------------------------------

    def _valid(self, value: Any, who: str) -> str | float:
        if self.kind == "choice":
            # A whole number is an index, unless the options themselves are numbers.
            index = isinstance(value, int) and not isinstance(value, bool) and str(value) not in self.options
            if index and 0 <= value < len(self.options):
                return self.options[value]
            if str(value) not in self.options:
                raise ValueError(f"{who}: {value!r} is none of the options {self.options}")
            return str(value)
        if self.kind == "number":
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise ValueError(f"{who}: want a number, got {value!r}") from None
            if not math.isfinite(number):
                raise ValueError(f"{who}: want a finite number, got {value!r}")
            return number
        if not str(value).strip():
            raise ValueError(f"{who}: the text is empty")
        return str(value).strip()

    def _say(self, value: str | float) -> str:
        if isinstance(value, float):
            gap = "" if self.unit in ("", "°", "%") else " "
            return f"{value:.4g}{gap}{self.unit}"
        return value

    def _verdict(self, answer: str | float) -> str:
        said = self.committed
        if said is None or self.kind == "text":
            return ""
        if isinstance(answer, float) and isinstance(said, float | int):
            if math.isclose(said, answer, rel_tol=0.05, abs_tol=1e-12):
                return "Within five percent."
            if answer and said and (said > 0) == (answer > 0):
                ratio = max(said / answer, answer / said)
                side = "above" if abs(said) > abs(answer) else "below"
                return f"Your number lies {side} it by a factor of {ratio:.3g}."
            return f"Your number is off by {self._say(abs(float(said) - answer))}."
        return "As you predicted." if said == answer else "Not what you predicted: that is where to look."

    def _compared(self, answer: str | float, because: str) -> str:
        if self.committed is None:
            return "<p>Commit to an answer above first; what happened then appears here.</p>"
        # traitlets hand back an int where the page sent a whole number
        said = self._say(float(self.committed) if self.kind == "number" else self.committed)
        it_is = html.escape(self._say(answer))
        rows = f"<dt>You said</dt><dd>{html.escape(said)}</dd><dt>It is</dt><dd>{it_is}</dd>"
        verdict = self._verdict(answer)
        tail = "".join(f"<p>{html.escape(t)}</p>" for t in (verdict, because) if t)
        return f"<dl>{rows}</dl>{tail}"

    def _plain(self, answer: str | float, because: str) -> str:
        return f"Answer: {self._say(answer)}. {because}".strip()

    def _folded(self, answer: str | float, because: str) -> str:
        reason = f"<p>{html.escape(because)}</p>" if because else ""
        return (
            f"<style>{_CSS}</style>"
            f'<details class="ck-predict ck-reveal"><summary>I have decided: show the answer to '
            f"“{html.escape(self.question)}”</summary>"
            f"<p><strong>{html.escape(self._say(answer))}</strong></p>{reason}</details>"
        )

    def _static(self) -> str:
        mark = f"ck{zlib.crc32(self.question.encode()):x}"
        if self.kind == "choice":
            field = "".join(
                f'<label><input type="radio" name="{mark}"> <span>{html.escape(o)}</span></label>'
                for o in self.options
            )
        elif self.kind == "number":
            unit = html.escape(self.unit)
            field = f'<label>Your number <input type="number" step="any"> <span>{unit}</span></label>'
        else:
            field = '<label>In your words <textarea rows="2"></textarea></label>'
        return (
            f'<style>{_CSS}</style><div class="ck-predict"><fieldset>'
            f"<legend>{html.escape(self.question)}</legend>{field}</fieldset>"
            "<p>Decide before you read on.</p></div>"
        )


def predict(
    question: str,
    options: Sequence[str] | None = None,
    *,
    number: bool = False,
    unit: str = "",
    answer: Any = None,
    because: str = "",
) -> Prediction:
    """Ask for a prediction, and return it, to be revealed later: `p = predict(…)`, then `p.reveal(measured)`.

    `options` makes it a choice, `number=True` (or a `unit`) a number, neither a short text. `answer` (an
    option, its index, or a number) and `because` may be given here or to `reveal`. It is never graded and
    never blocks. Raises `ValueError` for an empty question, fewer than two options, or an answer that is
    none of them.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError("predict: the question is empty")
    if options is not None:
        options = [str(o) for o in options]
        if len(options) < 2 or len(set(options)) != len(options):
            raise ValueError(f"predict: want at least two different options, got {options}")
        if number or unit:
            raise ValueError(
                "predict: a choice has no number and no unit; leave options out, or number and unit"
            )
    kind = "choice" if options is not None else "number" if number or unit else "text"
    prediction = Prediction(question.strip(), options, kind, unit, None, because)
    if answer is not None:
        prediction._answer = prediction._valid(answer, "predict")
    prediction._ask()
    return prediction
