"""The drawing of the three networks is readable: every word is on the page, and no two words overlap."""

from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from equipath.viz.architectures import three_networks


@pytest.fixture(scope="module")
def figure():
    drawn = three_networks()
    FigureCanvasAgg(drawn).draw()
    return drawn


def test_each_network_has_its_name_above_it(figure):
    titles = [ax.get_title(loc="left").partition(":")[0] for ax in figure.axes]
    assert titles == ["U-Net", "Mask R-CNN", "DeepLab"]


def test_words_neither_overlap_nor_leave_the_page(figure):
    page = figure.bbox
    for ax in figure.axes:
        boxes = {text.get_text(): text.get_window_extent() for text in ax.texts}
        assert len(boxes) >= 5
        for words, box in boxes.items():
            assert page.x0 <= box.x0, words
            assert box.x1 <= page.x1, words
            assert page.y0 <= box.y0, words
            assert box.y1 <= page.y1, words
        for (one, a), (two, b) in combinations(boxes.items(), 2):
            assert not a.overlaps(b), f"{one!r} lies on {two!r}"
