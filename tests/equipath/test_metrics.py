"""Metrics against formulas by hand, scikit-learn, torchmetrics and pingouin."""

import math
import warnings

import numpy as np
import pytest
import torch

from equipath import metrics as M

rng = np.random.default_rng(0)


def test_dice_and_iou_by_hand():
    p, t = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]])
    assert M.dice_score(p, t) == 2 * 1 / (2 + 2)
    assert M.iou(p, t) == 1 / 3
    assert M.dice_score(torch.tensor(p).bool(), torch.tensor(t).bool()) == 0.5
    assert M.dice_score(p * 0, t * 0) == 1.0
    assert M.dice_score(p * 0, t) == 0.0


def test_against_torchmetrics():
    tm = pytest.importorskip("torchmetrics.functional")
    p, t = torch.randint(0, 4, (2, 9, 9)), torch.randint(0, 4, (2, 9, 9))
    torch.testing.assert_close(
        M.iou(p, t, 4).float(), tm.classification.multiclass_jaccard_index(p, t, 4, average="none")
    )
    torch.testing.assert_close(
        M.dice_score(p, t, 4).float(), tm.classification.multiclass_f1_score(p, t, 4, average="none")
    )
    assert np.isclose(M.mean_iou(p, t, 4), tm.classification.multiclass_jaccard_index(p, t, 4).item())


def test_absent_classes_and_ignored_pixels():
    p, t = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 255])
    per_class = M.iou(p, t, 4, ignore_index=255)
    np.testing.assert_allclose(per_class.numpy(), [1 / 2, 2 / 3, np.nan, np.nan])
    assert np.isclose(M.mean_iou(p, t, 4, ignore_index=255), (1 / 2 + 2 / 3) / 2)


def test_confusion_matrix_rows_are_truth():
    assert M.confusion_matrix([1, 1, 0], [0, 1, 0], 2).tolist() == [[1, 1], [0, 1]]


def test_nll_accuracy_auc_against_scikit_learn():
    from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

    t = rng.integers(0, 2, 200)
    p = np.clip(0.5 + 0.2 * (t - 0.5) + 0.2 * rng.normal(size=200), 0.01, 0.99).round(2)  # with ties
    assert np.isclose(M.nll(p, t), log_loss(t, p))
    assert M.accuracy(p, t) == accuracy_score(t, p > 0.5)
    assert np.isclose(M.auc(p, t), roc_auc_score(t, p))
    pairs = (p[t == 1][:, None] > p[t == 0]) + 0.5 * (p[t == 1][:, None] == p[t == 0])
    assert np.isclose(M.auc(p, t), pairs.mean())
    three = rng.dirichlet(np.ones(3), 50)
    labels = rng.integers(0, 3, 50)
    assert np.isclose(M.nll(three, labels), log_loss(labels, three))
    assert M.accuracy(torch.tensor(three), torch.tensor(labels)) == (three.argmax(1) == labels).mean()
    assert np.isfinite(M.nll([0.0, 1.0], [1, 1]))


def test_bootstrap_interval_covers_and_is_reproducible():
    t = rng.integers(0, 2, 300)
    p = t + rng.normal(size=300)
    low, high = M.bootstrap_interval(M.auc, p, t, resamples=100)
    assert low < M.auc(p, t) < high
    assert 0.02 < high - low < 0.15
    assert (low, high) == M.bootstrap_interval(M.auc, p, t, resamples=100)
    # the standard error of a mean, known in closed form
    x = rng.normal(size=400)
    low, high = M.bootstrap_interval(np.mean, x)
    assert np.isclose((high - low) / 2, 1.96 * x.std() / 20, rtol=0.1)
    # cases of one class only are drawn again
    low, high = M.bootstrap_interval(M.auc, [0.1, 0.9, 0.4], [0, 1, 1], resamples=50)
    assert 0 <= low <= high <= 1


