"""One call for an interactive figure: live under a kernel, precomputed frames in the book.

`explore(draw, angle=Slider(0, 345, step=15, unit="°"))` draws `draw(angle=…)` for every position of its
controls. Under a kernel the picture is drawn when it is asked for. While a lesson is executed for the book
(environment variable `COURSEKIT_BOOK=1`) every picture is drawn once and stored in the page, which then
needs neither kernel nor network. The controls are the same native form elements in both homes
(`assets/explore.js`).
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import anywidget
import matplotlib.pyplot as plt
import traitlets
from IPython.display import display
from matplotlib.figure import Figure

__all__ = ["Choice", "Slider", "Toggle", "explore", "live", "page"]

MAX_FRAMES = 400
MAX_MB = 6.0


@dataclass(frozen=True)
class Slider:
    """A slider over `start, start + step, …, stop` (`stop` included where a step lands on it), in `unit`.

    `value` is where it starts (the first position if not given), `play=True` adds a Play button. Integers
    stay integers.
    """

    start: float
    stop: float
    step: float = 1
    value: float | None = None
    label: str = ""
    unit: str = ""
    play: bool = False

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (self.start, self.stop, self.step)):
            raise ValueError("Slider: start, stop and step must be finite numbers")
        if self.step <= 0 or self.stop <= self.start:
            raise ValueError(
                f"Slider: got start={self.start}, stop={self.stop}, step={self.step}; "
                "want start < stop and a step above zero"
            )
        if self.value is not None and self._nearest(self.value) is None:
            raise ValueError(
                f"Slider: value={self.value} is none of its positions "
                f"({self.start}, {self.start + self.step}, … up to {self.stop})"
            )

    @property
    def values(self) -> list[Any]:
        """Every value that the slider stops at, from low to high."""
        count = math.floor((self.stop - self.start) / self.step + 1e-9) + 1
        if all(float(v).is_integer() for v in (self.start, self.step)):
            return [int(self.start + i * self.step) for i in range(count)]
        return [round(self.start + i * self.step, 10) for i in range(count)]

    @property
    def texts(self) -> list[str]:
        """The values as they are shown, with their unit."""
        return [f"{v:g}".replace("-", "\N{MINUS SIGN}") for v in self.values]

    @property
    def at(self) -> int:
        """The position in `values` of the value shown first."""
        return 0 if self.value is None else self._nearest(self.value) or 0

    def _nearest(self, value: float) -> int | None:
        near = min(range(len(self.values)), key=lambda i: abs(self.values[i] - value))
        return near if abs(self.values[near] - value) < 1e-6 * max(1.0, abs(self.step)) else None


@dataclass(frozen=True)
class Choice:
    """A menu: a list of options, or a mapping from what is shown to what `draw` gets."""

    options: Sequence[Any] | Mapping[str, Any]
    value: Any = None
    label: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.options, str) or len(self.options) < 2:
            raise ValueError(
                f"Choice: got {self.options!r}; want at least two options in a list or a mapping"
            )
        if len(set(self.texts)) != len(self.texts):
            raise ValueError(f"Choice: two options read the same: {self.texts}")
        if self.value is not None and not any(_same(self.value, v) for v in self.values):
            raise ValueError(f"Choice: value={self.value!r} is none of the options {self.texts}")

    @property
    def values(self) -> list[Any]:
        """The options, in the order in which they are shown."""
        return list(self.options.values() if isinstance(self.options, Mapping) else self.options)

    @property
    def texts(self) -> list[str]:
        """The options as they are shown."""
        return [str(o) for o in self.options]

    @property
    def at(self) -> int:
        """The position in `values` of the option shown first."""
        if self.value is None:
            return 0
        return next(i for i, v in enumerate(self.values) if _same(self.value, v))


@dataclass(frozen=True)
class Toggle:
    """A tick box; `draw` gets `True` or `False`."""

    value: bool = False
    label: str = ""

    values = (False, True)
    texts = ("off", "on")

    @property
    def at(self) -> int:
        """The position in `values` of the state shown first."""
        return int(self.value)


Control = Slider | Choice | Toggle
Drawn = Figure | tuple[Figure, str]


def explore(
    draw: Callable[..., Drawn],
    *,
    alt: str | Callable[..., str] | None = None,
    frames: Mapping[str, Iterable[Any]] | None = None,
    max_mb: float = MAX_MB,
    **controls: Control | Sequence[Any],
) -> None:
    """Show `draw(**positions)` with one control a keyword: live widgets under a kernel, frames to scrub
    through in the book.

    `draw` returns a matplotlib `Figure`, or `(figure, alt)`. Alt text is required: from `draw`, or as
    `alt`, either a function of the same keywords or one sentence, to which the positions are added. A plain
    list is a `Choice`, a bool a `Toggle`. `frames={"angle": [0, 90, 180]}` names the positions that the
    book keeps (all others stay live only); the book refuses a figure of more than `max_mb` megabytes. An
    error in `draw` becomes one sentence under the figure, except while a book is built, where it is raised.

    Raises `TypeError` and `ValueError` for controls that cannot be understood.
    """
    if os.environ.get("COURSEKIT_BOOK") == "1":
        markup, first = _frames(draw, alt, frames, max_mb, controls)
        data = {"text/html": markup, "image/png": first.png, "text/plain": first.alt}
        display(data, metadata={"image/png": {"alt": first.alt, "width": first.width}}, raw=True)
    else:
        _check_frames(frames, _understand(draw, controls))
        display(live(draw, alt=alt, **controls))


def live(
    draw: Callable[..., Drawn],
    *,
    alt: str | Callable[..., str] | None = None,
    **controls: Control | Sequence[Any],
) -> Live:
    """The live form of `explore` as a widget, not displayed; `widget.move(angle=30)` moves it from Python."""
    return Live(draw, alt, _understand(draw, controls))


def page(
    draw: Callable[..., Drawn],
    *,
    alt: str | Callable[..., str] | None = None,
    frames: Mapping[str, Iterable[Any]] | None = None,
    max_mb: float = MAX_MB,
    **controls: Control | Sequence[Any],
) -> str:
    """The book's form of `explore` as self-contained HTML: every frame inside, no kernel, no network."""
    return _frames(draw, alt, frames, max_mb, controls)[0]


