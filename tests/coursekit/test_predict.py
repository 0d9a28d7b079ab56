"""`predict`: a commitment comes first and stays, the reveal compares, the book's form is static."""

import pytest

from coursekit import predict as module
from coursekit.predict import predict


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "display", lambda item, **kw: calls.append(item))
    monkeypatch.delenv("COURSEKIT_BOOK", raising=False)
    return calls


def test_the_answer_appears_only_after_the_commitment(shown):
    p = predict("Which way?", ["left", "right"], answer="left", because="The kernel is flipped.")
    p.reveal()
    box = shown[1]
    assert "left" not in box.markup
    assert "flipped" not in box.markup
    shown[0].committed = "right"  # what the Commit button does
    assert p.committed == "right"
    assert "left" in box.markup
    assert "Not what you predicted" in box.markup
    assert "flipped" in box.markup


def test_a_commitment_stays(shown):
    p = predict("Which way?", ["left", "right"])
    p.commit("left")
    with pytest.raises(ValueError, match="already"):
        p.commit("right")
    p.reveal(0)
    assert "As you predicted" in shown[-1].markup


@pytest.mark.parametrize(
    ("said", "is_", "words"),
    [
        (10, 10.2, "Within five percent"),
        (3, 9, "below it by a factor of 3"),
        (9, 3, "above it by a factor of 3"),
        (-1, 4, "off by 5 %".replace(" %", "%")),
        (0, 2, "off by 2%"),
    ],
)
def test_numbers_are_compared(shown, said, is_, words):
    p = predict("How much?", unit="%")
    p.commit(said)
    p.reveal(is_)
    assert words in shown[-1].markup


def test_text_is_set_beside_the_answer_and_escaped(shown):
    p = predict("Why?")
    p.commit("<b>because</b>")
    p.reveal("It is so.")
    assert "&lt;b&gt;because&lt;/b&gt;" in shown[-1].markup


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: predict(" "), "empty"),
        (lambda: predict("?", ["one"]), "at least two"),
        (lambda: predict("?", ["a", "a"]), "at least two"),
        (lambda: predict("?", ["a", "b"], unit="%"), "no unit"),
        (lambda: predict("?", ["a", "b"], answer="c"), "none of the options"),
        (lambda: predict("?", ["a", "b"]).commit("c"), "none of the options"),
        (lambda: predict("?", ["a", "b"]).reveal(), "no answer given"),
        (lambda: predict("?", number=True).commit("many"), "want a number"),
        (lambda: predict("?", number=True).commit(float("nan")), "finite"),
        (lambda: predict("?").commit(" "), "empty"),
    ],
)
def test_nonsense_is_refused_in_words(shown, make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("options", [["left", "<i>right</i>"], None])
def test_the_book_form_is_static(shown, monkeypatch, options):
    monkeypatch.setenv("COURSEKIT_BOOK", "1")
    p = predict("Which way?", options)
    p.reveal("left", because="So it is.")
    question, answer = (item["text/html"].partition("</style>")[2] for item in shown)
    assert "<fieldset>" in question
    assert "left" not in question or options
    assert question.count('type="radio"') == len(options or [])
    assert "<i>" not in question
    assert "<details" in answer
    assert "So it is." in answer
    assert "<script" not in question + answer


def test_options_that_are_numbers_are_taken_as_written(shown):
    p = predict("How many?", ["4", "8"])
    p.commit(8)
    assert p.committed == "8"