def brute_froc(slides):
    """Sensitivity and false positives at each threshold, one at a time."""
    scores = sorted(
        {s for f in slides for s in (*f.lesions, *f.false_positives) if np.isfinite(s)}, reverse=True
    )
    curve = [(0.0, 0.0)]
    for threshold in scores:
        hits = [s >= threshold for f in slides for s in f.lesions]
        wrong = sum(s >= threshold for f in slides for s in f.false_positives)
        curve.append((wrong / len(slides), sum(hits) / len(hits)))
    best = {}
    for rate, sensitivity in curve:
        best[rate] = max(best.get(rate, 0), sensitivity)
    rates = sorted(best)
    return np.mean([np.interp(r, rates, [best[k] for k in rates]) for r in (0.25, 0.5, 1, 2, 4, 8)])


def test_froc_against_one_threshold_at_a_time():
    slides = []
    for _ in range(12):
        lesions = [float(s) if s > 0.2 else -np.inf for s in rng.random(rng.integers(0, 3)).round(2)]
        wrong = rng.random(rng.integers(0, 12)).round(2)
        slides.append(M.SlideFindings(tuple(lesions), tuple(wrong.tolist())))
    curve = M.froc(slides)
    assert np.isclose(curve.score, brute_froc(slides))
    assert (np.diff(curve.false_positives) > 0).all()
    assert (np.diff(curve.sensitivity) >= 0).all()
    low, high = M.froc_interval(slides, resamples=200)
    assert low <= curve.score <= high


def test_froc_limits():
    perfect = [M.SlideFindings((0.9, 0.8), ()), M.SlideFindings((), (0.1,))]
    assert M.froc(perfect).score == 1.0
    missed = [M.SlideFindings((-np.inf,), (0.3,))]
    assert M.froc(missed).score == 0.0
    # one lesion is found after half a false positive a slide: nothing at 1/4
    late = [M.SlideFindings((0.5,), (0.9,)), M.SlideFindings((), ())]
    assert M.froc(late).at(0.5) == 1.0
    assert M.froc(late).at(0.0) == 0.0


def test_slide_findings():
    lesions = np.zeros((10, 10), int)
    lesions[:3, :3], lesions[5:, 5:], lesions[0, 9] = 1, 2, 3
    found = M.slide_findings([1, 2, 9, 4, 0], [1, 2, 0, 4, 9], [0.3, 0.7, 0.6, 0.2, 0.9], lesions, ignore=[3])
    assert found == M.SlideFindings((0.7, -np.inf), (0.6, 0.2))


def test_icc_against_pingouin():
    pg = pytest.importorskip("pingouin")
    import pandas as pd

    y = rng.normal(size=(15, 1)) * 2 + rng.normal(size=(15, 6)) + np.arange(6) * 0.5
    table = pd.DataFrame([{"target": i, "rater": j, "score": y[i, j]} for i in range(15) for j in range(6)])
    result = pg.intraclass_corr(data=table, targets="target", raters="rater", ratings="score")
    values = result["ICC"].to_numpy()  # rows: ICC1, ICC2, ICC3, ICC1k, ICC2k, ICC3k
    assert np.isclose(M.icc(y), values[1], atol=1e-6)
    assert np.isclose(M.icc(y, "ICC(3,1)"), values[2], atol=1e-6)
    assert M.icc(y) < M.icc(y, "ICC(3,1)")
    assert np.isclose(M.icc(y - y.mean(0), "ICC(3,1)"), M.icc(y, "ICC(3,1)"))
    assert M.icc(np.repeat(y[:, :1], 4, 1)) == 1.0


def test_icc_of_shrout_and_fleiss():
    """The six judges and six targets of the 1979 paper: ICC(2,1) = 0.29, ICC(3,1) = 0.71."""
    y = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    assert round(M.icc(y), 2) == 0.29
    assert round(M.icc(y, "ICC(3,1)"), 2) == 0.71