# --------------------------------------------------------------------------------------------------
# what both forms share


@dataclass(frozen=True)
class _Picture:
    png: bytes
    alt: str
    size: tuple[int, int]  # in CSS pixels


def _same(a: Any, b: Any) -> bool:
    # `is` first: options may be arrays or networks, whose == is not one bool
    if a is b:
        return True
    try:
        return bool(a == b)
    except Exception:
        return False


def _understand(draw: Callable[..., Drawn], controls: Mapping[str, Any]) -> dict[str, Control]:
    if not callable(draw):
        raise TypeError(
            f"explore: the first argument must be a function that draws, got {type(draw).__name__}"
        )
    if not controls:
        raise ValueError("explore: no control given; add one, such as angle=Slider(0, 345, step=15)")
    understood: dict[str, Control] = {}
    for name, control in controls.items():
        if isinstance(control, bool):
            control = Toggle(control)
        elif isinstance(control, list | tuple | dict):
            control = Choice(control)
        if not isinstance(control, Slider | Choice | Toggle):
            raise TypeError(
                f"explore: {name} is a {type(control).__name__}; "
                "want a Slider, a Choice, a Toggle or a list of options"
            )
        understood[name] = control
    return understood


def _spec(controls: Mapping[str, Control]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "kind": type(control).__name__.lower(),
            "label": control.label or name.replace("_", " "),
            "unit": getattr(control, "unit", ""),
            "texts": list(control.texts),
            "at": control.at,
            "play": getattr(control, "play", False),
        }
        for name, control in controls.items()
    ]


def _where(controls: Mapping[str, Control], at: Sequence[int]) -> str:
    parts = []
    for spec, i in zip(_spec(controls), at, strict=True):
        unit = spec["unit"]
        gap = "" if unit in ("", "°") else " "
        parts.append(f"{spec['label']} {spec['texts'][i]}{gap}{unit}")
    return ", ".join(parts)


def _picture(
    draw: Callable[..., Drawn],
    alt: str | Callable[..., str] | None,
    controls: Mapping[str, Control],
    at: Sequence[int],
    scale: float,
) -> _Picture:
    """Draw once, and leave no figure behind: pyplot keeps every figure it made until it is closed."""
    values = {name: control.values[i] for (name, control), i in zip(controls.items(), at, strict=True)}
    before = set(plt.get_fignums())
    try:
        drawn = draw(**values)
        figure, text = drawn if isinstance(drawn, tuple) and len(drawn) == 2 else (drawn, None)
        if not isinstance(figure, Figure):
            raise TypeError(
                f"draw returned {type(figure).__name__}, not a matplotlib Figure: end it with `return fig` "
                "or `return fig, alt`"
            )
        if text is None and callable(alt):
            text = alt(**values)
        elif text is None and isinstance(alt, str) and alt:
            text = f"{alt.rstrip().rstrip('.')} ({_where(controls, at)})."
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                "the figure has no alt text: return `fig, alt` from draw, or pass alt=…, saying what a "
                "reader who cannot see the picture needs to know"
            )
        store = io.BytesIO()
        figure.savefig(
            store, format="png", dpi=figure.dpi * scale, facecolor="white", pil_kwargs={"compress_level": 2}
        )
        width, height = (round(v * figure.dpi) for v in figure.get_size_inches())
        plt.close(figure)
        return _Picture(store.getvalue(), text.strip(), (width, height))
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def _asset(name: str) -> str:
    return (files("coursekit") / "assets" / name).read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------
