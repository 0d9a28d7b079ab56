"""`explore`: the live widget redraws, reports and cleans up; the book's form holds every frame."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from coursekit import explore as module
from coursekit.explore import Choice, Slider, Toggle, explore, live, page


def draw(angle=0, net="plain"):
    fig, ax = plt.subplots(figsize=(2, 1.5))
    ax.plot([0, np.cos(np.radians(angle))], [0, np.sin(np.radians(angle))], lw=4 if net == "plain" else 1)
    ax.set(xlim=(-1, 1), ylim=(-1, 1))
    return fig


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "display", lambda *args, **kwargs: calls.append((args, kwargs)))
    return calls


def stored(markup):
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', markup, re.S)[1])


@pytest.mark.parametrize(
    ("slider", "values", "at"),
    [
        (Slider(0, 345, step=15, value=30), list(range(0, 346, 15)), 2),
        (Slider(0, 10, step=4), [0, 4, 8], 0),
        (Slider(0.1, 0.5, step=0.1, value=0.3), [0.1, 0.2, 0.3, 0.4, 0.5], 2),
        (Slider(-1, 1), [-1, 0, 1], 0),
    ],
)
def test_slider_positions(slider, values, at):
    assert slider.values == pytest.approx(values)
    assert slider.at == at
    assert all(isinstance(a, type(b)) for a, b in zip(slider.values, values, strict=True))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Slider(1, 1), "start < stop"),
        (lambda: Slider(0, 1, step=0), "step above zero"),
        (lambda: Slider(0, float("inf")), "finite"),
        (lambda: Slider(0, 10, step=5, value=3), "none of its positions"),
        (lambda: Choice("plain"), "at least two"),
        (lambda: Choice(["one"]), "at least two"),
        (lambda: Choice(["a", "a"]), "read the same"),
        (lambda: Choice(["a", "b"], value="c"), "none of the options"),
        (lambda: live(draw, alt="x"), "no control"),
        (lambda: live(draw, alt="x", angle=3), "want a Slider"),
        (lambda: live("draw", alt="x", angle=Slider(0, 1)), "a function that draws"),
        (lambda: page(draw, alt="x", angle=Slider(0, 3), frames={"turn": [0]}), "frames names 'turn'"),
        (lambda: page(draw, alt="x", angle=Slider(0, 3), frames={"angle": [7]}), "no position"),
        (lambda: page(draw, alt="x", angle=Slider(0, 3000)), "3001"),
        (lambda: page(draw, alt="x", angle=Slider(0, 3), max_mb=0.001), "max_mb"),
    ],
)
def test_nonsense_is_refused_in_words(make, said):
    with pytest.raises((ValueError, TypeError), match=re.escape(said)):
        make()
    assert not plt.get_fignums()


def test_live_draws_what_is_asked_and_keeps_no_figure_open():
    widget = live(draw, alt="A hand", angle=Slider(0, 90, step=15, value=30, unit="°"), net=["plain", "thin"])
    first = widget.answer
    assert first["alt"] == "A hand (angle 30°, net plain)."
    assert bytes(first["picture"]).startswith(b"\x89PNG")
    widget.ask = {"number": 7, "at": [6, 1]}
    assert widget.answer["number"] == 7
    assert widget.answer["alt"] == "A hand (angle 90°, net thin)."
    assert widget.answer["picture"] != first["picture"]
    widget.move(angle=30, net="plain")
    assert widget.answer["picture"] == first["picture"]
    assert not plt.get_fignums()
    with pytest.raises(ValueError, match="no position"):
        widget.move(angle=31)
    with pytest.raises(ValueError, match="no control"):
        widget.move(scale=1)


def test_figures_of_others_stay_open():
    mine = plt.figure()
    live(draw, alt="A hand", angle=Slider(0, 90, step=90))
    assert plt.get_fignums() == [mine.number]
    plt.close(mine)


def test_values_reach_draw_as_they_were_given():
    seen = []

    def look(**values):
        seen.append(values)
        return draw()

    net = object()
    live(look, alt="x", n=Slider(1, 3), net=Choice({"mine": net, "none": None}), on=Toggle(True), flag=False)
    assert seen == [{"n": 1, "net": net, "on": True, "flag": False}]
    assert type(seen[0]["n"]) is int


def test_an_error_is_one_sentence_and_the_last_picture_stays():
    def fragile(angle):
        plt.figure()  # left open by the failure
        if angle == 1:
            raise RuntimeError("sizes\ndo not match")
        return draw(angle)

    widget = live(fragile, alt="A hand", angle=Slider(0, 2))
    good = widget.answer["picture"]
    widget.ask = {"number": 1, "at": [1]}
    assert widget.answer["error"] == "This picture could not be drawn: RuntimeError: sizes do not match"
    assert widget.answer["picture"] == good
    widget.ask = {"number": 2, "at": [2]}
    assert widget.answer["error"] == ""
    widget.ask = {"number": 3, "at": [99]}
    assert widget.answer["number"] == 3
    assert "could not be drawn" in widget.answer["error"]
    assert not plt.get_fignums()


def test_a_stub_reads_as_work_to_do():
    def stub(angle):
        raise NotImplementedError

    assert "still to be written" in live(stub, alt="x", angle=Slider(0, 1)).answer["error"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda angle: None, "return fig"),
        (lambda angle: (draw(), "  "), "no alt text"),
        (lambda angle: draw(), "no alt text"),
    ],
)
def test_what_draw_must_return(wrong, said):
    assert said in live(wrong, angle=Slider(0, 1)).answer["error"]
    with pytest.raises(RuntimeError, match=re.escape(said)):
        page(wrong, angle=Slider(0, 1))


@pytest.mark.slow
def test_page_holds_every_frame_once_and_loads_nothing():
    markup = page(draw, alt="A <b>hand</b>", angle=Slider(0, 360, step=90, value=90), net=["plain", "thin"])
    content = stored(markup)
    assert len(content["index"]) == len(content["alts"]) == 10
    # 0 and 360 degrees are one picture, stored once
    assert content["index"][0:2] == content["index"][8:10]
    assert len(content["frames"]) == 8
    assert content["alts"][3] == "A <b>hand</b> (angle 90, net thin)."
    assert 'alt="A &lt;b&gt;hand&lt;/b&gt; (angle 90, net plain)."' in markup
    assert 'class="ck-still"' in markup
    assert not re.search(r"""(src|href)=["'](?!data:)""", markup)
    assert "http" not in markup.replace("http://www.w3.org", "")
    assert not plt.get_fignums()


