# ---
# jupyter:
#   coursekit:
#     title: Which way up is a slide?
#     minutes: 120
#     run_minutes: 3
#     ram_mb: 1400
#     download_mb: 0
#     objectives:
#       - Move an image and its label map by every element of p4m, without touching a single pixel value.
#       - Move annotated points along with the image they belong to.
#       - Measure how far a map is from equivariant, or from invariant, with one number.
#       - Explain by experiment why convolution commutes with shifts, and what breaks that.
#       - Derive the multiplication table of a group from the action of its elements.
#       - Find the inverse of every element of a group.
#       - Train a segmentation network as a pixel classifier with the Dice and cross-entropy loss.
#       - Make any network exactly equivariant by averaging over a group, and name the price.
#   jupytext:
#     cell_metadata_filter: nbgrader,tags,-all
#     notebook_metadata_filter: kernelspec,jupytext,coursekit,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which way up is a slide?
#
# A technician floats a thin section of tissue on warm water and catches it with a glass. It lands at
# some angle. Sometimes it lands face down. Nobody notices, because nobody needs to: a gland is a
# gland at every angle, and so is a tumour.
#
# A neural network notices. In this lesson you measure how much, find out why, and cure it.
#
# **You will build**: the eight moves that lay a square tile on itself, a ruler for symmetry, a
# convolution, a multiplication table that you find out by experiment, the loss of a segmentation
# network, and an average that makes any network follow every move exactly.
#
# **You need**: Python functions, tensors and their axes, and a first idea of what a neural network
# is. Two hours to two and a half; up to 1.4 GB of memory; nothing is downloaded.
#
# **How it works**: after each exercise, `check` tells you whether your function is right, or what is wrong;
# as often as you like. `hint` gives a nudge, then more. `grade` is what counts: 19 points for eight
# functions and 5 for two written answers. An exercise that you leave open stops nothing: the cells below
# it then use the course's own function, and say so.

# %% nbgrader={"grade_id": "setup", "locked": true}
import time

import matplotlib.pyplot as plt
import scipy.ndimage
import torch
import torch.nn.functional as F
from e2cnn.group import dihedral_group
from skimage.data import immunohistochemistry

from coursekit.explore import Choice, Slider, explore
from coursekit.figures import show, style
from coursekit.predict import predict
from coursekit.use import use
from equipath import equivariance, losses
from equipath.data.slides import Grid, Slide
from equipath.equivariance import Rotation
from equipath.exercises import symmetry
from equipath.exercises import symmetry_figures as draw
from equipath.experiments import first_unet
from equipath.experiments.first_unet import MPP, PIXEL_CLASSES
from equipath.groups import P4M
from equipath.metrics import dice_score
from equipath.models.tta import TestTimeAverage
from equipath.viz.architectures import three_networks

torch.manual_seed(0)
style()

# %% [markdown]
# ## A network with an opinion
#
# Here is a small network that has learned to mark healthy glands and tumour. Its training tiles are
# **vector slides**: tissue that we draw from shapes and stains in micrometres. Because they are
# drawn, we can render them at any angle, and every pixel has a label that is certain. It saw 160 tiles,
# eight at a time, for 240 steps. In section 5 you train one like it yourself, for half a minute. For now
# take it as it comes.
#
# We show it one tile (at 2 µm per pixel, `MPP` below). We turn the tile by a quarter, show it again, and
# turn the answer back. Nothing is lost on the way: a quarter turn only puts pixels elsewhere.

# %%
question_flicker = predict(
    "The tile is turned by 90°, seen by the network, and the answer is turned back. Of the pixels that the "
    "network called healthy gland before, how many percent does it now call something else?",
    unit="%",
)

# %%
network = first_unet.trained_unet()
slide = Slide(seed=first_unet.TEST_SEEDS + 2, kind="colon")
view = slide.render(Grid(center=(-200.0, 100.0), size=(128, 128), mpp=MPP))
tile = view.image[None]


def probabilities(x):
    """What the trained network says about x: (B, 3, H, W) probabilities of elsewhere, healthy gland,
    tumour."""
    with torch.no_grad():
        return network(x).softmax(dim=1)


back = torch.stack([P4M.act(probabilities(P4M.act(tile, g)), P4M.inverse(g)) for g in range(8)])
gland = back[:4, 0].argmax(dim=1) == 1
spread = back[:, 0].std(dim=0, unbiased=False).amax(dim=0)
lost = (gland[0] & ~gland[1]).sum().item() / gland[0].sum().item()
gained = (gland[1] & ~gland[0]).sum().item() / gland[0].sum().item()
show(
    draw.turned_back(tile[0], gland, spread, "healthy gland", um_per_px=MPP),
    alt="One tile of colon four times, with what the network marks as healthy gland after the tile was "
    "turned by 0, 90, 180 and 270 degrees and turned back: the marked areas differ. A fifth panel paints "
    f"black the {100 * (gland[0] != gland[1]).float().mean():.1f} percent of pixels on which 0 and 90 "
    "degrees disagree. The sixth maps the standard deviation of the answer over the eight poses: it is "
    f"highest along the outlines and in pieces of the glands, up to {spread.max():.2f}.",
)
print(f"of the healthy gland: {100 * lost:.1f} % lost and {100 * gained:.1f} % gained by a turn of 90°")

# %%
question_flicker.reveal(
    round(100 * lost, 1),
    because="Most of these pixels lie along outlines, and some are pieces of a gland's wall and of what is "
    "inside it. The cells did not change, nor did a single pixel value. Only the pose did. A pathologist would "
    "not trust a colleague who does this. (This tile, and how long the network trained, were chosen because the "
    "effect shows well. Section 9 measures the same network on tiles that nobody chose.)",
)

# %% [markdown]
# ## 1. Move a tile
#
# To speak about symmetry we need moves. A square tile can be laid on itself in eight ways: four
# quarter turns, and the same four after a mirror. Together they are called $D_4$. With all shifts of the
# pixel grid added (section 3) they make the *group* called *p4m*, and papers often write p4m for the
# eight alone. So do we.
#
# We write a move as a pair $(r, m)$: first mirror left-right if $m$, then turn $r$ times by 90°
# counter-clockwise. Your first function does this to a tensor.