# under a kernel

_RENDER = """
export default {
  render({ model, el }) {
    let waiting = null, number = Date.now();
    const read = () => {
      const { picture, alt, width, error } = model.get("answer");
      if (!picture || !picture.byteLength) return { error };
      const src = URL.createObjectURL(new Blob([picture], { type: "image/png" }));
      return { src, alt, width, error, release: () => URL.revokeObjectURL(src) };
    };
    const root = document.createElement("div");
    el.append(root);
    const show = coursekitExplore(root, model.get("spec"), (at, done) => {
      waiting = { number: ++number, done };
      model.set("ask", { number, at });
      model.save_changes();
    });
    const heard = () => {
      // An answer to nobody is a move made from Python: every view shows it.
      if (waiting && model.get("answer").number === waiting.number) {
        const { done } = waiting;
        waiting = null;
        done(read());
      } else if (!waiting) show(read());
    };
    model.on("change:answer", heard);
    show(read());
    return () => { model.off("change:answer", heard); if (root.ckRelease) root.ckRelease(); };
  },
};
"""


class Live(anywidget.AnyWidget):
    """The widget behind `explore`: it gets positions, draws, and sends back one PNG with its alt text."""

    _esm = _asset("explore.js") + _RENDER
    _css = _asset("explore.css")
    spec = traitlets.Dict().tag(sync=True)
    ask = traitlets.Dict().tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        draw: Callable[..., Drawn],
        alt: str | Callable[..., str] | None,
        controls: Mapping[str, Control],
    ) -> None:
        self._draw, self._alt, self._controls = draw, alt, controls
        super().__init__(spec={"controls": _spec(controls)}, answer={"number": 0})
        self._reply(0, [control.at for control in controls.values()])
        self.observe(self._asked, names="ask")

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        # A picture beside the widget: a reader without a widget manager sees the first frame, not a line of
        # text.
        bundle = super()._repr_mimebundle_(**kwargs)
        if not bundle or not self.answer.get("picture"):
            return bundle
        data, metadata = bundle
        encoded = base64.b64encode(self.answer["picture"]).decode()
        about = {"alt": self.answer["alt"], "width": self.answer["width"]}
        data |= {"image/png": encoded, "text/plain": self.answer["alt"]}
        return data, metadata | {"image/png": about}

    def move(self, **positions: Any) -> None:
        """Move controls from Python, by value: `widget.move(angle=30)`; the others stay where they are."""
        at = list(self.answer["at"])
        for name, value in positions.items():
            if name not in self._controls:
                raise ValueError(f"move: no control {name!r}; there are {', '.join(self._controls)}")
            options = self._controls[name].values
            found = [i for i, option in enumerate(options) if _same(option, value)]
            if not found:
                raise ValueError(f"move: {value!r} is no position of {name}")
            at[list(self._controls).index(name)] = found[0]
        self._reply(self.answer["number"] + 1, at)

    def _asked(self, change: Any) -> None:
        self._reply(change["new"].get("number", 0), change["new"].get("at", []))

    def _reply(self, number: int, at: Sequence[int]) -> None:
        answer: dict[str, Any] = {"number": number, "at": list(at), "error": ""}
        try:
            picture = _picture(self._draw, self._alt, self._controls, at, scale=1.5)
            answer |= {"picture": picture.png, "alt": picture.alt, "width": picture.size[0]}
        except NotImplementedError:
            answer["error"] = "Nothing to draw yet: a function that this figure needs is still to be written."
        except Exception as error:
            reason = " ".join(str(error).split())
            answer["error"] = f"This picture could not be drawn: {type(error).__name__}: {reason}"
        if answer["error"] and self.answer.get("picture"):
            answer |= {key: self.answer[key] for key in ("picture", "alt", "width")}
        self.answer = answer


# --------------------------------------------------------------------------------------------------
# in the book


@dataclass(frozen=True)
class _First:
    png: str  # base64
    alt: str
    width: int