@pytest.mark.slow
def test_page_is_the_same_from_build_to_build():
    controls = {"angle": Slider(0, 90, step=45)}
    assert page(draw, alt="A hand", **controls) == page(draw, alt="A hand", **controls)


def test_frames_keeps_some_positions_and_the_starting_one():
    markup = page(draw, alt="A hand", angle=Slider(0, 90, step=15, value=30), frames={"angle": [0, 90]})
    control = stored(markup)["controls"][0]
    assert control["texts"] == ["0", "30", "90"]
    assert control["at"] == 1


def test_a_control_with_one_frame_left_is_not_offered():
    markup = page(draw, alt="A hand", angle=Slider(0, 90, step=45), net=["plain", "thin"], frames={"net": []})
    content = stored(markup)
    assert [c["name"] for c in content["controls"]] == ["angle"]
    assert len(content["index"]) == 3


def test_no_text_can_end_the_script():
    def nasty(angle):
        return draw(angle), f"</script><script>alert({angle})</script>"

    markup = page(nasty, angle=Slider(0, 1))
    assert markup.count("</script>") == 2
    assert stored(markup)["alts"][1] == "</script><script>alert(1)</script>"


def test_the_environment_chooses_the_form_at_call_time(shown, monkeypatch):
    monkeypatch.delenv("COURSEKIT_BOOK", raising=False)
    assert explore(draw, alt="A hand", angle=Slider(0, 1)) is None
    monkeypatch.setenv("COURSEKIT_BOOK", "1")
    explore(draw, alt="A hand", angle=Slider(0, 1))
    (widget,), _ = shown[0]
    assert isinstance(widget, module.Live)
    (data,), options = shown[1]
    assert {"text/html", "image/png", "text/plain"} <= data.keys()
    assert options["metadata"]["image/png"]["alt"] == "A hand (angle 0)."


def test_a_reader_without_widgets_sees_the_first_frame():
    data, metadata = live(draw, alt="A hand", angle=Slider(0, 1))._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert metadata["image/png"]["alt"] == data["text/plain"] == "A hand (angle 0)."