def test_kappa():
    from sklearn.metrics import cohen_kappa_score

    a, b = rng.integers(0, 3, (7, 8)), rng.integers(0, 3, (7, 8))
    assert np.isclose(M.kappa(a, b), cohen_kappa_score(a.ravel(), b.ravel()))
    assert np.isclose(M.kappa(a, b), M.kappa(b, a))
    assert M.kappa(a * 0, a * 0) == 1.0
    assert M.kappa(a, a) == 1.0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: M.dice_score([0, 1], [0, 1, 1]), "one shape"),
        (lambda: M.dice_score([0.2, 0.7], [0, 1]), "Threshold"),
        (lambda: M.iou([0, 3], [0, 1], 2), "0 to 1"),
        (lambda: M.iou([0.2, 0.7], [0, 1], 2), "no labels, such as 0.2"),
        (lambda: M.iou([np.inf, 1.0], [0, 1], 2), "no labels, such as inf"),
        (lambda: M.mean_iou([np.nan, 1.0], [0, 1], 2), "no labels, such as nan"),
        (lambda: M.nll(np.eye(3), [0, 1, -1]), "0 to 2; got -1 to 1"),
        (lambda: M.accuracy([0.2, 0.3], [0, 5]), "0 to 1; got 0 to 5"),
        (lambda: M.bootstrap_interval(np.mean, [1.0, 2.0], level=95), "level=95"),
        (lambda: M.auc([0.2, 0.3], [1, 1]), "both classes"),
        (lambda: M.nll([1.2, -3], [1, 0]), "sigmoid"),
        (lambda: M.froc([M.SlideFindings((), (0.1,))]), "at least one lesion"),
        (lambda: M.icc(np.zeros((3, 3))), "all ratings are equal"),
        (lambda: M.icc(np.zeros((3, 3)), "ICC2"), "choices"),
        (lambda: M.slide_findings([99], [0], [0.1], np.zeros((5, 5), int)), "outside"),
        (lambda: M.bootstrap_interval(np.mean, [1.0]), "at least 2"),
        (lambda: M.bootstrap_interval(np.mean), "got none"),
        (lambda: M.bootstrap_interval(lambda x: np.nan, [1.0, 2.0], resamples=3), "statistic is NaN"),
        (lambda: M.icc(np.full((5, 3), 0.1)), "all ratings are equal"),
        (lambda: M.icc(np.repeat([[0.1, 1.1, 2.1]], 5, 0), "ICC(3,1)"), "targets do not differ"),
        (lambda: M.auc([0.1, np.nan, 0.3], [0, 1, 0]), "1 of 3 scores are not finite"),
        (lambda: M.auc([[0.9, 0.1], [0.3, 0.7]], [0, 1]), r"scores\[:, 1\]"),
        (lambda: M.nll([[0.9, 0.9], [0.5, 0.5]], [1, 1]), "case 0 to 1.8: apply softmax"),
        (lambda: M.kappa([0.1, 0.9], [0, 1]), "no labels, such as 0.1"),
        (lambda: M.dice_score([0, 1], [0, 1], 0), "num_classes=0"),
        (lambda: M.froc([M.SlideFindings((np.nan, 0.5), (0.3,))]), "NaN and cannot be ranked"),
        (lambda: M.slide_findings([1], [1], [np.nan], np.ones((5, 5), int)), "NaN and cannot be ranked"),
        (lambda: M.slide_findings([1], [1], [0.5], np.ones((1, 5, 5), int)), r"map is \(H, W\)"),
    ],
)
def test_errors(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_what_training_in_low_precision_answers_is_taken():
    p = torch.tensor([0.25, 0.75, 0.5])
    assert M.nll(p.bfloat16(), [0, 1, 0]) == M.nll(p, [0, 1, 0])
    assert M.auc(p.bfloat16(), [0, 1, 0]) == 1


def test_a_picture_of_which_nothing_is_known_has_no_mean_iou():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(M.mean_iou([0, 1], [-100, -100], 2, ignore_index=-100))


def test_ignored_pixels_may_hold_anything():
    assert M.dice_score([255, 1, 0], [255, 1, 1], ignore_index=255) == 2 / 3


def test_draws_without_a_value_are_drawn_again():
    labels = np.array([0, 1, 2, 2])

    def overlap(drawn):
        return M.mean_iou(drawn, drawn, 3, ignore_index=2)

    assert math.isnan(overlap(labels[2:]))
    assert M.bootstrap_interval(overlap, labels, resamples=50) == (1, 1)