# %% [markdown]
# ### Exercise 1: move a tile (2 points)
#
# Write `move(x, r, m)`: if `m` is true, mirror the picture left-right; after that, turn it by `r` quarter
# turns counter-clockwise.
#
# - `x`: tensor of shape (..., H, W) with any leading axes, or none; H and W may differ; any dtype (images
#   are floats, label maps integers, masks bool).
# - `r`: any whole number, also negative; only r modulo 4 matters. `m`: bool.
# - Returns the moved picture: (..., H, W) for even r, (..., W, H) for odd r, dtype as in `x`. `x` itself
#   stays as it is.
#
# One test to keep in mind: the mask of a tile must move with the tile, and a mask holds class
# numbers. Class 1 and class 3 do not blend into class 2.


# %% nbgrader={"grade_id": "move", "solution": true}
def move(x, r, m):
    """Mirror x (..., H, W) left-right if m, then turn it r times by 90° counter-clockwise."""
    ### BEGIN SOLUTION
    if m:
        x = x.flip(-1)
    return torch.rot90(x, r, (-2, -1))
    ### END SOLUTION


# %%
symmetry.MOVE.check(move)

# %%
# Stuck? Take the # away. Run the cell again for the next hint; there are three.
# symmetry.MOVE.hint()

# %% nbgrader={"grade_id": "move-grade", "grade": true, "points": 2}
symmetry.MOVE.grade(move)

# %%
T = use(symmetry.MOVE, move)
poses = [T(tile, r, m) for m in (False, True) for r in range(4)]
show(
    draw.eight_poses([pose[0] for pose in poses], [P4M.label(g) for g in range(8)], um_per_px=MPP),
    alt="One tile of colon in eight poses: turned by 0, 90, 180 and 270 degrees in the upper row, the "
    "mirrored tile turned likewise in the lower row.",
)

# %% [markdown]
# ### Other angles cost something
#
# A pixel grid has quarter turns. It has no turn by 30°: the turned pixel centres fall between the old
# ones, and somebody has to guess. For an image a guess by *interpolation* blurs a little. For a label
# map it invents classes. Below, a map that holds the classes 0 and 2 only is turned by 30° twice, once by
# blending and once by taking the nearest pixel. (What comes in from outside is class 0.)

# %%
question_blend = predict(
    "Which class does blending invent between elsewhere (0) and tumour (2)?",
    options=["healthy gland (1)", "none, it keeps 0, 1 and 2 apart"],
)

# %%
grid = F.affine_grid(
    torch.tensor([[[0.866, -0.5, 0.0], [0.5, 0.866, 0.0]]]), (1, 1, 128, 128), align_corners=False
)
tumour_slide = Slide(seed=first_unet.TEST_SEEDS + 4, kind="colon")
tumour_view = tumour_slide.render(Grid(center=(300.0, -300.0), size=(128, 128), mpp=MPP))
truth = first_unet.classes_of(tumour_view.tissue)[None]
labels = truth[:, None].float()
blended = F.grid_sample(labels, grid, mode="bilinear", align_corners=False).round().long()[0, 0]
nearest = F.grid_sample(labels, grid, mode="nearest", align_corners=False).long()[0, 0]
wrong = ((blended == 1) & (nearest != 1)).sum().item()
show(
    draw.class_maps(
        [part[32:96, 32:96] for part in (truth[0], nearest, blended)],
        ["labels", "turned by 30°, nearest", "turned by 30°, blended"],
        PIXEL_CLASSES,
        um_per_px=MPP,
    ),
    alt="The middle of a class map, and of the map turned by 30 degrees in two ways. Blending draws a thin rim of healthy "
    f"gland around tumour: {wrong} pixels that no one labelled so.",
)

# %%
question_blend.reveal(
    "healthy gland (1)",
    because=f"Half way between 0 and 2 lies 1: {wrong} pixels became healthy gland. Class numbers are "
    "names, not amounts. Never interpolate them.",
)

# %% [markdown]
# Vector slides avoid the guess. They are rendered anew at every angle, image and labels alike.

# %% [markdown]
# ### Exercise 2: move the points with the tile (2 points)
#
# Pathologists also mark points: the centre of a nucleus, a mitosis. When the tile moves, the list of
# points must move along. Nothing goes wrong more quietly: an error of one pixel trains a network on
# the neighbours of the cells that were meant.
#
# Write `move_points(points, r, m, height, width)`: where do annotated points lie after `move(image, r, m)`?
#
# - `points`: float tensor of shape (N, 2), each row one point (row, column) in an image of `height` rows
#   and `width` columns. The centre of the top left pixel is (0, 0), that of the bottom right pixel (height
#   − 1, width − 1). Points may lie between pixel centres; N may be 0.
# - `r`: any whole number. `m`: bool. First mirror left-right if `m`, then turn by `r` quarter turns
#   counter-clockwise.
# - Returns the (row, column) of each point in the moved image: shape (N, 2), dtype as in `points`. `points`
#   itself stays as it is.


# %% nbgrader={"grade_id": "move-points", "solution": true}
def move_points(points, r, m, height, width):
    """Where points (N, 2) of (row, column) in a (height, width) image lie after move(image, r, m)."""
    ### BEGIN SOLUTION
    row, col = points[:, 0], points[:, 1]
    if m:
        col = width - 1 - col
    for _ in range(r % 4):
        row, col = width - 1 - col, row
        height, width = width, height
    return torch.stack([row, col], dim=1)
    ### END SOLUTION


# %%
symmetry.MOVE_POINTS.check(move_points)

# %%
# symmetry.MOVE_POINTS.hint()

# %% nbgrader={"grade_id": "move-points-grade", "grade": true, "points": 2}
symmetry.MOVE_POINTS.grade(move_points)

# %%
T_points = use(symmetry.MOVE_POINTS, move_points)
crop, nuclei = tile[..., 56:88, :48], view.nuclei[56:88, :48]
centres = torch.stack([(nuclei == k).nonzero().double().mean(dim=0) for k in nuclei.unique() if k > 0])
moved = T_points(centres, 1, True, 32, 48)
show(
    draw.points_on_tiles(
        [crop[0], T(crop, 1, True)[0]],
        [centres, moved],
        ["as it lay", "mirrored, turned by 90°"],
        um_per_px=MPP,
    ),
    alt=f"A tile of 32 by 48 pixels with the centres of its {len(centres)} nuclei, and the tile mirrored "
    "and turned: every centre is still on its nucleus.",
)

# %% [markdown]
# ## 2. One number for symmetry
#
# Let $f$ be a map, $T$ a move of its input and $T'$ the matching move of its output. The map is
# **equivariant** when the order does not matter:
#
# $$f(T x) = T' f(x) \quad\text{for every } x.$$
#
# Turn the tile, then segment it; or segment it, then turn the map. Both roads end at the same place.
# When the output should not move at all, $T'$ is the identity and we call $f$ **invariant**. A
# segmentation should be equivariant. A diagnosis ("does this tile contain tumour") should be
# invariant.
#
# This is a yes or no. We want a number, so we measure how far apart the two roads end, relative to
# the size of what arrives.