def _check_frames(
    frames: Mapping[str, Iterable[Any]] | None, controls: Mapping[str, Control]
) -> dict[str, list[int]]:
    """Which positions of each control the book keeps, the starting one always among them."""
    kept = {name: list(range(len(control.values))) for name, control in controls.items()}
    for name, wanted in (frames or {}).items():
        if name not in controls:
            raise ValueError(f"explore: frames names {name!r}, but the controls are {', '.join(controls)}")
        options = controls[name].values
        chosen = {controls[name].at}
        for value in wanted:
            found = [i for i, option in enumerate(options) if _same(option, value)]
            if not found:
                raise ValueError(
                    f"explore: frames asks for {name}={value!r}, which is no position of that control"
                )
            chosen.add(found[0])
        kept[name] = sorted(chosen)
    return kept


def _smaller(png: bytes) -> tuple[str, bytes]:
    """The same picture as WebP where that is smaller; text and edges stay sharp at this quality."""
    from PIL import Image

    store = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").save(store, "WEBP", quality=88, method=4)
    webp = store.getvalue()
    return ("image/webp", webp) if len(webp) < len(png) else ("image/png", png)


def _frames(
    draw: Callable[..., Drawn],
    alt: str | Callable[..., str] | None,
    frames: Mapping[str, Iterable[Any]] | None,
    max_mb: float,
    given: Mapping[str, Any],
) -> tuple[str, _First]:
    controls = _understand(draw, given)
    kept = _check_frames(frames, controls)
    counts = " × ".join(f"{len(v)} ({name})" for name, v in kept.items())
    total = math.prod(len(v) for v in kept.values())
    advice = "take a larger step, or name the positions that the book keeps with frames={…}"
    if total > MAX_FRAMES:
        raise ValueError(f"explore: {counts} = {total} frames for the book, more than {MAX_FRAMES}: {advice}")
    uris: dict[str, int] = {}
    index: list[int] = []
    alts: list[str] = []
    size = 0
    start = tuple(control.at for control in controls.values())
    first: _First | None = None
    first_uri, width, height = "", 0, 0
    for at in itertools.product(*kept.values()):
        try:
            picture = _picture(draw, alt, controls, at, scale=1.5)
        except Exception as error:
            raise RuntimeError(
                f"explore: no frame for the book at {_where(controls, at)}: {error}"
            ) from error
        mime, data = _smaller(picture.png)
        uri = f"data:{mime};base64,{base64.b64encode(data).decode()}"
        if uri not in uris:
            size += len(uri)
            uris[uri] = len(uris)
        if size > max_mb * 1e6:
            raise ValueError(
                f"explore: {len(index) + 1} of {total} frames ({counts}) already take {size / 1e6:.1f} MB "
                f"of the page, more than max_mb={max_mb:g}: {advice}, draw a smaller figure, or raise max_mb"
            )
        index.append(uris[uri])
        alts.append(picture.alt)
        if at == start:
            first = _First(base64.b64encode(picture.png).decode(), picture.alt, picture.size[0])
            first_uri, (width, height) = uri, picture.size
    assert first is not None  # the starting position is always among those kept
    spec = _spec(controls)
    for entry, positions in zip(spec, kept.values(), strict=True):
        entry["at"] = positions.index(entry["at"])
        entry["texts"] = [entry["texts"][i] for i in positions]
    movable = [s for s in spec if len(s["texts"]) > 1]
    # Controls with one position left have nothing to move; the product order below is the same without them.
    content = {"controls": movable, "frames": list(uris), "index": index, "alts": alts}
    # "<" is written as an escape: no text inside can end the script element.
    payload = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    mark = "ck-" + hashlib.sha256(payload.encode()).hexdigest()[:12]
    markup = f"""<style>{_asset("explore.css")}</style>
<div class="ck-explore" data-explore="{mark}">
<img class="ck-picture" src="{first_uri}" alt="{html.escape(first.alt)}" width="{width}" height="{height}">
<p class="ck-still">This is the first frame of a figure that moves where scripts are allowed.</p>
</div>
<script type="application/json" data-explore-for="{mark}">{payload}</script>
<script>(function () {{
{_asset("explore.js")}
const root = document.querySelector('[data-explore="{mark}"]:not([data-ready])');
if (!root) return;
root.dataset.ready = "1";
const spec = JSON.parse(document.querySelector('[data-explore-for="{mark}"]').textContent);
coursekitExplore(root, spec, (at, done) => {{
  const k = spec.controls.reduce((sum, control, i) => sum * control.texts.length + at[i], 0);
  done({{ src: spec.frames[spec.index[k]], alt: spec.alts[k] }});
}});
}})();</script>"""
    return markup, first
