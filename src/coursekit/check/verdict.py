"""What a student sees: a verdict, a hint, or the one line under a graded cell, as text and as HTML.

The HTML uses the notebook's own text colour, a word and a sign next to the coloured bar, so that it reads
in a light and a dark theme, in black and white, and aloud. Nothing here is displayed twice when it is the
last line of a cell.
"""

from __future__ import annotations

import html
import re
import sys
from dataclasses import dataclass, field
from typing import Any

_SIGNS = {"correct": "✓", "wrong": "✗", "not attempted": "○", "hint": "?"}
_COLOURS = {
    "correct": "var(--jp-success-color1, #1b7f3b)",
    "wrong": "var(--jp-error-color1, #c62828)",
    "not attempted": "var(--jp-layout-color4, #757575)",
    "hint": "var(--jp-info-color1, #0277bd)",
}


def points_text(points: float) -> str:
    """``2 points``, ``1 point``, ``0.5 points``."""
    return f"{points:g} point{'' if points == 1 else 's'}"


class _Shown:
    """Displays itself once in a cell: when it is made to, or else as the cell's last value."""

    _cell: Any = None

    def _text(self) -> str:
        raise NotImplementedError  # each kind of thing writes its own

    def _repr_html_(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return self._text()

    def show(self) -> None:
        """Display it now: as HTML and text under a notebook, as text elsewhere."""
        shell = _shell()
        if shell is None:
            print(self._text())
            return
        from IPython.display import display

        object.__setattr__(self, "_cell", shell.execution_count)
        display({"text/plain": self._text(), "text/html": self._repr_html_()}, raw=True)

    def _ipython_display_(self) -> None:
        shell = _shell()
        if shell is None or self._cell != shell.execution_count:
            self.show()


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


@dataclass(frozen=True, repr=False)
class Verdict(_Shown):
    """What came of a check: ``status`` is "not attempted", "correct" or "wrong"; ``message`` says why in a
    sentence.

    ``points`` of ``possible`` were earned. ``misconception`` is the stable id of the known mistake that the
    answer shows, else None; ``kind`` is the stable name of what was found (see `coursekit.check`), "" when
    correct. ``parts`` lists (what, points earned, points possible) where an exercise gives partial credit.
    """

    exercise: str
    title: str
    status: str
    message: str
    points: float
    possible: float
    kind: str = ""
    misconception: str | None = None
    parts: tuple[tuple[str, float, float], ...] = ()
    seconds: float = field(default=0.0, compare=False)

    def _head(self) -> str:
        score = (
            f" ({self.points:g} of {points_text(self.possible)})" if 0 < self.points < self.possible else ""
        )
        return f"{self.status.capitalize()}{score}"

    def _text(self) -> str:
        lines = [f"{_SIGNS[self.status]} {self.title}: {self._head()}"]
        if self.message:
            lines.append(f"  {self.message}")
        lines += [
            f"  {'✓' if got == of else '✗'} {what}: {got:g} of {points_text(of)}"
            for what, got, of in self.parts
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        body = f"<div>{_markup(self.message)}</div>" if self.message else ""
        if self.parts:
            rows = "".join(
                f"<li style='list-style:none'><span aria-hidden='true'>{'✓' if got == of else '✗'}</span> "
                f"{_markup(what)}: {got:g} of {points_text(of)}</li>"
                for what, got, of in self.parts
            )
            body += f"<ul style='margin:0.2em 0 0;padding-left:0.4em'>{rows}</ul>"
        return _box(self.status, f"{self._head()}", self.title, body)


@dataclass(frozen=True, repr=False)
class Hint(_Shown):
    """One hint of an exercise, the ``number``-th of ``of``."""

    title: str
    number: int
    of: int
    text: str

    def _text(self) -> str:
        return f"? {self.title}: hint {self.number} of {self.of}\n  {self.text}"

    def _repr_html_(self) -> str:
        return _box(
            "hint", f"Hint {self.number} of {self.of}", self.title, f"<div>{_markup(self.text)}</div>"
        )


class Points(float):
    """Points earned in a graded cell: a number for nbgrader (its text is the number), the verdict for the
    eye.
    """

    verdict: Verdict

    def __new__(cls, verdict: Verdict) -> Points:
        """The points of this verdict."""
        self = super().__new__(cls, verdict.points)
        self.verdict = verdict
        return self

    def _repr_html_(self) -> str:
        return self.verdict._repr_html_()


class NoPoints(Exception):
    """A graded cell that earns nothing; in a notebook its traceback is one line."""

    def __init__(self, verdict: Verdict):
        self.verdict = verdict
        super().__init__(self._line())

    def _line(self) -> str:
        v = self.verdict
        words = f" {v.message}" if v.message and v.status == "wrong" else ""
        return f"{v.title}: {v.status}, 0 of {points_text(v.possible)}.{words}"

    def _render_traceback_(self) -> list[str]:
        return [f"{_SIGNS[self.verdict.status]} {self._line()}"]


def _markup(text: str) -> str:
    """Escape for HTML; `code` between backticks becomes code."""
    return re.sub(r"`([^`\n]{1,200})`", r"<code>\1</code>", html.escape(text))


def _box(kind: str, head: str, title: str, body: str) -> str:
    return (
        f"<div role='status' style='border-left:4px solid {_COLOURS[kind]};padding:0.3em "
        "0.8em;margin:0.3em 0'>"
        f"<div><span aria-hidden='true'>{_SIGNS[kind]}</span> <strong>{html.escape(head)}</strong>"
        f" <span>· {_markup(title)}</span></div>{body}</div>"
    )