# %% [markdown]
# ### Exercise 3: measure equivariance (2 points)
#
# Write `equivariance_error(f, x, move_in, move_out)`: the mean over the batch of the relative error
#
# $$\varepsilon = \frac1B \sum_{i=1}^{B} \frac{\lVert f(T x_i) - T' f(x_i) \rVert}{\lVert T' f(x_i) \rVert}$$
#
# - `f`: a function from a batch to a batch; axis 0 of its output is the batch, and at least one more axis
#   follows. Its output may have another shape than `x`.
# - `x`: float tensor (B, C, H, W). `move_in` is $T$, a function that moves inputs; `move_out` is $T'$, a
#   function that moves outputs.
# - $\lVert\cdot\rVert$ is the Euclidean norm over all numbers of one image's output.
# - Returns one number (a Python float or a tensor without axes). Where $f$ is 0 for every picture the error
#   is 0/0: return nan, not 0.


# %% nbgrader={"grade_id": "equivariance-error", "solution": true}
def equivariance_error(f, x, move_in, move_out):
    """Mean over the batch of ‖f(T x) − T' f(x)‖ / ‖T' f(x)‖, with T = move_in and T' = move_out."""
    ### BEGIN SOLUTION
    moved_then_mapped = f(move_in(x)).flatten(1)
    mapped_then_moved = move_out(f(x)).flatten(1)
    difference = (moved_then_mapped - mapped_then_moved).norm(dim=1)
    return float((difference / mapped_then_moved.norm(dim=1)).mean())
    ### END SOLUTION


# %%
symmetry.EQUIVARIANCE_ERROR.check(equivariance_error)

# %%
# symmetry.EQUIVARIANCE_ERROR.hint()

# %% nbgrader={"grade_id": "equivariance-error-grade", "grade": true, "points": 2}
symmetry.EQUIVARIANCE_ERROR.grade(equivariance_error)

# %% [markdown]
# Try the ruler on maps that you can judge by eye. Before you run the next cell, say for each map
# whether the error is 0.

# %%
error = use(symmetry.EQUIVARIANCE_ERROR, equivariance_error)


def quarter(x):
    return T(x, 1, False)


def still(y):
    return y


maps = {
    "grey value": lambda x: x.mean(dim=1, keepdim=True),
    "more contrast: x ** 2": lambda x: x**2,
    "difference to the right neighbour": lambda x: x - x.roll(-1, dims=-1),
    "blur over 5 x 5 pixels": lambda x: F.avg_pool2d(x, 5, stride=1, padding=2),
    "the trained network": probabilities,
}
print("error under a quarter turn (output turns too)")
for name, f in maps.items():
    print(f"  {error(f, tile, quarter, quarter):9.1e}  {name}")
print("error under a quarter turn (output must not change)")
for name, f in {
    "mean colour": lambda x: x.mean((-2, -1)),
    "mean colour of the upper half": lambda x: x[..., :64, :].mean((-2, -1)),
}.items():
    print(f"  {error(f, tile, quarter, still):9.1e}  {name}")

# %% [markdown]
# What treats all pixels or all directions alike has an error of rounding size: about $10^{-7}$ in single
# precision where the turn changes the order of a sum, and 0 where it does not. What prefers a direction
# has more. The network prefers directions.
#
# One warning for the rest of your life with symmetry: the map that always returns 0 satisfies $f(Tx)
# = T'f(x)$ perfectly. A small error alone proves nothing. A good map is equivariant *and* sees
# something.

# %% [markdown]
# ## 3. Convolution and its one symmetry
#
# Where does the preference come from? The network is made of convolutions. So let us take one apart.
#
# A convolution layer slides a small window $w$ over the picture. Seen from the window that is a loop
# over pixels. Seen from the picture it is something nicer: *a sum of shifted copies of the whole
# picture, each weighted with one number of the window*. Written like this you can see its symmetry
# before you compute anything. (What the field calls convolution is, to be exact, a cross-correlation:
# the window is not flipped.)

# %% [markdown]
# ### Exercise 4: convolution from shifts (3 points)
#
# Write `correlate(x, w)`: the layer that torch calls convolution, on a grid that wraps around at its
# borders:
#
# $$y_{b,o}[i,j] = \sum_{c,u,v} w_{o,c}[u,v]\; x_{b,c}\big[(i + u - \lfloor k_h/2 \rfloor) \bmod H,\
# (j + v - \lfloor k_w/2 \rfloor) \bmod W\big]$$
#
# - `x`: float tensor (B, C, H, W). `w`: float tensor (O, C, k_h, k_w), same dtype; k_h and k_w are odd, may
#   differ, and are no larger than H and W.
# - The sum runs over all channels c and all taps: u = 0 … k_h − 1, v = 0 … k_w − 1.
# - Returns `y`: (B, O, H, W), dtype as in `x`. Neither input is changed.


# %% nbgrader={"grade_id": "correlate", "solution": true}
def correlate(x, w):
    """Cross-correlate x (B, C, H, W) with w (O, C, kh, kw) on a grid that wraps around: (B, O, H, W)."""
    ### BEGIN SOLUTION
    kh, kw = w.shape[-2:]
    out = torch.zeros(x.shape[0], w.shape[0], *x.shape[-2:], dtype=x.dtype)
    for u in range(kh):
        for v in range(kw):
            shifted = torch.roll(x, (kh // 2 - u, kw // 2 - v), dims=(-2, -1))
            out = out + torch.einsum("oc,bchw->bohw", w[:, :, u, v], shifted)
    return out
    ### END SOLUTION


# %%
symmetry.CORRELATE.check(correlate)

# %%
# symmetry.CORRELATE.hint()

# %% nbgrader={"grade_id": "correlate-grade", "grade": true, "points": 3}
symmetry.CORRELATE.grade(correlate)

# %% [markdown]
# Shifts commute with shifts. A sum of shifts therefore commutes with every shift, whatever the
# weights. Now measure it, and also what real layers do, which pad with zeros at the border or skip
# every other pixel (*stride*). With stride 2 an input shift by $n$ should shift the output by $n/2$; for
# odd $n$ there is no such shift, and we take the next smaller one.

# %%
question_stride = predict(
    "A layer with stride 2 keeps every second pixel. By how many pixels may you shift its input so that "
    "the output follows exactly?",
    options=["any number", "even numbers only", "odd numbers only", "none"],
)

# %%
conv = use(symmetry.CORRELATE, correlate)
w = torch.randn(4, 3, 3, 3, dtype=torch.float64)
x = tile.double()


def shifted_by(n):
    return lambda x: x.roll(n, dims=-1)


def zeros_around(x):
    return F.conv2d(x, w, padding=1)


inner = (zeros_around(shifted_by(1)(x)) - shifted_by(1)(zeros_around(x)))[..., 8:-8, 8:-8].abs().max()
shifts = range(9)
curves = {
    "wrapping border": [error(lambda x: conv(x, w), x, shifted_by(n), shifted_by(n)) for n in shifts],
    "zeros at the border": [error(zeros_around, x, shifted_by(n), shifted_by(n)) for n in shifts],
    "wrapping border, stride 2": [
        error(lambda x: conv(x, w)[..., ::2, ::2], x, shifted_by(n), shifted_by(n // 2)) for n in shifts
    ],
}
show(
    draw.shift_errors(shifts, curves),
    alt="Equivariance error against the shift in pixels, on a logarithmic axis. With a wrapping border the "
    f"error is at most {max(curves['wrapping border']):.0e} at every shift. With zeros at the border it is "
    f"about {curves['zeros at the border'][1]:.2f} once the shift is not 0. With stride 2 it is at most "
    f"{max(curves['wrapping border, stride 2'][::2]):.0e} for even shifts and about "
    f"{curves['wrapping border, stride 2'][1]:.2f} for odd ones.",
)

# %%
question_stride.reveal(
    "even numbers only",
    because="After an odd shift the layer keeps exactly those pixels that it dropped before. Zeros at the "
    f"border do harm near the edge only: 8 pixels further in, a shift by 1 changes at most {inner:.1g}.",
)

# %% [markdown]
# Now turn. The same layer, the same picture, and $T$ is a quarter turn.

# %%
question_turn = predict(
    "What must happen to the window so that convolution commutes with a quarter turn?",
    options=["nothing, as with shifts", "it must be turned too", "no window can do it"],
)

# %%
turned_w = T(w, 1, False)
both = (conv(quarter(x), turned_w) - quarter(conv(x, w))).norm() / conv(x, w).norm()
round_w = sum(T(w, r, m) for r in range(4) for m in (False, True)) / 8
print(f"{error(lambda x: conv(x, w), x, quarter, quarter):.1e}  turn the picture, same window")
print(f"{both:.1e}  turn the picture and the window")
print(f"{error(lambda x: conv(x, round_w), x, quarter, quarter):.1e}  same window, but alike from all sides")

# %%
question_turn.reveal(
    "it must be turned too",
    because="A window that looks for edges on the left finds, in the turned picture, other edges. Turn the "
    "window as well and nothing is lost. Keep this result: group convolutions (lesson 3) hold a window in "
    "all its poses at once. Windows that look alike from all sides, the third line, are the idea of "
    "steerable and ring filters.",
)

# %% [markdown]
# ## 4. The eight moves are a group
#
# Two moves in a row are again one of the eight. Which one? You could reason it out. It is better to
# let the moves speak: apply them and look.
#
# A set of moves is a **group** if doing two in a row stays in the set, one of them (the *identity*) does
# nothing, and each can be undone by one of them (its *inverse*). Not every set is one: of the identity,
# the turn by 90° and the turn by 180°, the last two in a row lead out of the set. In your table such a
# product gets −1. Which product is which is all that mathematics wants to know about a group.

# %% [markdown]
# ### Exercise 5: a multiplication table from the action alone (3 points)
#
# Write `product_table(moves)`: who is who, when one move follows another?
#
# - `moves`: a list of n different functions. Each takes a tensor of shape (B, C, H, W), any sizes, and
#   returns the moved picture. Each is one of the eight turns and mirrors, in an order that you do not know.
# - Returns an int64 tensor of shape (n, n). `table[a, b]` is the index c for which `moves[c](x)` equals
#   `moves[a](moves[b](x))` for every picture x: b acts first, then a. Where no move in the list does that,
#   the entry is −1.


# %% nbgrader={"grade_id": "product-table", "solution": true}
def product_table(moves):
    """table[a, b] = c where moves[c] equals moves[b] followed by moves[a]; −1 where there is no such c."""
    ### BEGIN SOLUTION
    probe = torch.arange(12.0).reshape(1, 1, 3, 4)
    single = [move(probe) for move in moves]
    table = torch.full((len(moves), len(moves)), -1)
    for a in range(len(moves)):
        for b in range(len(moves)):
            double = moves[a](single[b])
            for c in range(len(moves)):
                if torch.equal(double, single[c]):
                    table[a, b] = c
    return table
    ### END SOLUTION


# %%
symmetry.PRODUCT_TABLE.check(product_table)

# %%
# symmetry.PRODUCT_TABLE.hint()

# %% nbgrader={"grade_id": "product-table-grade", "grade": true, "points": 3}
symmetry.PRODUCT_TABLE.grade(product_table)

# %%
question_commute = predict(
    "Mirror, then turn by 90°; or turn by 90°, then mirror. Is the result the same?",
    options=["yes", "no, but for some pairs of moves it is", "no, the order always matters"],
)

# %%
moves = [lambda x, r=r, m=m: T(x, r, m) for m in (False, True) for r in range(4)]
table = use(symmetry.PRODUCT_TABLE, product_table)(moves)
show(
    draw.multiplication_table(table, [P4M.label(g) for g in range(8)]),
    alt="The eight by eight multiplication table of the eight moves as a grid of numbered, coloured squares. Each "
    "number occurs once in every row and column. The upper left quarter, the turns alone, is symmetric; "
    "the whole table is not.",
)
print(f"{(table == table.T).sum().item()} of 64 products do not care about the order")

# %%
question_commute.reveal(
    "no, but for some pairs of moves it is",
    because="Turns commute with turns, and the half turn with everything. A mirror reverses the sense of "
    "rotation: to turn and then mirror is the same as to mirror and then turn the other way.",
)

# %% [markdown]
# Each number occurs exactly once in every row and in every column. That is no accident: if $a b = a
# c$, undo $a$ on both sides and find $b = c$. To undo you need inverses, and they can be read off the
# table.

# %% [markdown]
# ### Exercise 6: undo every move (1 point)
#
# Write `inverses(table)`: which element undoes which?
#
# - `table`: int64 tensor of shape (n, n), the multiplication table of a group whose elements are 0 to n − 1
#   in any order: `table[a, b]` is the product a·b. The identity is the one element e with `table[e, b] ==
#   b` for every b. It need not be element 0.
# - Returns an int64 tensor of shape (n,): entry a is the b with a·b = e.


# %% nbgrader={"grade_id": "inverses", "solution": true}
def inverses(table):
    """For each element a of a group with this multiplication table: the b with a·b = identity."""
    ### BEGIN SOLUTION
    n = len(table)
    identity = next(e for e in range(n) if torch.equal(table[e], torch.arange(n)))
    return (table == identity).int().argmax(dim=1)
    ### END SOLUTION


# %%
symmetry.INVERSES.check(inverses)

# %%
# symmetry.INVERSES.hint()

# %% nbgrader={"grade_id": "inverses-grade", "grade": true, "points": 1}
symmetry.INVERSES.grade(inverses)

# %%
inverse = use(symmetry.INVERSES, inverses)(table)
for g in range(8):
    print(f"{P4M.label(g):18} is undone by  {P4M.label(int(inverse[g]))}")

# %% [markdown]
# ## 5. Segmentation is pixel classification
#
# Now a network. **Segmentation** gives every pixel a class. Three families of networks do this, and
# you will meet all three names in papers on tissue.

# %%

show(
    three_networks(),
    alt="Three block diagrams. U-Net: feature maps shrink in an encoder and grow again in a decoder, with "
    "skip connections between maps of equal size. Mask R-CNN: a backbone, region proposals, regions cut "
    "out at a fixed size, and three heads for class, box and mask. DeepLab: a backbone that shrinks a "
    "little, then parallel dilated filters at rates 1, 2 and 3, joined and enlarged.",
)

# %% [markdown]
# **U-Net** ([Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597)) goes down and up. The
# encoder halves the map again and again, so that a small window sees far. The decoder doubles it
# back. Skip connections hand over the fine detail that the way down has lost. It learns from few
# images, and it is what most work on tissue starts from, this course included.
#
# **Mask R-CNN** ([He et al. 2017](https://arxiv.org/abs/1703.06870)) looks for objects first. It
# proposes boxes, cuts the features of each box out at one fixed size, and answers three questions
# about it: which class, which box exactly, which pixels. Two nuclei that touch stay two nuclei. That
# is *instance* segmentation.
#
# **DeepLab** ([Chen et al. 2017](https://arxiv.org/abs/1706.05587)) stops shrinking early. From then on it
# spreads the nine weights of a filter apart (*dilation*), at several rates side by side, and so sees near
# and far without losing more detail. The scores are enlarged at the end.
#
# All three end in scores for classes. All three are made of convolutions, and inherit their symmetry:
# shifts (of whole strides), and nothing else.

# %% [markdown]
# ### The loss
#
# The network gives each pixel one score per class. A softmax makes probabilities $p_k$ of them. Two
# terms grade them. **Cross-entropy** asks every pixel how surprised it is by its true class. **Dice**
# compares regions: twice the overlap over the sum of the two areas. A class that covers few pixels is
# drowned in the first and counts in full in the second. The two are often added.

# %% [markdown]
# ### Exercise 7: the loss (3 points)
#
# Write `dice_cross_entropy(logits, target)` $= \text{CE} + 1 - \text{Dice}$ with $p = \text{softmax over
# the classes}$:
#
# $$\text{CE} = -\frac{1}{N}\sum_{\text{pixels}} \log p_{\,\text{target}}, \qquad
# \text{Dice} = \frac1K \sum_{k=1}^{K} \frac{2 \sum p_k y_k + 1}{\sum p_k + \sum y_k + 1}$$
#
# - `logits`: float tensor (B, K, H, W), one score for each of K ≥ 2 classes. `target`: int64 tensor (B, H,
#   W) with values 0 to K − 1.
# - $y_k$ is 1 where the target is $k$, else 0. N counts the pixels of the whole batch, and the sums in Dice
#   run over all of them. The 1 keeps a class that is absent from dividing 0 by 0.
# - Returns a tensor without axes, dtype as in `logits`, through which gradients flow to the logits. Logits
#   of ±10⁴ must not give inf or nan.


# %% nbgrader={"grade_id": "dice-cross-entropy", "solution": true}
def dice_cross_entropy(logits, target):
    """Mean cross-entropy plus one minus the mean soft Dice; logits (B, K, H, W), target (B, H, W)."""
    ### BEGIN SOLUTION
    log_p = torch.log_softmax(logits, dim=1)
    y = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    cross_entropy = -(y * log_p).sum(dim=1).mean()
    p = log_p.exp()
    overlap = (p * y).sum(dim=(0, 2, 3))
    total = p.sum(dim=(0, 2, 3)) + y.sum(dim=(0, 2, 3))
    dice = (2 * overlap + 1) / (total + 1)
    return cross_entropy + 1 - dice.mean()
    ### END SOLUTION


# %%
symmetry.DICE_CROSS_ENTROPY.check(dice_cross_entropy)

# %%
# symmetry.DICE_CROSS_ENTROPY.hint()

# %% nbgrader={"grade_id": "dice-cross-entropy-grade", "grade": true, "points": 3}
symmetry.DICE_CROSS_ENTROPY.grade(dice_cross_entropy)

# %% [markdown]
# ### Train it
#
# Your loss now trains a U-Net with three poolings on 48 tiles. Every batch holds two tiles with healthy
# glands and two with tumour, because tumour is rare and a network that never names it has a fair loss
# for a long time. No tile is turned or mirrored on the way in: we want to see what the network makes of
# slides as they come. It takes about half a minute.

# %%
loss_function = use(symmetry.DICE_CROSS_ENTROPY, dice_cross_entropy)
images, targets = first_unet.gland_tiles(48)
test_images, test_targets = first_unet.gland_tiles(12, seed=first_unet.TEST_SEEDS)
fresh = first_unet.small_unet()
steps, loss_curve, start = 240, [], time.perf_counter()
for step, value in enumerate(first_unet.train(fresh, images, targets, loss_function, steps=steps), start=1):
    loss_curve.append(value)
    if step % 40 == 0:
        print(
            f"step {step:3d} of {steps}   loss {value:.3f}   {time.perf_counter() - start:4.0f} s", flush=True
        )

# %%
figure, ax = plt.subplots(figsize=(7, 3))
ax.plot(range(1, steps + 1), loss_curve)
ax.set(xlabel="step (4 tiles each)", ylabel="cross-entropy + 1 − Dice", ylim=(0, None))
show(
    figure,
    alt=f"The training loss falls from {loss_curve[0]:.2f} to {sum(loss_curve[-20:]) / 20:.2f} (mean of the "
    f"last 20 steps) in {steps} steps, with jumps from batch to batch.",
)

# %% [markdown]
# ## 6. Break it
#
# First the symmetry that the network should have: shifts. Its three poolings halve the map three
# times. We look at one patch of tissue through a window of 192 pixels and move the window, one pixel
# at a time, over the slide. The patch in the middle stays the same tissue, far from the rim.

# %%
question_unet = predict(
    "After how many pixels does the answer in the middle return to exactly what it was?",
    options=["1", "2", "4", "8"],
)


# %%
def segment(net):
    """The network as a function from images to class probabilities."""

    def f(x):
        with torch.no_grad():
            return net(x).softmax(dim=1)

    return f


wide = slide.render(Grid(center=(-200.0, 100.0), size=(192, 208), mpp=MPP)).image[None]
middle = segment(network)(wide[..., :192])[..., 80:112, 80:112]
window_shifts = range(17)
drift = []
for n in window_shifts:
    seen = segment(network)(wide[..., n : n + 192])[..., 80:112, 80 - n : 112 - n]
    drift.append(float((seen - middle).norm() / middle.norm()))
show(
    draw.shift_errors(
        window_shifts, {"trained U-Net": drift}, floor=1e-8, ylabel="relative change in the middle"
    ),
    alt="Relative change of the answer in the middle against the shift of the window, on a logarithmic "
    f"axis. It is at most {max(drift[::8]):.0e} at 0, 8 and 16 pixels and between {min(drift[1:8]):.0e} and "
    f"{max(drift[1:8]):.0e} for 1 to 7 pixels.",
)

# %%
question_unet.reveal(
    "8",
    because="2 · 2 · 2 = 8. Each pooling keeps one value for two pixels, and which two depends on where the "
    "window began. After 2 pixels the first pooling agrees again, after 4 the second: the dips. For the same "
    "reason the sides of a tile must be multiples of 8; ask this U-Net for 100 pixels and it refuses.",
)

# %% [markdown]
# Now the symmetry that it should have and has not. For each of the eight moves: how far are $f(Tx)$
# and $Tf(x)$ apart, on tiles of slides that it has never seen? A network at random weights stands
# beside it. Training has seen tissue at all angles, since glands point everywhere. Does that help?

# %%
untrained = first_unet.small_unet(seed=1).eval()
print(f"{'move':18} {'untrained':>10} {'yours':>10} {'opening':>10}")
for g in range(8):
    row = [error(segment(net), test_images, moves[g], moves[g]) for net in (untrained, fresh.eval(), network)]
    print(f"{P4M.label(g):18} " + " ".join(f"{value:10.1e}" for value in row))
sees = [segment(net)(test_images).std(dim=(0, 2, 3)).max() for net in (untrained, fresh, network)]
print(f"{'std over pixels':18} " + " ".join(f"{value:10.1e}" for value in sees))

# %% [markdown]
# The trained ones change about a tenth of everything they say. The untrained network looks calm, and
# you know why to distrust that: the last line shows how little its answer depends on the picture.

# %% [markdown]
# ## 7. Cure it: ask from all sides
#
# There is a cure that needs no new network. Show it the tile in all eight poses, turn every answer
# back, and take the mean:
#
# $$\bar f(x) = \frac{1}{|G|} \sum_{g \in G} g^{-1} f(g\,x).$$
#
# Here $gx$ stands for the picture moved by $g$. Now move the input by $h$. The terms become $g^{-1}
# f(ghx)$. Call $k = gh$; then $g^{-1} = h k^{-1}$, and as $g$ runs through the group, so does $k$, once
# each:
#
# $$\bar f(hx) = \frac1{|G|} \sum_{k \in G} h\, k^{-1} f(k\,x) = h \bar f(x).$$
#
# The proof used the table and the inverses. It did not use anything about $f$. It also says what is *not*
# gained: $f$ itself stays as it was. It pays for eight passes, and while it trained, what it learned in
# one pose it had to learn again in the others, because its weights are not shared between poses.

# %% [markdown]
# ### Exercise 8: ask from all sides (3 points)
#
# Write `average_over_group(f, x, moves, inverse, planar)`:
#
# $$\bar f(x) = \frac{1}{|G|} \sum_{g \in G} g^{-1} f(g\,x) \ \text{ if planar}, \qquad
# \bar f(x) = \frac{1}{|G|} \sum_{g \in G} f(g\,x)\ \text{ if not.}$$
#
# - `f`: a function from a batch of pictures (B, C, H, W) to a batch: of maps (B, K, H, W) with the rows and
#   columns of its input if `planar` is true, of scores (B, K) if not.
# - `x`: float tensor (B, C, H, W); H and W may differ, and f takes pictures of either shape.
# - `moves`: a list of |G| functions that move pictures or maps, in any order, together a group. `inverse`:
#   int64 tensor; `moves[inverse[g]]` undoes `moves[g]`.
# - Returns what f returns: a tensor of the same shape and dtype as `f(x)`.


# %% nbgrader={"grade_id": "average-over-group", "solution": true}
def average_over_group(f, x, moves, inverse, planar=True):
    """The mean over the group of g⁻¹ f(g x) for maps, or of f(g x) for scores."""
    ### BEGIN SOLUTION
    answers = []
    for g, move_by_g in enumerate(moves):
        y = f(move_by_g(x))
        answers.append(moves[int(inverse[g])](y) if planar else y)
    return torch.stack(answers).mean(dim=0)
    ### END SOLUTION


# %%
symmetry.AVERAGE_OVER_GROUP.check(average_over_group)

# %%
# symmetry.AVERAGE_OVER_GROUP.hint()

# %% nbgrader={"grade_id": "average-over-group-grade", "grade": true, "points": 3}
symmetry.AVERAGE_OVER_GROUP.grade(average_over_group)

# %%
question_price = predict(
    "The network alone has an error of about 0.1 under a quarter turn. What has the average over all eight?",
    options=["half of that", "an eighth of that", "about 1e-7: rounding"],
)

# %%
average = use(symmetry.AVERAGE_OVER_GROUP, average_over_group)


def averaged(net):
    """The network, asked from all eight sides."""
    return lambda x: average(segment(net), x, moves, inverse, True)


def seconds(f, x, repeats=3):
    """The shortest time of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f(x)
        times.append(time.perf_counter() - start)
    return min(times)


before = error(segment(network), test_images, quarter, quarter)
after = error(averaged(network), test_images, quarter, quarter)
price = seconds(averaged(network), test_images) / seconds(segment(network), test_images)
print(
    f"error under a quarter turn: {before:.1e} before, {after:.1e} after; it takes {price:.1f} times as long"
)

# %%
question_price.reveal(
    "about 1e-7: rounding",
    because=f"Measured: {after:.0e}. Not better by a factor, but exact, for any weights. The price is "
    f"{price:.1f} times the time, for every tile, for ever.",
)

# %% [markdown]
# ### What the average does not cure
#
# Leave one member out, and the sum no longer comes back to itself. Keep only some that are a group of
# their own, and the average follows those. Turn by an angle that is not in the group, and nothing is
# promised. Measure all three. The tile is rendered anew at 45°, so nothing is interpolated on the way in;
# on the way back the map must be resampled. As a yardstick we state what turning a map by 45° *and back*
# costs by itself, which is two resamplings and so an upper mark for the one that we need.


# %%
def mean_over(elements):
    """The mean over some of the eight poses."""

    def f(x):
        answers = [moves[int(inverse[g])](segment(network)(moves[g](x))) for g in elements]
        return torch.stack(answers).mean(dim=0)

    return f


upright_and_mirrored = mean_over([0, 4])
print(f"{error(mean_over(range(7)), test_images, quarter, quarter):.1e}  seven of the eight, quarter turn")
print(f"{error(upright_and_mirrored, test_images, quarter, quarter):.1e}  upright and mirrored, quarter turn")
print(f"{error(upright_and_mirrored, test_images, moves[4], moves[4]):.1e}  upright and mirrored, mirror")


def at_angle(degrees, size=128):
    """The tile of the opening, rendered at an angle: no pixel is interpolated."""
    return slide.render(Grid(center=(-200.0, 100.0), size=(size, size), mpp=MPP, angle=degrees)).image[None]


def turned_error(f, degrees):
    """Relative change of the answer at this angle, turned back, inside the disc that every angle sees."""
    turn_back = Rotation(-degrees, "bilinear")
    disc = turn_back.seen(128, 128, border=12)
    difference = (turn_back.planar(f(at_angle(degrees))) - f(at_angle(0.0)))[..., disc]
    return float(difference.norm() / f(at_angle(0.0))[..., disc].norm())


there_and_back = Rotation(-45, "bilinear").budget(segment(network)(tile), squared=False)
print(f"{turned_error(segment(network), 45.0):.1e}  the network alone, 45°")
print(f"{turned_error(averaged(network), 45.0):.1e}  all eight, 45°")
print(f"{there_and_back:.1e}  what turning a map by 45° and back costs by itself")

# %% [markdown]
# Seven of eight is not exact. Two of eight is exact for its own mirror and for nothing else. At 45° all
# eight together are steadier than the network alone, but they do not reach what resampling explains.

# %% [markdown]
# ## 8. Cross-check
#
# Your functions against the library's and against code by people who have never heard of this course:
# the same input must give the same numbers. `scipy` filters images, and `e2cnn` is a library for
# equivariant networks that knows the group under the name $D_4$.

# %%


one_x, one_w = tile[:, :1].double(), w[:1, :1]
by_scipy = torch.from_numpy(scipy.ndimage.correlate(one_x[0, 0].numpy(), one_w[0, 0].numpy(), mode="wrap"))
d4 = dihedral_group(4)
pairs = [(a, b) for a in range(8) for b in range(8)]
by_e2cnn = sum(d4.combine(divmod(a, 4), divmod(b, 4)) == divmod(int(table[a, b]), 4) for a, b in pairs)
logits = network(test_images).detach()
library_average = TestTimeAverage(network, "p4m", activation=lambda z: z.softmax(1))
with torch.no_grad():
    by_library = library_average(test_images)
print(
    "move                against equipath.groups:       "
    f"{sum(torch.equal(moves[g](tile), P4M.act(tile, g)) for g in range(8))} of 8 equal"
)
print(f"multiplication      against equipath.groups:       {(table == P4M.table).sum().item()} of 64 equal")
print(f"multiplication      against e2cnn (D4):            {by_e2cnn} of 64 equal")
print(
    "correlate           against scipy:                 "
    f"{(conv(one_x, one_w)[0, 0] - by_scipy).abs().max():.1e} apart"
)
library_error = equivariance.equivariance_error(
    segment(network), test_images, equivariance.Rotation(90), squared=False
)
print(f"equivariance_error  against equipath.equivariance: {abs(before - library_error):.1e} apart")
print(
    "dice_cross_entropy  against equipath.losses:       "
    f"{abs(loss_function(logits, test_targets) - losses.dice_cross_entropy(logits, test_targets)):.1e} apart"
)
print(
    "average_over_group  against equipath.models.tta:   "
    f"{(averaged(network)(test_images) - by_library).abs().max():.1e} apart"
)


# %% [markdown]
# The same numbers, but not the same time. One layer, three ways:


# %%
def circular(x):
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), w)


def three_channels_by_scipy(x):
    return [
        sum(scipy.ndimage.correlate(x[0, c].numpy(), w[o, c].numpy(), mode="wrap") for c in range(3))
        for o in range(4)
    ]


print("3 channels to 4, 3 x 3, one tile of 128 x 128:")
for name, f in {
    "your sum of shifts": lambda x: conv(x, w),
    "torch's conv2d": circular,
    "scipy, filter by filter": three_channels_by_scipy,
}.items():
    print(f"  {1000 * seconds(f, x, 5):6.2f} ms  {name}")

# %% [markdown]
# ## 9. Use it
#
# How good are the networks, and how steady? Dice is measured on 12 tiles of slides that neither has
# seen. Yours saw 48 tiles, four at a time, half of every batch with tumour; that of the opening saw 160
# tiles, eight at a time, as they came.

# %%


def line(name, f):
    decision = f(test_images).argmax(dim=1)
    dice = dice_score(decision, test_targets, num_classes=3)
    wobble = error(f, test_images, quarter, quarter)
    print(f"{name:34} {dice[1]:8.3f} {dice[2]:8.3f} {wobble:10.1e}")


print(f"{'':34} {'healthy':>8} {'tumour':>8} {'90° error':>10}")
line("yours, upright", segment(fresh))
line("yours, asked from eight sides", averaged(fresh))
line("opening, upright", segment(network))
line("opening, asked from eight sides", averaged(network))

# %% [markdown]
# The published experiment nearest to this one is by [Linmans et al.
# 2018](https://arxiv.org/abs/1807.00583), on real lymph nodes with and without metastases. A plain
# U-Net trained with turned and mirrored copies reached a Dice of 79.8 (in percent); a U-Net built to
# be equivariant to p4m reached 83.7, with as many weights, and its eight answers agree up to
# rounding. Our numbers cannot be compared with those: our tissue is drawn, two classes of it are easy
# to tell apart, our network is tiny and sees 48 or 160 tiles. What can be compared is the pattern:
# the plain network's answer depends on the pose, and a network that treats the poses alike is
# steadier. In lesson 3 you build theirs.
#
# ### Real tissue
#
# Here is a real section of colon. Its protein FHL2 is stained brown and the rest is counterstained
# blue (immunohistochemistry). The network has never seen this stain, nobody has labelled this image
# for us, and the source does not state its pixel size, so the axes are in pixels
# (of the image at half its size). Your eye sees that the answer is poor, and without labels we cannot say
# how poor. We can say how steady it is: *the equivariance error needs no labels*. You can measure it on
# your own hospital's slides.

# %%
real = torch.from_numpy(immunohistochemistry()).movedim(-1, 0)[None] / 255
real = F.avg_pool2d(real, 2)[..., 64:192, 64:192]
real_back = torch.stack([moves[int(inverse[g])](segment(network)(moves[g](real))) for g in range(8)])
show(
    draw.turned_back(
        real[0],
        real_back[:4, 0, 1:].sum(1) > 0.5,
        real_back[:, 0].std(dim=0, unbiased=False).amax(dim=0),
        "gland or tumour",
    ),
    alt="A real section of colon with the area that the network marks as gland or tumour, for the tile as "
    "it lies and turned by 90, 180 and 270 degrees, and a map of the standard deviation over the eight "
    "poses.",
)
print(
    f"error under a quarter turn: {error(segment(network), real, quarter, quarter):.1e} plain, "
    f"{error(averaged(network), real, quarter, quarter):.1e} averaged"
)

# %% [markdown]
# ### Turn the slide yourself
#
# Drag the angle. The slide is rendered anew at every angle. The right panel turns the answer back and
# shows how much it differs from the answer at 0°. Compare 90° with 45°, and the plain network with the
# averaged one. Which changes are the network's, and where is it resampling along sharp edges?

# %%
upright = {"plain": segment(network)(at_angle(0.0)), "averaged": averaged(network)(at_angle(0.0))}
networks = {"plain": segment(network), "averaged": averaged(network)}


def draw_turned(angle, net):
    image = at_angle(float(angle))
    answer = networks[net](image)
    turn_back = Rotation(-angle, "bilinear")
    change = (turn_back.planar(answer) - upright[net]).abs().amax(dim=1)[0]
    inside = Rotation(45.0).seen(128, 128, border=12)  # the disc that stays in view at every angle
    change[~inside] = torch.nan
    known = change[~change.isnan()]
    figure = draw.turn_and_look(image[0], answer[0, 1], change, f"the slide at {angle}°", um_per_px=MPP)
    return (
        figure,
        f"The slide at {angle} degrees, the {net} network's probability of healthy gland, and the change "
        f"against 0 degrees after turning back: {known.mean():.3f} on average, at most {known.max():.2f}.",
    )


explore(
    draw_turned,
    angle=Slider(0, 345, step=15, value=90, label="angle", unit="°"),
    net=Choice(["plain", "averaged"], label="network"),
    frames={"angle": range(0, 360, 45)},
)

# %% [markdown]
# ## 10. In your own words
#
# Two questions that no function can check. They are read by a person. Three to six sentences each.
#
# **Question A (3 points).** One reads that averaging over the poses at test time gives no guarantee of
# equivariance. You have measured an error of rounding size. Who is right? Say for
# which moves the average is exact and why, name two moves for which it is not, and name one further
# thing that is lost in comparison with a network that is equivariant inside.

# %% [markdown] nbgrader={"grade_id": "question-average", "grade": true, "solution": true, "points": 3}
# ### BEGIN SOLUTION
# The average is exact for every move of the group it runs over, for any network: moving the input
# only reorders the eight terms. It is so only for these moves: not for turns by other angles (45° was
# measured), not for shifts by less than the stride, not for scale. What the papers warn of also holds
# if fewer than the eight poses are averaged, or poses drawn at random. What is lost: each prediction
# costs eight times as much; and the network itself has not learned with the symmetry: its features
# are not shared between poses, so it needs more data for the same quality.
#
# *Rubric. 1 point: exact for all elements of the group, with the reason (the terms are reordered, or:
# the group is closed). 1 point: two moves outside the group (other angles, small shifts, scale, an
# incomplete set of poses). 1 point: the price in time, or weights and data not shared between poses.*
# ### END SOLUTION

# %% [markdown]
# **Question B (2 points).** Symmetry is a claim about the data, not a virtue. Name one task with
# medical images where invariance to mirrors or turns would be a mistake, and say which information
# the average would destroy.

# %% [markdown] nbgrader={"grade_id": "question-limits", "grade": true, "solution": true, "points": 2}
# ### BEGIN SOLUTION
# For example: telling the left from the right lung or hand in an X-ray (a mirror swaps them, and
# situs inversus would be missed); reading handwriting or a label on the glass; telling the surface of
# skin from its depth when the laboratory always mounts it the same way up.
#
# *Rubric. 1 point: a task in which pose or handedness carries the answer. 1 point: it names what is
# lost (left and right, up and down, order of layers), for an equivariant or invariant map.*
# ### END SOLUTION

# %% [markdown]
# ## What you can do now
#
# You can move images, label maps and points by p4m without an interpolated pixel. You can measure the
# symmetry of any map, with or without labels. You know from an experiment why convolution follows
# shifts, how padding and stride spoil that, and what would make it follow turns. You have a
# multiplication table, found by looking, and its inverses. You have trained a segmentation network
# with your own loss, seen it flicker, and made it exact at the price of eight passes.
#
# **What is open.** Can we have the symmetry without the price? If each layer is built so that it
# commutes with the group, one pass is enough, and the weights are shared between poses while
# training. That is the rest of this course. And should we still augment when the network is
# equivariant? The slides from which this course took its start (Liem 2025) end with this question: a
# plain U-Net with augmentation against an equivariant one without, Dice 0.684 against 0.627. The
# combination was left to try.
#
# **Where to read on.** [Cohen & Welling 2016](https://arxiv.org/abs/1602.07576), sections 2 to 4: the
# group, feature maps on it, convolution on it. [Veeling et al.
# 2018](https://arxiv.org/abs/1806.03962): why pathology. [Maurice Weiler's
# introduction](https://maurice-weiler.gitlab.io/blog_post/cnn-book_1_equivariant_networks/): the
# whole field from one idea.
