# ---
# jupyter:
#   coursekit:
#     title: Eight poses in one layer
#     minutes: 120
#     run_minutes: 3
#     ram_mb: 1600
#     download_mb: 0
#     objectives:
#       - "Compute p4 by hand on a 3 × 3 stencil, and say what its four answers do when the picture turns."
#       - "Build the lifting convolution, from a picture to a feature map on p4 or p4m."
#       - "Move a feature map on a group: its planes move on the grid, and they change places."
#       - "Build the convolution from one feature map on a group to the next, for p4 and p4m."
#       - "Write a group convolution as one ordinary convolution, and time it against loops and the library."
#       - "Count the weights that a group shares."
#       - "Normalise a feature map on a group without breaking equivariance, and measure the per-orientation trap."
#       - "Find the picture sizes at which stride and pooling break equivariance, and those that keep it."
#       - "Go back from the group to the plane with a learned filter, and compare it with pooling over the group."
#       - "Assemble a P4M-DenseNet from your own parts."
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
# # Eight poses in one layer
#
# In lesson 1 you found out how a convolution can follow a quarter turn: *turn the picture and the window, and
# nothing is lost*. And you made any network equivariant by asking it eight times. Both belong together. A layer
# that holds its window in all eight poses at once needs to be asked only once, and it learns one window where a
# plain network must learn eight.
#
# **You will build**: the layer that lifts a picture to a feature map on a group, the convolution between such
# maps, and that same convolution as one call of `conv2d`; a batch norm that does not break it; the list of
# picture sizes at which pooling does not break it either; the way back to the plane. In the end they are a
# P4M-DenseNet, the network of [Veeling et al. 2018](https://arxiv.org/abs/1806.03962), and you train it to find
# tumour.
#
# **You need**: lesson 1 (moves, the multiplication table, inverses) and what a convolution does. Lesson 2 helps,
# but is not needed. Two hours; up to 1.6 GB of memory; nothing is downloaded.
#
# **How it works**: as before. `check` as often as you like, `hint` for a nudge, `grade` is what counts: 22 points
# for ten functions and 5 for two written answers. An exercise that you leave open stops nothing: the cells below
# it then use the course's own function, and say so.

# %% nbgrader={"grade_id": "setup", "locked": true}
import time
import warnings
from dataclasses import replace

import torch
import torch.nn.functional as F
from skimage.data import immunohistochemistry
from torch import nn

from coursekit.explore import Slider, Toggle, explore
from coursekit.figures import show, style
from coursekit.predict import predict
from coursekit.use import use
from equipath.data import load
from equipath.data.slides import Grid, Slide
from equipath.exercises import group_convolutions
from equipath.exercises import group_convolutions_figures as draw
from equipath.experiments import first_unet, gunet, pcam, results
from equipath.groups import P4, P4M
from equipath.kernels.evaluate import prefer
from equipath.metrics import accuracy, auc, nll
from equipath.models import densenet
from equipath.models.summary import count_parameters
from equipath.nn.group import GroupConv2d

torch.manual_seed(0)
style()
move = P4M.act  # move(x, g): the two last axes of x, mirrored if g ≥ 4, then turned by g mod 4 quarter turns

# %% [markdown]
# ## A filter has a pose
#
# Here is real tissue: a section of colon in which one protein is stained brown and the rest blue
# (immunohistochemistry). And here is one filter, made by hand: it answers where it is dark to its right, and
# darker still a little above. We filter the tissue, then we turn the tissue by 90°, filter it with the same
# filter, and turn the answer back.

# %%
question_pose = predict(
    "By how much do the two answers differ?",
    options=["not at all", "by a tenth of their size", "by about their own size, or more"],
)

# %%
real = torch.from_numpy(immunohistochemistry()).movedim(-1, 0)[None] / 255
real = F.avg_pool2d(real, 2).double()  # half the size: 256 x 256 pixels
tile = real[..., 96:192, 96:192]
dark = 1 - tile.mean(dim=1, keepdim=True)

right, up = torch.meshgrid(torch.arange(-4.0, 5.0), torch.arange(4.0, -5.0, -1.0), indexing="xy")
hook = right * torch.exp(-(right**2 + up**2) / 6) + torch.exp(-((right - 1) ** 2 + (up - 2) ** 2) / 2)
hook = (hook - hook.mean()).double()[None, None]  # (1, 1, 9, 9)


def relative(a, b):
    """How far a is from b, over the size of b."""
    return float((a - b).norm() / b.norm())


upright = F.conv2d(dark, hook)
turned_back = move(F.conv2d(move(dark, 1), hook), 3)
change = relative(turned_back, upright)
show(
    draw.one_filter(
        tile[0], hook[0, 0], {"filtered": upright[0, 0], "turned, filtered, turned back": turned_back[0, 0]}
    ),
    alt="Real tissue with brown and blue cells, a filter of 9 by 9 pixels that is positive at the right and negative at the "
    "left, and two maps of what it answers. In the first it saw the "
    "tissue as it lies, in the second turned by 90 degrees, and the answer was turned back: other places light up.",
)
print(f"the two answers differ by {100 * change:.0f} % of their size")

# %%
question_pose.reveal(
    question_pose.options[2] if change > 0.5 else question_pose.options[1] if change > 0 else question_pose.options[0],
    because="The filter looks for something to its right. In the turned tissue that is something else. A plain network must "
    "learn this filter once more for every pose in which a cell may lie.",
)

# %% [markdown]
# ## 1. Four poses, by hand
#
# Take the smallest case: one patch of 3 × 3 pixels, and one stencil of 3 × 3 numbers. To apply the stencil is to
# multiply number by number and to add up. Now hold the stencil over the same patch in each of its four poses.
# That gives four answers.

# %% [markdown]
# ### Exercise 1: a stencil in four poses (2 points)
#
# Write `four_answers(patch, w)`: what a stencil says about a patch in each of its four poses,
#
# $$a_r = \sum_{i,j} \text{patch}[i, j] \cdot (\text{turn}^r w)[i, j], \qquad r = 0, 1, 2, 3,$$
#
# where turn is a quarter turn counter-clockwise, as in `torch.rot90`.
#
# - `patch`: float tensor (N, 3, 3), N patches. `w`: float tensor (3, 3), the stencil, same dtype.
# - Returns (N, 4), dtype as in `patch`: entry [p, r] is the answer of the stencil turned r times about patch p. Neither input
#   is changed.

# %% nbgrader={"grade_id": "four-answers", "solution": true}
def four_answers(patch, w):
    """The answers (N, 4) of the stencil w (3, 3), turned 0 to 3 times, about patches (N, 3, 3)."""
    ### BEGIN SOLUTION
    return torch.stack([(patch * torch.rot90(w, r)).sum(dim=(1, 2)) for r in range(4)], dim=1)
    ### END SOLUTION

# %%
group_convolutions.FOUR_ANSWERS.check(four_answers)

# %%
# Stuck? Take the # away. Run the cell again for the next hint; there are three.
# group_convolutions.FOUR_ANSWERS.hint()

# %% nbgrader={"grade_id": "four-answers-grade", "grade": true, "points": 2}
group_convolutions.FOUR_ANSWERS.grade(four_answers)

# %% [markdown]
# Now turn the patch, and ask the same four stencils again.

# %%
question_roll = predict(
    "The patch is turned by 90° counter-clockwise. What happens to the four answers?",
    options=["nothing, they stay", "the same four numbers, one place further", "four new numbers"],
)

# %%
answers_of = use(group_convolutions.FOUR_ANSWERS, four_answers)
stencil = torch.tensor([[-1.0, 0, 1], [-1, 0, 2], [-1, 0, 0]], dtype=torch.float64)
patch = (9 * dark[0, :, 19:22, 61:64]).round()  # at the edge of a gland
patches = torch.cat([patch, torch.rot90(patch, 1, (1, 2))])
four = answers_of(patches, stencil)
show(
    draw.stencil_by_hand(
        patches, ["patch", "turned by 90°"], [torch.rot90(stencil, r) for r in range(4)], four
    ),
    alt="Two rows of number grids: a patch of tissue and four poses of a stencil with what each answers. For the patch "
    f"the answers are {four[0].int().tolist()}, for the turned patch {four[1].int().tolist()}.",
)

# %%
question_roll.reveal(
    "the same four numbers, one place further" if torch.equal(four[1], four[0].roll(1)) else "four new numbers",
    because="Turn the patch and the stencil together, and their answer stays. So the stencil in pose r + 1 says about the "
    "turned patch what pose r said about the patch. No number is lost, and none is new. Only the places change, and they "
    "change by a rule.",
)

# %% [markdown]
# This is the whole idea. Four answers in one pixel, and a turn of the tissue moves them round in a ring. The rest
# of this lesson is to do it everywhere, again and again, and fast.
#
# ## 2. Lift the picture
#
# Everywhere means: slide the stencil over the picture. One pose gives one map, and a group of n poses gives n
# maps, the *planes* of a feature map on the group. For p4 there are four: the turns. For p4m there are eight: the
# turns, and the turns of the mirrored filter. The n planes that one filter makes belong together. They are one
# *field* (a regular field, in full). A layer has several filters, so a feature map on a group has several fields:
# it is a tensor (batch, fields, planes, rows, columns). Where no doubt can arise, the whole tensor is called a
# field, too.
#
# The layer is called lifting convolution, because it lifts a function on the plane to a function on the group
# ([Cohen & Welling 2016](https://arxiv.org/abs/1602.07576)). In short: Z² → G, from the grid of pixels Z² to the
# group G. The papers write it
#
# $$[f \star \psi](g) = \sum_{y} f(y)\, \psi(g^{-1} y), \qquad g = (\text{pose}, \text{place}).$$
#
# Read $\psi(g^{-1}y)$ as *the filter, moved by g*: to know its value at y, go back by $g^{-1}$ to where that
# value came from. The place is what `conv2d` takes care of. So in code, and in the formulas of the exercises, g is
# the pose alone.
#
# In this course element $g = 4m + r$ first mirrors left-right if $m = 1$, then turns by r quarter turns
# counter-clockwise. `move(x, g)`, from the first cell, does that to the last two axes of any tensor.

# %% [markdown]
# ### Exercise 2: the lifting convolution (2 points)
#
# Write `lift(x, w, n)`: the lifting convolution Z² → G, from the grid of pixels to the group. Output plane g is the
# picture correlated with the filter moved by element g (a pose; the places are what `F.conv2d` takes care of):
#
# $$y_{b,o,g} = \sum_i x_{b,i} \star (g\, w_{o,i}), \qquad g = 0 \ldots n - 1,$$
#
# where ⋆ is what `F.conv2d` computes: stride 1, no padding.
#
# - `x`: float tensor (B, I, H, W). `w`: float tensor (O, I, k, k), same dtype; any k ≥ 1 that fits. `n`: 4 for p4, 8
#   for p4m.
# - `move(w, g)`, given, moves the two last axes of any tensor by element g: a left-right mirror first if g ≥ 4, then
#   g mod 4 quarter turns counter-clockwise.
# - Returns (B, O, n, H − k + 1, W − k + 1), dtype as in `x`; gradients flow to `x` and `w`. Neither input is changed.

# %% nbgrader={"grade_id": "lift", "solution": true}
def lift(x, w, n):
    """The picture x (B, I, H, W) correlated with the filters w in n poses: (B, O, n, H − k + 1, W − k + 1)."""
    ### BEGIN SOLUTION
    return torch.stack([F.conv2d(x, move(w, g)) for g in range(n)], dim=2)
    ### END SOLUTION

# %%
group_convolutions.LIFT.check(lift)

# %%
# group_convolutions.LIFT.hint()

# %% nbgrader={"grade_id": "lift-grade", "grade": true, "points": 2}
group_convolutions.LIFT.grade(lift)

# %%
lifted = use(group_convolutions.LIFT, lift)
eight = lifted(dark, hook, 8)
show(
    draw.planes(
        tile[0], [move(hook[0, 0], g) for g in range(8)], eight[0, 0], [P4M.label(g) for g in range(8)]
    ),
    alt="The tissue and eight response maps in two rows, four for the turns of the filter and four for its mirrored "
    "copy, each under a small picture of the filter in its pose. Each pose lights up on other sides of the cells.",
)
print(f"picture {tuple(dark.shape)}, field {tuple(eight.shape)}: batch, channels, poses, rows, columns")

# %% [markdown]
# Purple is positive and orange negative; the frame tells the pose, dashed if mirrored. Planes 0 and 3 you know:
# they are the two maps of the first figure. The other six are what the filter says in its other poses. The layer
# learns 81 numbers and makes eight maps of them.
#
# ## 3. How a feature map on a group moves
#
# Turn the tissue, and lift it again. You know from the stencil what must happen in one pixel: the answers change
# places. And you know what happens to pixels. Both happen at once.

# %%
question_plane = predict(
    "The tissue is turned by 90° counter-clockwise and lifted again. What will stand in plane 0 of the new field?",
    options=["plane 0 of the old field, turned", "plane 1 of the old field, turned", "plane 3 of the old field, turned"],
)

# %%
again = lifted(move(dark, 1), hook, 8)
distances = [relative(again[:, :, 0], move(eight[:, :, k], 1)) for k in range(4)]
for k, distance in enumerate(distances):
    print(f"plane 0 of the new field against plane {k} of the old one, turned: {distance:.0e} apart")

# %%
nearest = min(range(4), key=lambda k: distances[k])
question_plane.reveal(
    f"plane {nearest} of the old field, turned",
    because="Plane 0 sees the upright filter. It meets in the turned tissue what the filter in pose −1 met before, and that is "
    "pose 3. In general plane h takes over from plane g⁻¹h.",
)

# %% [markdown]
# Say it once and for all. A **feature map on a group** is a function of pose and place. When the tissue moves by
# $g$, its value at pose $h$ comes from pose $g^{-1}h$, and its pixels move as the tissue does:
#
# $$(g \cdot f)_h = \text{move}(f_{g^{-1}h},\ g).$$
#
# The planes turn *and* they change places: for a turn they roll, and for a mirror the ring of the turns becomes
# the ring of the mirrored, run through backwards. Which place is which, the multiplication table knows that you
# found out in lesson 1.

# %% [markdown]
# ### Exercise 3: move a feature map on a group (3 points)
#
# Write `move_field(f, g, table, inverse)`: the feature map on a group after the picture below it has been moved by
# element g. Plane h of the moved field is plane g⁻¹h of the field, moved by g:
#
# $$(g \cdot f)_h = \text{move}\big(f_{g^{-1} h},\ g\big).$$
#
# - `f`: float tensor (B, C, n, H, W): C fields, each with one plane for each of the n = 4 or 8 elements. `g`: a whole number,
#   0 … n − 1.
# - `table`: int64 tensor (n, n); `table[a, b]` is the product ab, in which b acts first. `inverse`: int64 tensor (n,);
#   `inverse[a]` undoes a.
# - `move(x, g)`, given, moves the two last axes of any tensor by element g.
# - Returns the moved field (B, C, n, H, W), or (B, C, n, W, H) where g turns by an odd number of quarter turns, dtype as
#   in `f`. `f` itself stays as it is.

# %% nbgrader={"grade_id": "move-field", "solution": true}
def move_field(f, g, table, inverse):
    """Move the field f (B, C, n, H, W) by element g: planes change places, pixels move."""
    ### BEGIN SOLUTION
    places = table[inverse[g]]
    return move(f[:, :, places], g)
    ### END SOLUTION

# %%
group_convolutions.MOVE_FIELD.check(move_field)

# %%
# group_convolutions.MOVE_FIELD.hint()

# %% nbgrader={"grade_id": "move-field-grade", "grade": true, "points": 3}
group_convolutions.MOVE_FIELD.grade(move_field)

# %%
moved = use(group_convolutions.MOVE_FIELD, move_field)
table, inverse = P4M.table, P4M.inverses
print(f"{'the tissue is moved by':24} {'as you say':>12} {'pixels only':>12} {'planes only':>12}")
for g in range(8):
    new = lifted(move(dark, g), hook, 8)
    row = [moved(eight, g, table, inverse), move(eight, g), eight[:, :, table[inverse[g]]]]
    print(f"{P4M.label(g):24} " + " ".join(f"{relative(new, old):12.0e}" for old in row))

# %% [markdown]
# ### Turn it yourself
#
# Turn and mirror the tissue. On the left are the eight planes as they were; each has a number and a colour of its
# own. On the right is the field of the moved tissue, computed anew. Follow plane 0: where does it go when you
# turn, and where when you mirror?

# %%
small_tile, small_dark = tile[..., 20:68, 20:68], dark[..., 20:68, 20:68]
before_moving = lifted(small_dark, hook, 8)[0, 0]


def draw_moved(turns, mirror):
    g = 4 * int(mirror) + turns // 90
    after = lifted(move(small_dark, g), hook, 8)[0, 0]
    sources = [int(table[inverse[g], h]) for h in range(8)]
    figure = draw.moving_planes(
        [small_tile[0], move(small_tile[0], g)], before_moving, after, sources, f"after: {P4M.label(g)}"
    )
    return (
        figure,
        f"The tissue and the eight planes of its field, before and after: {P4M.label(g)}. Each plane is moved on the grid, and "
        f"the places 0 to 7 now hold the planes {sources}.",
    )


explore(
    draw_moved,
    turns=Slider(0, 270, step=90, value=90, label="turn", unit="°"),
    mirror=Toggle(False, label="mirror first"),
)

# %% [markdown]
# ## 4. From one feature map on a group to the next
#
# A second layer must take such a field in, and give one out. What should its filter look like? The field is a
# function of pose and place, so the filter is one, too: n planes of k × k numbers. It can say things that no
# planar filter can: "an edge in *my* pose here, and an edge turned by 90° from me two pixels to my left". That is
# a corner.
#
# And how do we hold such a filter in pose g? As we move any function on the group: its numbers (the *taps*) move
# on their grid, and its planes change places.
#
# $$[f \star \psi](g) = \sum_{h} f(h)\, \psi(g^{-1} h)$$
#
# Here g and h are pairs of pose and place again, as in section 2. The exercise leaves the places to `conv2d`, and
# there both are poses.

# %% [markdown]
# ### Exercise 4: the group convolution (3 points)
#
# Write `group_conv(f, w, table, inverse)`: the group convolution G → G. Output plane g correlates the field with the
# filter moved by g, as a whole: the taps of every plane are moved by g, and the plane that meets plane h of the field is
# plane g⁻¹h of the filter.
#
# $$y_{b,o,g} = \sum_{h} \sum_i f_{b,i,h} \star \text{move}\big(w_{o,i,g^{-1}h},\ g\big)$$
#
# ⋆ is what `F.conv2d` computes: stride 1, no padding.
#
# - `f`: float tensor (B, I, n, H, W): I fields of n = 4 or 8 planes. `w`: float tensor (O, I, n, k, k), same dtype, any k ≥ 1
#   that fits.
# - `table`, `inverse` and `move` as in exercise 3. No speed is asked for: loops are welcome.
# - Returns (B, O, n, H − k + 1, W − k + 1), dtype as in `f`. Neither input is changed.

# %% nbgrader={"grade_id": "group-conv", "solution": true}
def group_conv(f, w, table, inverse):
    """The field f (B, I, n, H, W) convolved with filters w (O, I, n, k, k): (B, O, n, H', W')."""
    ### BEGIN SOLUTION
    planes = []
    for g in range(len(table)):
        moved = move(w[:, :, table[inverse[g]]], g)
        planes.append(F.conv2d(f.flatten(1, 2), moved.flatten(1, 2)))
    return torch.stack(planes, dim=2)
    ### END SOLUTION

# %%
group_convolutions.GROUP_CONV.check(group_conv)

# %%
# group_convolutions.GROUP_CONV.hint()

# %% nbgrader={"grade_id": "group-conv-grade", "grade": true, "points": 3}
group_convolutions.GROUP_CONV.grade(group_conv)

# %% [markdown]
# Stack two layers with a ReLU between them. A ReLU asks no questions about poses: it treats every number alike,
# so it commutes with every exchange of numbers. (On the arrows of lesson 2 it does not: their components mix when
# they turn.)

# %%
convolve = use(group_convolutions.GROUP_CONV, group_conv)
chance = torch.Generator().manual_seed(1)


def some(*shape):
    return torch.randn(*shape, generator=chance, dtype=torch.float64)


def filters(*shape):
    """Random filters, each with mean 0: they answer to structure, not to brightness."""
    w = some(*shape)
    return w - w.mean(tuple(range(1, w.dim())), keepdim=True)


w1, w2 = filters(4, 3, 5, 5), filters(2, 4, 8, 3, 3)
w4 = filters(2, 4, 4, 3, 3)


def two_layers(x):
    return convolve(torch.relu(lifted(x, w1, 8)), w2, table, inverse)


def two_layers_p4(x):
    return convolve(torch.relu(lifted(x, w1, 4)), w4, P4.table, P4.inverses)


def planes_forgotten(x):
    """The taps of the second filter are moved, its planes are not."""
    f = torch.relu(lifted(x, w1, 8)).flatten(1, 2)
    return torch.stack([F.conv2d(f, move(w2, g).flatten(1, 2)) for g in range(8)], 2)


print("error of two layers, on real tissue")
print(f"{'':24} {'p4m':>9} {'p4':>9} {'p4m, planes forgotten':>23}")
for g in range(8):
    errors = [
        relative(f(move(tile, g)), moved(f(tile), g, table, inverse)) for f in (two_layers, planes_forgotten)
    ]
    p4 = relative(two_layers_p4(move(tile, g)), moved(two_layers_p4(tile), g, P4.table, P4.inverses)) if g < 4 else None
    print(f"{P4M.label(g):24} {errors[0]:9.0e} {'–' if p4 is None else f'{p4:9.0e}':>9} {errors[1]:23.2f}")

# %% [markdown]
# Two layers deep, and exact to rounding. p4 does not know about mirrors, so there is nothing to compare in its
# lower rows. And the last column is a mistake that is easily made: turn the taps, forget the planes. Its answers
# look like answers; only a test like this one tells.
#
# ## 5. One convolution
#
# Your layer asks for n convolutions. But look at what they compute: out of I · n maps they make O · n maps, each
# a sum of correlations. That is one ordinary convolution. All its filters together, its *bank*, hold every number
# that the layer learns n times. If you write that bank down once, all the speed of `conv2d` is yours.

# %% [markdown]
# ### Exercise 5: one convolution for the whole group (3 points)
#
# Write `group_taps(w, table, inverse)`: the bank of the one ordinary convolution that a group convolution is. With
# it, `F.conv2d(f.flatten(1, 2), taps)` gives the same numbers as exercise 4: field i, plane h is input map i·n + h, and
# field o, plane g is output map o·n + g.
#
# - `w`: float tensor (O, I, n, k, k), n = 4 or 8. `table`, `inverse` and `move` as in exercise 3.
# - Returns (O·n, I·n, k, k), dtype as in `w`, with gradients that flow to `w`. The k × k entry [o·n + g, i·n + h] is
#   `move(w[o, i, g⁻¹h], g)`. `w` itself stays as it is.
# - Speed counts: your network of exercise 10 calls this at every step, with up to 48 fields. A loop over the n elements is
#   fast. With a loop over o and i as well the check still passes, but a step of training then takes some forty times as long.

# %% nbgrader={"grade_id": "group-taps", "solution": true}
def group_taps(w, table, inverse):
    """Filters w (O, I, n, k, k) as those of one plain convolution: (O·n, I·n, k, k)."""
    ### BEGIN SOLUTION
    o, i, n, k, _ = w.shape
    copies = [move(w[:, :, table[inverse[g]]], g) for g in range(n)]
    return torch.stack(copies, dim=1).reshape(o * n, i * n, k, k)
    ### END SOLUTION

# %%
group_convolutions.GROUP_TAPS.check(group_taps)

# %%
# group_convolutions.GROUP_TAPS.hint()

# %% nbgrader={"grade_id": "group-taps-grade", "grade": true, "points": 3}
group_convolutions.GROUP_TAPS.grade(group_taps)

# %% [markdown]
# Now time it. Five ways to compute the same layer: the double loop over g and h, your layer of exercise 4, one
# convolution with your bank, the same with the bank read through a table of indices (made once, so that nothing
# is moved in the loop), and one convolution with a bank that is kept. Beside them stand the course's library and
# `e2cnn`, a library by other people.

# %%
question_fast = predict(
    "8 fields of p4m, that is 64 maps, of 24 x 24 pixels, 3 x 3 filters, a batch of 8. How many times longer does the double "
    "loop (64 small convolutions) take than one convolution with your bank?",
    unit="times",
)

# %%
bank = use(group_convolutions.GROUP_TAPS, group_taps)
f8 = torch.randn(8, 8, 8, 24, 24, generator=torch.Generator().manual_seed(2))
w8 = torch.randn(8, 8, 8, 3, 3, generator=torch.Generator().manual_seed(3)) / 24


def double_loop(f, w):
    planes = []
    for g in range(8):
        parts = [F.conv2d(f[:, :, h], move(w[:, :, table[inverse[g], h]], g)) for h in range(8)]
        planes.append(torch.stack(parts).sum(0))
    return torch.stack(planes, 2)


numbers = torch.arange(8 * 9).reshape(8, 3, 3)  # moved once, they say where each tap of each copy comes from
index = torch.stack([move(numbers[table[inverse[g]]], g) for g in range(8)])  # (g, h, 3, 3)


def by_index(f, w):
    taps = w.flatten(2)[:, :, index].movedim(2, 1).reshape(64, 64, 3, 3)
    return F.conv2d(f.flatten(1, 2), taps).unflatten(1, (8, 8))


def one_convolution(f, w):
    return F.conv2d(f.flatten(1, 2), bank(w, table, inverse)).unflatten(1, (8, 8))


kept = bank(w8, table, inverse)
library_layer = GroupConv2d(8, 8, 3, bias=False)
with torch.no_grad():
    library_layer.weight.copy_(w8)

with warnings.catch_warnings():  # e2cnn's own notices about newer versions of torch
    warnings.simplefilter("ignore")
    from e2cnn import gspaces
    from e2cnn import nn as enn

    d4 = gspaces.FlipRot2dOnR2(4)
    eight_fields = enn.FieldType(d4, 8 * [d4.regular_repr])
    theirs = enn.R2Conv(eight_fields, eight_fields, 3, bias=False, initialize=False)
    torch.nn.init.normal_(theirs.weights, generator=torch.Generator().manual_seed(5))
    theirs = theirs.eval()
    their_field = enn.GeometricTensor(f8.flatten(1, 2), eight_fields)


def milliseconds(f, repeats=5):
    """The shortest of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


ways = {
    "double loop over g and h": lambda: double_loop(f8, w8),
    "your group_conv": lambda: convolve(f8, w8, table, inverse),
    "one convolution, your bank": lambda: one_convolution(f8, w8),
    "one convolution, bank by index": lambda: by_index(f8, w8),
    "one convolution, bank kept": lambda: F.conv2d(f8.flatten(1, 2), kept).unflatten(1, (8, 8)),
    "equipath": lambda: library_layer(f8),
    "e2cnn, bank kept": lambda: theirs(their_field),
}
want, spent = double_loop(f8, w8), {}
with torch.no_grad():
    for name, way in ways.items():
        spent[name] = milliseconds(way)
        apart = "other weights" if "e2cnn" in name else f"{relative(way(), want):.0e} apart"
        print(f"{spent[name]:8.2f} ms  {name:32} {apart}")

# %%
question_fast.reveal(
    round(spent["double loop over g and h"] / spent["one convolution, your bank"], 1),
    because="The number of multiplications is the same. What differs is how many pieces they come in: 64 small convolutions "
    "keep starting and stopping, and one large one keeps the processor's units busy. In training the bank is made anew in "
    "every step, because the weights have changed; at test time it can be kept. (Such short times are noisy: run the cell "
    "again, and the ratio may change by half, and ways that are close may change places.)",
)

# %% [markdown]
# `e2cnn` has weights of its own making, so its numbers differ. (Its filters are built from a basis that leaves
# out the finest detail: six of the nine numbers of a 3 × 3 filter are free.) Turn it round: read off the filter
# that it has made at random weights, take its upright copies as *your* weights, and see whether your bank
# rebuilds all the others.

# %%
their_bank = theirs.filter.detach()
your_weights = their_bank.reshape(8, 8, 8, 8, 3, 3)[:, 0]  # the rows of output plane 0: the filter as it is
with torch.no_grad():
    by_e2cnn = theirs(their_field).tensor.unflatten(1, (8, 8))
print(f"your bank against e2cnn's: {relative(bank(your_weights, table, inverse), their_bank):.0e} apart")
print(f"your layer against e2cnn's: {relative(one_convolution(f8, your_weights), by_e2cnn):.0e} apart")

# %% [markdown]
# ### How much is shared
#
# The bank has n times more numbers than the layer learns. That ratio is what the literature calls *weight
# sharing*, and it is where the promise of learning from fewer examples comes from. Count it.

# %% [markdown]
# ### Exercise 6: count what is shared (1 point)
#
# Write `count_weights(kind, c_in, c_out, k, n)`: the number of weights of a layer, without bias, and of the plain
# convolution that computes it.
#
# - `kind`: "lift" (from a picture to fields, exercise 2), "group" (from fields to fields, exercise 4) or "plane" (from
#   fields back to planar maps, which you will write as exercise 9: for each pair of field and map it learns one planar
#   filter of k × k; plane h sees that filter moved by h, and the planes are added up).
# - `c_in`, `c_out`: numbers of channels of a picture or of planar maps, or of fields. `k`: side of the filter. `n`: planes of
#   a field, 4 or 8.
# - Returns two whole numbers, (free, plain). free: how many numbers the layer learns, all filters together. plain: how many
#   weights the one ordinary convolution has that gives the same maps, where a field counts as n maps.

# %% nbgrader={"grade_id": "count-weights", "solution": true}
def count_weights(kind, c_in, c_out, k, n):
    """(free, plain): the weights that the layer learns, and those of the plain convolution that it is."""
    ### BEGIN SOLUTION
    filters = c_in * c_out * k * k
    if kind == "lift":
        return filters, n * filters
    if kind == "group":
        return n * filters, n * n * filters
    return filters, n * filters
    ### END SOLUTION

# %%
group_convolutions.COUNT_WEIGHTS.check(count_weights)

# %%
# group_convolutions.COUNT_WEIGHTS.hint()

# %% nbgrader={"grade_id": "count-weights-grade", "grade": true, "points": 1}
group_convolutions.COUNT_WEIGHTS.grade(count_weights)

# %%
count = use(group_convolutions.COUNT_WEIGHTS, count_weights)
print(f"{'layer':34} {'learned':>9} {'as plain':>9} {'ratio':>6}")
for words, kind, c_in, c_out in (
    ("lift 3 colours to 8 fields", "lift", 3, 8),
    ("8 fields to 8 fields", "group", 8, 8),
    ("8 fields to 1 map", "plane", 8, 1),
):
    free, plain = count(kind, c_in, c_out, 3, 8)
    print(f"{words:34} {free:9} {plain:9} {plain / free:6.0f}")
width = 24
same = count("group", 8, 8, 3, 8)[0]
print(f"a plain layer of {width} maps to {width} maps: {width * width * 9} weights; 8 fields to 8 fields learn {same}")

# %% [markdown]
# The last line is how papers make a fair comparison. A layer between fields has n times as many weights as a
# plain layer with the same number of *channels*. So one takes $\sqrt n$ times fewer: 24 maps against $24 / \sqrt
# 8 = 8.49$ fields. Half a field there is not. With 8 the equivariant layer has 11 % fewer weights than the plain one,
# and it works on 64 maps where the plain one has 24.
#
# ### ★ With fewer multiplications
#
# *This section is an excursion. Nothing later depends on it.*
#
# Is 64 the price of p4m? In one place, between one field and the next, the bank multiplies all 8 planes by all 8
# copies: 64 multiplications a tap. But the bank is no arbitrary matrix: it is a convolution *over the group*, and
# convolutions become products under a Fourier transform. A group that is not commutative has one, too. In place
# of waves it has irreps: matrices $\rho(g)$ that multiply like the group and cannot be split into smaller ones. The
# group of our eight poses, $D_4$, has four of size 1 and one of size 2, the 2 × 2 matrices that turn and mirror the
# plane. With
#
# $$\hat f(\rho) = \sum_h f_h\, \rho(h), \qquad \hat w(\rho) = \sum_k w_k\, \rho(k)^{-1},$$
#
# the sum $y_g = \sum_h f_h\, w_{g^{-1}h}$ becomes $\hat y(\rho) = \hat f(\rho)\, \hat w(\rho)$: four products of
# numbers and one product of 2 × 2 matrices, which takes 8. Twelve in place of 64. To check it, we need no
# library.

# %%
turns_and_mirrors = torch.stack([P4M.matrix(g) for g in range(8)])  # (8, 2, 2)
odd = torch.tensor([(-1.0) ** (g % 4) for g in range(8)], dtype=torch.float64)
det = torch.linalg.det(turns_and_mirrors)
signs = torch.stack([torch.ones_like(odd), odd, det, odd * det])  # the four irreps of size 1: (4, 8)
homomorphic = max(
    float((rho[a] @ rho[b] - rho[table[a, b]]).abs().max())
    for rho in (turns_and_mirrors, *signs[:, :, None, None])
    for a in range(8)
    for b in range(8)
)


def transform(planes, invert):
    """(8, ...) to four numbers (4, ...) and one matrix (..., 2, 2)."""
    order = inverse if invert else torch.arange(8)
    ones = torch.einsum("rh,h...->r...", signs[:, order], planes)
    return ones, torch.einsum("hab,h...->...ab", turns_and_mirrors[order], planes)


def transform_back(ones, pair):
    """The inverse transform: each irrep counts by its size, and all by 1/8."""
    from_ones = torch.einsum("rg,r...->g...", signs, ones)
    from_pair = 2 * torch.einsum("gab,...ba->g...", turns_and_mirrors[inverse], pair)
    return (from_ones + from_pair) / 8


f1, k1 = some(8), some(8)
plain_sum = torch.stack([sum(f1[h] * k1[table[inverse[g], h]] for h in range(8)) for g in range(8)])
(f_ones, f_pair), (k_ones, k_pair) = transform(f1, False), transform(k1, True)
twelve = transform_back(f_ones * k_ones, f_pair @ k_pair)
print(f"the irreps multiply like the group: {homomorphic:.0e} off")
print(f"12 multiplications against 64: {relative(twelve, plain_sum):.0e} apart")

# %% [markdown]
# That was a 1 × 1 filter in one pixel. For k × k taps, gather first: for tap q and plane h take the pixel at $x +
# hq$. Then the moved taps of plane h lie under the same q for all poses, and each tap is a convolution over the
# group, as above. The library computes it so where that pays, and decides by the shape.

# %%
def by_fourier(f, w):
    """A group convolution (double precision) through the transform, tap by tap."""
    k = w.shape[-1]
    windows = f.unfold(3, k, 1).unfold(4, k, 1)  # (B, I, h, y, x, k, k)
    gathered = torch.stack([move(windows[:, :, h], int(inverse[h])) for h in range(8)])
    reordered = torch.stack([move(w[:, :, h], int(inverse[h])) for h in range(8)])
    (g_ones, g_pair), (v_ones, v_pair) = transform(gathered, False), transform(reordered, True)
    ones = torch.einsum("rbiyxkl,roikl->rboyx", g_ones, v_ones)
    pair = torch.einsum("biyxklac,oiklcd->boyxad", g_pair, v_pair)
    return transform_back(ones, pair).movedim(0, 2)


f_small, w_small = some(2, 3, 8, 7, 6), some(2, 3, 8, 3, 3)
print(f"whole layer: {relative(by_fourier(f_small, w_small), convolve(f_small, w_small, table, inverse)):.0e} apart")
print(f"{'fields':>8} {'pixels':>8} {'one convolution':>16} {'transform':>10}   the library takes")
for fields, side, batch in ((8, 48, 1), (64, 12, 8)):
    layer = GroupConv2d(fields, fields, 3, padding=1, bias=False)
    x = torch.randn(batch, fields, 8, side, side, generator=torch.Generator().manual_seed(6))
    took = {}
    for way in ("expand", "fourier"):
        with torch.no_grad(), prefer(way):
            took[way] = milliseconds(lambda layer=layer, x=x: layer(x), 3)
    with torch.no_grad():
        chosen = {"expand": "one convolution", "fourier": "the transform"}[layer.evaluation(x)]
    print(f"{fields:8} {side:5}²   {took['expand']:13.1f} ms {took['fourier']:7.1f} ms   {chosen}")

# %% [markdown]
# With few fields the gathering costs more than the multiplications that it saves. With many fields on a small
# grid, as deep in a network, it is the other way round.
#
# ## 6. Batch norm, and a trap
#
# Between the layers of a real network stands batch norm: take the mean and the variance of each map over the
# batch, and bring them to 0 and 1. What is "each map" here? A field has n planes. The tempting choice is to
# normalise each plane on its own, since for `conv2d` they are channels like any others. The papers choose
# otherwise: one mean and one variance for all planes of a field.

# %% [markdown]
# ### Exercise 7: batch norm that does not break the group (2 points)
#
# Write `group_batch_norm(f, weight, bias, eps)`: batch norm as it works while training, with one mean and one variance
# for each field, taken over the batch, all planes and all pixels:
#
# $$y_c = \text{weight}_c\, \frac{f_c - \text{mean}_c}{\sqrt{\text{variance}_c + \text{eps}}} + \text{bias}_c$$
#
# The variance is the mean of the squared distances to the mean (divide by their number, not by one less).
#
# - `f`: float tensor (B, C, n, H, W). `weight`, `bias`: float tensors (C,), same dtype. `eps`: a small float above 0.
# - Returns (B, C, n, H, W), dtype as in `f`; gradients flow to all three tensors. `f` itself stays as it is.

# %% nbgrader={"grade_id": "group-batch-norm", "solution": true}
def group_batch_norm(f, weight, bias, eps):
    """Batch norm with one mean and variance for each field of f (B, C, n, H, W)."""
    ### BEGIN SOLUTION
    centred = f - f.mean(dim=(0, 2, 3, 4), keepdim=True)
    variance = centred.square().mean(dim=(0, 2, 3, 4))
    scale = weight / torch.sqrt(variance + eps)
    return centred * scale[:, None, None, None] + bias[:, None, None, None]
    ### END SOLUTION

# %%
group_convolutions.GROUP_BATCH_NORM.check(group_batch_norm)

# %%
# group_convolutions.GROUP_BATCH_NORM.hint()

# %% nbgrader={"grade_id": "group-batch-norm-grade", "grade": true, "points": 2}
group_convolutions.GROUP_BATCH_NORM.grade(group_batch_norm)

# %% [markdown]
# So what is wrong with normalising each plane on its own? Test it as you have tested everything: turn the batch,
# and compare.

# %%
question_trap = predict(
    "Lift a batch, normalise each plane on its own, and compare with the turned batch. Is the error more than rounding?",
    options=["yes, planes have changed places", "no, it is rounding"],
)

# %%
normalise = use(group_convolutions.GROUP_BATCH_NORM, group_batch_norm)
tiles = real.unfold(2, 64, 64).unfold(3, 64, 64)[0, :, :, :3].permute(1, 2, 0, 3, 4).reshape(-1, 3, 64, 64)
one, zero = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)


def by_field(f):
    return normalise(f, one, zero, 1e-5)


def by_plane(f):
    """Every plane is a channel of its own."""
    return F.batch_norm(f.flatten(1, 2), None, None, training=True).unflatten(1, f.shape[1:3])


batch = lifted(tiles, w1, 8)
turned_batch = moved(batch, 1, table, inverse)
whole = {
    name: relative(norm(turned_batch), moved(norm(batch), 1, table, inverse))
    for name, norm in (("one mean a field", by_field), ("one mean a plane", by_plane))
}
print(f"{len(tiles)} tiles of real tissue, the whole batch turned:")
for name, error in whole.items():
    print(f"  {error:8.0e}  {name}")

# %%
question_trap.reveal(
    "no, it is rounding" if whole["one mean a plane"] < 1e-9 else "yes, planes have changed places",
    because="The planes change places, but their means change places with them. This test does not see the trap. Two others "
    "do.",
)

# %% [markdown]
# In a real batch every picture lies in a pose of its own, so turn *one* of them. And at test time batch norm uses
# running means, kept from training, which stay where they are.

# %%
def only_first_turned(f):
    return torch.cat([moved(f[:1], 1, table, inverse), f[1:]])


def with_kept_means(field, axes):
    """What batch norm does at test time: means and variances of the training batch, by field or by plane."""
    mean, variance = batch.mean(axes, keepdim=True), batch.var(axes, unbiased=False, keepdim=True)
    return (field - mean) / torch.sqrt(variance + 1e-5)


print("error of training, one picture of the batch turned, in (a) that picture and (b) the others;")
print("and (c) of test time with kept means, all pictures turned")
print(f"{'':22} {'(a)':>10} {'(b)':>10} {'(c)':>10}")
for name, norm, axes in (
    ("one mean a field", by_field, (0, 2, 3, 4)),
    ("one mean a plane", by_plane, (0, 3, 4)),
):
    mixed, plain = norm(only_first_turned(batch)), norm(batch)
    first = relative(mixed[:1], moved(plain[:1], 1, table, inverse))
    others = relative(mixed[1:], plain[1:])
    later = relative(with_kept_means(turned_batch, axes), moved(with_kept_means(batch, axes), 1, table, inverse))
    print(f"{name:22} {first:10.0e} {others:10.0e} {later:10.0e}")

# %% [markdown]
# With one mean a plane the other pictures change because a neighbour was turned, and at test time the turned
# tissue meets means that belong to other poses. A test that turns the whole batch in training mode finds neither.
# Weights and biases that differ from plane to plane break it in the same way. The rule is short: *whatever is
# computed from planes or applied to planes must be the same for all planes of a field.*
#
# ## 7. The size contract
#
# The other place where equivariance dies in silence is the size of the picture. A pooling with stride 2 looks at
# every other window. From which end does it start? From the left. If the windows do not end exactly at the right
# edge, then after a half turn they lie elsewhere on the tissue: all of them, over the whole picture.
#
# In the exercise and the figure below n is a number of pixels, and no longer of poses.

# %% [markdown]
# ### Exercise 8: the size contract (2 points)
#
# Write `exact_sizes(steps, largest)`: the sizes of square pictures for which a chain of windowed steps follows a turn
# exactly.
#
# - `steps`: a list of (kernel, stride, padding), one for each convolution or pooling, in order. A step takes a grid of n ×
#   n pixels, adds `padding` pixels on each of its four sides, and lays its first window on the first pixel; the next ones
#   follow every `stride` pixels as long as they fit. Each window gives one pixel of the next grid.
# - A step is exact on a grid if at least one window fits and the last window ends on the last pixel (of the padded grid):
#   then the windows lie alike from both ends. A size is exact if every step is exact on the grid that reaches it.
# - kernel and stride are at least 1, padding at least 0. `largest`: a whole number, at least 1.
# - Returns a list of whole numbers, rising: every exact size (of the picture, before the first step) from 1 to `largest`,
#   both included. `steps` itself stays as it is.

# %% nbgrader={"grade_id": "exact-sizes", "solution": true}
def exact_sizes(steps, largest):
    """Sizes from 1 to largest at which every (kernel, stride, padding) of steps follows a turn exactly."""
    ### BEGIN SOLUTION
    sizes = []
    for size in range(1, largest + 1):
        n, exact = size, True
        for kernel, stride, padding in steps:
            left = n + 2 * padding - kernel
            exact = exact and left >= 0 and left % stride == 0
            n = left // stride + 1
        if exact:
            sizes.append(size)
    return sizes
    ### END SOLUTION

# %%
group_convolutions.EXACT_SIZES.check(exact_sizes)

# %%
# group_convolutions.EXACT_SIZES.hint()

# %% nbgrader={"grade_id": "exact-sizes-grade", "grade": true, "points": 2}
group_convolutions.EXACT_SIZES.grade(exact_sizes)

# %%
question_320 = predict(
    "A U-Net is a network for segmentation that goes down to coarse grids and up again. That of Linmans et al. pools four "
    "times, each with a window of 3, stride 2 and padding 1, and takes pictures of 320 pixels. Does that commute with a "
    "quarter turn?",
    options=["yes, 320 is divisible by 16", "no, a pixel is missing", "no, 15 pixels are missing"],
)

# %%
contract = use(group_convolutions.EXACT_SIZES, exact_sizes)
chains = {
    "window 3, stride 2, padding 1, four times": [(3, 2, 1)] * 4,
    "3 × 3 without padding, then pooling by 2; twice": [(3, 1, 0), (2, 2, 0)] * 2,
}
w_in, w_mid = filters(1, 3, 3, 3), filters(1, 1, 8, 3, 3)


def pooled_four_times(x):
    y = torch.relu(lifted(x, w_in, 8))
    y = F.pad(y, (1, 1, 1, 1))  # the lifting took one pixel from each side
    for _ in range(4):
        y = F.max_pool3d(y, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    return y


def convolved_and_pooled_twice(x):
    y = F.avg_pool3d(torch.relu(lifted(x, w_in, 8)), (1, 2, 2))
    return F.avg_pool3d(torch.relu(convolve(y, w_mid, table, inverse)), (1, 2, 2))


panels = {}
for (title, steps), f, sizes in zip(
    chains.items(), (pooled_four_times, convolved_and_pooled_twice), (range(80, 116), range(18, 46)), strict=True
):
    errors = []
    for size in sizes:
        x = real[..., :size, :size]
        errors.append(relative(f(move(x, 1)), moved(f(x), 1, table, inverse)))
    panels[title] = list(sizes), errors, contract(steps, sizes[-1])
exact = [[n for n in good if n >= min(sizes)] for sizes, _, good in panels.values()]
broken = min(e for sizes, errors, good in panels.values() for n, e in zip(sizes, errors, strict=True) if n not in good)
show(
    draw.error_by_size(panels),
    alt="Two panels of errors under a quarter turn against the side of the picture, on a logarithmic axis. Only at the "
    f"sizes in the list is the error at the bottom: {exact[0]} for four poolings with window 3, and {exact[1]} for two "
    f"convolutions with poolings by 2. At all other sizes it is {broken:.0e} and more.",
)
near_320 = contract([(3, 2, 1)] * 4, 340)[-2:]
print(f"sizes near 320 that four such poolings take exactly: {near_320}")

# %%
question_320.reveal(
    "no, a pixel is missing" if 321 in near_320 else "yes, 320 is divisible by 16",
    because="A window of 3 with padding 1 wants an odd size at every level: 321, 161, 81, 41, 21. At 320 every pooling leaves one "
    "row of the padded grid over, at the right and at the bottom. Turn the picture, and that row is left over at another side "
    "of the tissue: every window now sits one pixel off. So not only a border row differs, but the whole map, and four "
    "poolings add up. Windows of 2 would want multiples of 16.",
)

# %% [markdown]
# A square in a ring is a contract kept. Everywhere else stand the same weights and the same layers, and an error
# that no rounding explains. Where does it sit? Measure it on the whole map, and without five rows and columns on each
# side. And see what the library does with such a size.

# %%
for size in (96, 97):
    x = lifted(real[..., : size + 2, : size + 2], w_in, 8)
    pooled, of_turned = (F.max_pool3d(y, (1, 3, 3), (1, 2, 2), (0, 1, 1)) for y in (x, moved(x, 1, table, inverse)))
    expected, inner = moved(pooled, 1, table, inverse), (..., slice(5, -5), slice(5, -5))
    print(
        f"one pooling at {size} px: error {relative(of_turned, expected):.0e} on the whole map, "
        f"{relative(of_turned[inner], expected[inner]):.0e} without its border"
    )
try:
    densenet.P4MDenseNet(3, 1, 2)(torch.zeros(1, 3, 100, 100))
except ValueError as refusal:
    print("equipath at 100 px:", refusal)
padding_net = densenet.P4MDenseNet(3, 1, 2, dense=True, pad_to_valid=True)
print("with pad_to_valid its map of answers is", tuple(padding_net(torch.zeros(1, 3, 100, 100)).shape[2:]), "pixels")

# %% [markdown]
# ## 8. Back to the plane
#
# At the end a segmentation needs maps, and a diagnosis needs a number. Neither has poses. The simple way is
# *group pooling*: the mean or the maximum over the n planes. [Linmans et al.
# 2018](https://arxiv.org/abs/1807.00583) proposed a second way, a convolution from G to Z². One planar filter;
# plane h sees it moved by h; add up. Pooling asks "was there an edge, in any pose?". This asks "was there an edge
# that points *here*?".

# %% [markdown]
# ### Exercise 9: from the group back to the plane (2 points)
#
# Write `to_plane(f, w)`: the convolution G → Z², from the group back to the grid of pixels. One planar filter for each pair
# of channels; plane h of the field sees it moved by h, and the planes are added up:
#
# $$y_{b,o} = \sum_{h} \sum_i f_{b,i,h} \star (h\, w_{o,i})$$
#
# ⋆ is what `F.conv2d` computes: stride 1, no padding.
#
# - `f`: float tensor (B, I, n, H, W), n = 4 or 8. `w`: float tensor (O, I, k, k), same dtype, any k ≥ 1 that fits.
# - `move(w, h)`, given, moves the two last axes by element h.
# - Returns planar maps (B, O, H − k + 1, W − k + 1), dtype as in `f`. Neither input is changed.

# %% nbgrader={"grade_id": "to-plane", "solution": true}
def to_plane(f, w):
    """Field f (B, I, n, H, W) to planar maps (B, O, H', W'): plane h sees the filter w moved by h."""
    ### BEGIN SOLUTION
    return torch.stack([F.conv2d(f[:, :, h], move(w, h)) for h in range(f.shape[2])]).sum(dim=0)
    ### END SOLUTION

# %%
group_convolutions.TO_PLANE.check(to_plane)

# %%
# group_convolutions.TO_PLANE.hint()

# %% nbgrader={"grade_id": "to-plane-grade", "grade": true, "points": 2}
group_convolutions.TO_PLANE.grade(to_plane)

# %% [markdown]
# What is that good for? Let edges vote for the middle of a nucleus. Our edge filter answers where it is dark
# above. If a nucleus has a radius of 5 pixels, then its middle lies 5 pixels above. So: lift with the edge
# filter, and carry every response 5 pixels along its pose. In the G → Z² layer that is a filter with a single 1.
# After group pooling nobody knows any more where "above" was, and all one can do is to carry the responses out in
# all directions alike. We try both on a vector slide, a section that is drawn from shapes, so that we know the
# middle of every nucleus (yellow rings; the filters do not see them).

# %%
question_vote = predict(
    "On which map do the middles of nuclei stand out more from the rest?",
    options=["group pooling, then a ring", "G → Z² with one tap"],
)

# %%
project = use(group_convolutions.TO_PLANE, to_plane)
colon = Slide(seed=first_unet.TEST_SEEDS + 2, kind="colon")
view = colon.render(Grid(center=(-200.0, 100.0), size=(96, 96), mpp=0.5))
ids = [k for k in view.nuclei.unique() if k > 0]
middles = torch.stack([(view.nuclei == k).nonzero().double().mean(0) for k in ids])
radius = 5

y_up, x_right = torch.meshgrid(torch.arange(2.0, -3.0, -1.0), torch.arange(-2.0, 3.0), indexing="ij")
edge = (y_up * torch.exp(-(x_right**2 + y_up**2) / 2)).double()[None, None]  # dark above, bright below
edges = torch.relu(lifted(1 - view.image[None].mean(1, keepdim=True).double(), edge, 8))
tap = torch.zeros(1, 1, 2 * radius + 1, 2 * radius + 1, dtype=torch.float64)
tap[0, 0, 2 * radius, radius] = 1  # the response is fetched from below, that is, carried upwards
ring = torch.stack([move(tap, g) for g in range(8)]).mean(0)
votes = {
    "group pooling, then a ring": F.conv2d(edges.mean(2), ring)[0, 0],
    "G → Z² with one tap": project(edges, tap)[0, 0],
}


def stands_out(votes):
    """How far the map lies above its mean at the middles, in standard deviations."""
    border = (96 - votes.shape[0]) // 2
    at = middles.round().long() - border
    at = at[((at >= 0) & (at < votes.shape[0])).all(1)]
    return float((votes[at[:, 0], at[:, 1]].mean() - votes.mean()) / votes.std())


show(
    draw.maps_in_a_row(view.image, votes, middles, um_per_px=0.5),
    alt="A drawn tile of colon with the middles of its nuclei marked by rings, and two maps of votes. At the middles, in "
    "standard deviations above the mean of the map: "
    + "; ".join(f"{name}, {stands_out(values):.1f}" for name, values in votes.items())
    + ".",
)
for name, values in votes.items():
    print(f"{stands_out(values):5.1f} standard deviations above the mean at the middles of nuclei: {name}")
turned_votes = project(moved(edges, 5, table, inverse), tap)
print(f"mirrored and turned, the votes move along: error {relative(turned_votes, move(project(edges, tap), 5)):.0e}")

# %%
question_vote.reveal(
    max(votes, key=lambda name: stands_out(votes[name])),
    because="The poses are information. Group pooling throws them away before they were used; the G → Z² convolution uses them up. "
    "(A pooling at the very end of a deep network loses less, because earlier layers have already compared the poses.)",
)

# %% [markdown]
# ## 9. P4M-DenseNet
#
# Time to build. Veeling et al. classify patches of 96 × 96 pixels: is there tumour in the middle? Their network
# never pads, so that a patch gives the same answer alone and as a part of a slide, and every grid on the way is
# of an exact size:
#
# 96 → 94 → 92 → 46 → 44 → 22 → 20 → 10 → 8 → 4 → 2 → 1.
#
# It is a stem (lifting, 3 × 3) and five times the same step. A *dense* block puts the output of its layer beside
# its input, so that nothing found early is lost; without padding the input must be cut to size first. A
# transition (1 × 1) mixes them, and a pooling halves the grid.

# %% [markdown]
# ### Exercise 10: a dense step (2 points)
#
# Write `dense_step(f, layer, transition)`: one dense block and its transition, the piece of which P4M-DenseNet is made.
#
# - `f`: float tensor (B, C, n, H, W). `layer` and `transition`: functions from a field to a field. `layer` gives new fields
#   (B, C', n, H − 2b, W − 2b), for some b ≥ 1: it convolves without padding. `transition` keeps rows and columns.
# - First the new fields: `layer` of f. Then f, cut to the size of the new fields (its middle: b rows and columns less on
#   each side), and after it on axis 1 the new fields. Then `transition` of both together. Last the mean over each 2 × 2
#   pixels, plane by plane.
# - Call `layer` and `transition` once each, and hand them just that. Both may hold a batch norm in training: it takes its
#   means over every pixel that it is given, and notes them down at each call.
# - H and W may differ; H − 2b and W − 2b are even.
# - Returns (B, C'', n, (H − 2b)/2, (W − 2b)/2), where C'' is what `transition` makes, dtype as in `f`. Gradients flow to
#   `f`, by way of both functions. `f` itself stays as it is.

# %% nbgrader={"grade_id": "dense-step", "solution": true}
def dense_step(f, layer, transition):
    """A dense block, its transition and 2 x 2 mean pooling: field (B, C, n, H, W) to a smaller one."""
    ### BEGIN SOLUTION
    new = layer(f)
    border = (f.shape[-1] - new.shape[-1]) // 2
    old = f[..., border : f.shape[-2] - border, border : f.shape[-1] - border]
    y = transition(torch.cat([old, new], dim=1))
    return F.avg_pool2d(y.flatten(1, 2), 2).unflatten(1, y.shape[1:3])
    ### END SOLUTION

# %%
group_convolutions.DENSE_STEP.check(dense_step)

# %%
# group_convolutions.DENSE_STEP.hint()

# %% nbgrader={"grade_id": "dense-step-grade", "grade": true, "points": 2}
group_convolutions.DENSE_STEP.grade(dense_step)

# %% [markdown]
# The modules below hold the weights, and do nothing but call your functions. The names of the parameters are
# those of the library, so that weights can be exchanged.

# %%
step = use(group_convolutions.DENSE_STEP, dense_step)


def weights_of(*shape):
    """Uniform, at the scale that torch uses for a convolution with so many inputs."""
    bound = torch.Size(shape[1:]).numel() ** -0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class Lift(nn.Module):
    def __init__(self, c_in, c_out, k):
        super().__init__()
        self.weight = weights_of(c_out, c_in, k, k)

    def forward(self, x):
        return lifted(x, self.weight, 8)


class GroupConv(nn.Module):
    def __init__(self, c_in, c_out, k):
        super().__init__()
        self.weight = weights_of(c_out, c_in, 8, k, k)

    def forward(self, f):
        taps = bank(self.weight, table, inverse)
        return F.conv2d(f.flatten(1, 2), taps).unflatten(1, (len(self.weight), 8))


class GroupBatchNorm(nn.BatchNorm3d):
    """Its parameters and running means; in training the numbers are yours."""

    def forward(self, f):
        if not self.training:
            return super().forward(f)
        with torch.no_grad():
            self.running_mean.lerp_(f.mean((0, 2, 3, 4)), self.momentum)
            self.running_var.lerp_(f.var((0, 2, 3, 4)), self.momentum)
            self.num_batches_tracked += 1
        return normalise(f, self.weight, self.bias, self.eps)


class DenseStep(nn.Module):
    def __init__(self, fields, growth):
        super().__init__()
        more = fields + growth
        self.layer = nn.Sequential(GroupBatchNorm(fields), nn.ReLU(), GroupConv(fields, growth, 3))
        self.transition = nn.Sequential(GroupBatchNorm(more), nn.ReLU(), GroupConv(more, more, 1))

    def forward(self, f):
        return step(f, self.layer, self.transition)


class GroupPool(nn.Module):
    def forward(self, f):
        return f.mean(2)


class YourP4MDenseNet(nn.Module):
    def __init__(self, growth):
        super().__init__()
        self.stem = Lift(3, growth, 3)
        self.steps = nn.Sequential(*(DenseStep(growth * (k + 1), growth) for k in range(5)))
        fields = 6 * growth
        self.head = nn.Sequential(GroupBatchNorm(fields), nn.ReLU(), GroupPool(), nn.Conv2d(fields, 1, 1))

    def forward(self, x):
        return self.head(self.steps(self.stem(x))).mean((2, 3))


whole_chain = [(3, 1, 0)] + [(3, 1, 0), (1, 1, 0), (2, 2, 0)] * 5
print(f"sizes up to 200 that it takes exactly: {contract(whole_chain, 200)}")
grid, shapes = torch.zeros(1, 3, 96, 96), []
net = YourP4MDenseNet(2).eval()
with torch.no_grad():
    field = net.stem(grid)
    shapes.append(tuple(field.shape[1:]))
    for block in net.steps:
        field = block(field)
        shapes.append(tuple(field.shape[1:]))
print("fields, planes, rows, columns: " + " → ".join(map(str, shapes)))
full = YourP4MDenseNet(8)
learned = [count("lift", 3, 8, 3, 8)[0]] + [
    count("group", 8 * (k + 1), 8, 3, 8)[0] + count("group", 8 * (k + 2), 8 * (k + 2), 1, 8)[0] for k in range(5)
]
print(f"at the paper's growth of 8: {count_parameters(full)} weights (published: 119K)")
print(f"of them {sum(learned)} in group convolutions, by your count")

# %% [markdown]
# ### Cross-check
#
# Your weights into the library's network: the same numbers must come out. And the network as a whole: eight poses
# of a patch, one answer.

# %%
tissue_patch = F.interpolate(real.float(), size=(96, 96), mode="bilinear", antialias=True, align_corners=False)
library_net = densenet.P4MDenseNet(3, 1, 2)
library_net.load_state_dict(net.state_dict())
patches8 = torch.cat([move(tissue_patch, g) for g in range(8)]).double()
train_batch = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(7))
with torch.no_grad():
    eight_answers = net.double().eval()(patches8)
    apart = relative(library_net.double().eval()(patches8), eight_answers)
    in_training = relative(library_net.float().train()(train_batch), net.float().train()(train_batch))
    mean_apart = max(
        float((a - b).abs().max()) for a, b in zip(net.state_dict().values(), library_net.state_dict().values(), strict=True)
    )
print(f"your network against equipath's: {apart:.0e} apart at test time, {in_training:.0e} in training")
print(f"running means after that pass: {mean_apart:.0e} apart")
print(f"eight poses of one patch: {eight_answers.std():.0e} standard deviation, answers about {eight_answers.mean():.3f}")


def one_training_step(network, x):
    loss = F.binary_cross_entropy_with_logits(network(x)[:, 0], torch.ones(len(x)))
    network.zero_grad()
    loss.backward()


patches4 = torch.rand(4, 3, 96, 96)
nets = {"yours": net.train(), "equipath": library_net.train(), "plain DenseNet, about as many weights": densenet.DenseNet(3, 1, 6)}
for name, network in nets.items():
    took = milliseconds(lambda network=network: one_training_step(network, patches4), 2)
    print(f"{took:7.0f} ms a training step of 4 patches: {name}, {count_parameters(network)} weights")

# %% [markdown]
# ## 10. Use it: is there tumour in the middle?
#
# The data are drawn patches of lymph node, with and without tumour in the middle third, in the manner of
# PatchCamelyon: 96 pixels of 0.97 µm. If you have the real PatchCamelyon (`equipath data fetch pcam` tells how),
# put `"pcam"` in the first line, and the same cells read it.
#
# Three networks of nearly equally many weights: yours, a plain DenseNet, and a plain DenseNet that sees every
# patch in a random pose (+). Patients differ in their stain, and stain is no symmetry of these networks. So all
# three see every patch in a random one: each colour is raised to a power of its own. Each network trains for 36
# steps: some seconds for a plain one, half a minute or more for yours, as the times above foretell (equally many
# weights make 16 maps a layer in yours, and 6 in the plain one). That is far less than any of them needs. The loss
# is the binary cross-entropy, −log of the probability that the network gave to the truth. Adam is gradient
# descent with a step length of its own for every weight, and the learning rate rises and falls once over the run.
#
# After so few steps there is one more thing to do. At test time batch norm uses running means, and in each step
# they go only a tenth of the way to the new ones. So a good part of them still comes from weights that the network no
# longer has, and the answers can be no better than chance though the loss has fallen. `settle` takes them anew, with
# the weights as they now are, from training patches, for all three networks alike.

# %%
question_who = predict(
    "Which will have the highest AUC on patients that none of them has seen?",
    options=["P4M-DenseNet", "DenseNet", "DenseNet+"],
)

# %%
DATA = "slides"  # or "pcam"
settings = replace(pcam.SMALL, patients=24, per_patient=8, test=96)
share = 1.0 if DATA == "slides" else 192 / len(load(DATA, "tumour", "train"))
train_images, train_labels, _ = pcam.patches(DATA, "train", settings, share)
test_images, test_labels, _ = pcam.patches(DATA, "test", settings)
tumours = 100 * test_labels.float().mean()
print(f"{len(train_images)} patches to learn from, {len(test_images)} to test, {tumours:.0f} % of them with tumour")


def train(network, steps=36, batch=16, peak=1e-2, augmented=False, seed=0):
    """Adam with one cycle of the learning rate; returns the losses."""
    chance = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=peak)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps)
    network.train()
    losses = []
    for number in range(1, steps + 1):
        chosen = torch.randint(len(train_images), (batch,), generator=chance)
        x, y = train_images[chosen].float() / 255, train_labels[chosen].float()
        if augmented:
            poses = torch.randint(8, (batch,), generator=chance).tolist()
            x = torch.stack([move(picture, g) for picture, g in zip(x, poses, strict=True)])
        stain = torch.empty(batch, 3, 1, 1).uniform_(-0.7, 0.7, generator=chance).exp()
        x = x**stain
        loss = F.binary_cross_entropy_with_logits(network(x)[:, 0], y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if number % 12 == 0:
            print(f"  step {number:2d} of {steps}   loss {sum(losses[-12:]) / 12:.3f}", flush=True)
    settle(network, chance)
    return losses


@torch.no_grad()
def settle(network, chance):
    """Batch norm's running means and variances anew, the plain mean over four batches of training patches."""
    network.train()
    order = torch.randperm(len(train_images), generator=chance)[:192]
    for number, chosen in enumerate(order.chunk(4), start=1):
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 1 / number
        stain = torch.empty(len(chosen), 3, 1, 1).uniform_(-0.7, 0.7, generator=chance).exp()
        network((train_images[chosen].float() / 255) ** stain)
    network.eval()


def scores(network):
    """NLL, accuracy and AUC on the test patches, and how much a quarter turn changes the probability."""
    p = pcam.probabilities(network, test_images)
    q = pcam.probabilities(network, move(test_images, 1))
    values = p.double().numpy(), test_labels.numpy()
    return nll(*values), 100 * accuracy(*values), 100 * auc(*values), float((p - q).abs().mean())


trained, curves, measured, took = {}, {}, {}, {}
for name, make, augmented in (
    ("P4M-DenseNet", lambda: YourP4MDenseNet(2), False),
    ("DenseNet", lambda: densenet.DenseNet(3, 1, 6), False),
    ("DenseNet+", lambda: densenet.DenseNet(3, 1, 6), True),
):
    torch.manual_seed(0)
    print(name)
    start = time.perf_counter()
    trained[name] = make()
    curves[name] = train(trained[name], augmented=augmented)
    took[name] = time.perf_counter() - start
    measured[name] = scores(trained[name])

# %%
print(f"{'':16} {'weights':>8} {'s':>5} {'NLL':>6} {'accuracy':>9} {'AUC':>6} {'90° change':>11}")
for name, (loss, right, area, turn) in measured.items():
    print(
        f"{name:16} {count_parameters(trained[name]):8} {took[name]:5.1f} {loss:6.3f} {right:9.1f} {area:6.1f} {turn:11.0e}"
    )

# %%
question_who.reveal(
    max(measured, key=lambda name: measured[name][2]),
    because=f"The three AUCs are {', '.join(f'{v[2]:.0f}' for v in measured.values())}. Do not believe the order: "
    f"{len(test_images)} patches, 36 steps, one seed; each of them can change it. Believe the last column. "
    "P4M-DenseNet's answer does not depend on the pose, trained well or badly. For the plain networks a turn is a new picture.",
)

# %% [markdown]
# ### Longer runs, and the papers
#
# Below are the papers' numbers beside the runs that are stored with the course. "pcam" is real tissue, 8000 patches of
# PatchCamelyon; "ebhi" is real labelled tissue of the colon. These runs are small, too: narrower networks, and a
# training that draws a few thousand pictures where the paper's draws two million. `equipath run pcam` and `equipath
# run gunet` make more of them.

# %%
print("Patches: tumour or not   published   | stored runs, real PCam, all patches")
print(f"{'':14} {'NLL':>6} {'acc.':>5} {'AUC':>5}   | {'NLL':>13} {'accuracy':>11} {'AUC':>11} {'runs':>5}")
stored = pcam.stored("pcam")
for arm, (loss, right, area) in pcam.PUBLISHED.items():
    runs = [r for r in stored if r["config"]["model"] == arm]
    if runs:
        ours = [results.cell(runs, *what) for what in (("nll", 3), ("accuracy", 1, 100), ("auc", 1, 100))]
        text = f"{ours[0]:>13} {ours[1]:>11} {ours[2]:>11} {len(runs):5}"
        print(f"{arm:14} {loss:6.3f} {right:5.1f} {area:5.1f}   | {text}")
print()
print("Segmentation: Dice in percent, by share of the training patients")
print(f"{'':12} {'published (PCam, 320²)':>26}   | stored runs (EBHI), mean of seeds")
stored = results.load("gunet", data="ebhi")
shares = (1.0, 0.5, 0.25, 0.125)
heads = " ".join(f"{f'{100 * s:g} %':>6}" for s in shares)
print(f"{'':12} {heads}   | {heads}")
for arm in ("P4M U-Net", "U-Net+", "U-Net+ long"):
    cells = [gunet.PUBLISHED.get(arm, {}).get(s) for s in shares]
    for s in shares:
        found = [r for r in stored if r["config"]["model"] == arm and r["config"]["fraction"] == s]
        cells.append(100 * sum(r["metrics"]["dice"] for r in found) / len(found) if found else None)
    text = [f"{'–' if c is None else f'{c:.1f}':>6}" for c in cells]
    print(f"{arm:12} " + " ".join(text[:4]) + "   | " + " ".join(text[4:]))

# %% [markdown]
# In the papers the equivariant network is best in every column, in segmentation at every share of the data. Ours
# are runs of minutes on two cores, a few of each, and their order is weak evidence. On all patches, when this was
# written, P4M-DenseNet and the plain networks stood within what two seeds differ by: hardly a patch comes twice in a
# training of 300 steps, so to need few examples is of little use. On 125 patches, which come again and again, it
# stood ahead on both seeds, by some three points of AUC. Each network stands here at the learning rate that is best
# for it on validation patches. With one rate for all, the order had been that of the rates: before you say that one
# network is better, ask whether each was trained at its own.
# In segmentation it stands ahead at equal steps, and one row tells more: *U-Net+ long* is the same plain
# network, trained three times as long, which costs about the time of a P4M U-Net. When this was written it stood a
# point ahead of P4M U-Net. So what the symmetry bought here was steps: nearly as far with a third of them. The
# numbers do not say that equivariance always pays. They do not touch that it always holds.
#
# ## 11. What p4m does not promise
#
# The contract covers eight poses. Tissue lies at every angle. Veeling et al. turned a slide below 90° in 32 steps
# and found their network steadier than the plain one, also at angles that are not in the group. Is that a
# promise? We render patches of tissue anew at every angle, so nothing is interpolated, and ask how far the
# probability moves from that at 0°.

# %%
question_below = predict(
    "At which angle will the answer of P4M-DenseNet move most?",
    options=["at 90°", "somewhere between 0° and 90°", "it moves at no angle"],
)

# %%
def rendered(angle=0.0, mpp=pcam.MPP, size=96):
    """The same 16 places of unseen patients, rendered at an angle and a scale."""
    places = load("slides", "tumour", "test", patients=8, per_patient=2, size=size, mpp=mpp, angle=angle)
    items = places.__getitems__(range(len(places)))
    return torch.stack([item["image"] for item in items])


def moves_by(network, images):
    return float((pcam.probabilities(network, images) - pcam.probabilities(network, rendered_upright)).abs().mean())


angles = [0, 15, 30, 45, 60, 75, 90]
at_angle = {angle: rendered(angle) for angle in angles}
rendered_upright = at_angle[0]
by_angle = {name: [moves_by(network, at_angle[a]) for a in angles] for name, network in trained.items()}
show(
    draw.curves(angles, by_angle, "angle of the tissue (°)", "mean change of the probability"),
    alt="Mean change of the probability of tumour against the angle of the tissue, for three networks. "
    + "; ".join(f"{name} {values[3]:.3f} at 45 and {values[-1]:.3f} at 90 degrees" for name, values in by_angle.items())
    + ".",
)

# %%
worst = max(range(len(angles)), key=lambda k: by_angle["P4M-DenseNet"][k])
question_below.reveal(
    "at 90°" if angles[worst] == 90 else "somewhere between 0° and 90°",
    because=f"It is back to rounding at 90° ({by_angle['P4M-DenseNet'][-1]:.0e}), and in between nothing holds it: here it moves "
    f"most at {angles[worst]}°. Between 0° and 90° a pixel grid has no other turns to be exact for.",
)

# %%
wide = rendered(size=104)
centre = slice(4, 100)
changes = {
    "a quarter turn": move(rendered_upright, 1),
    "a mirror": move(rendered_upright, 4),
    "45°": at_angle[45],
    "a shift by 1 px": wide[..., centre, 5:101],
    "a shift by 4 px": wide[..., centre, 8:104],
    "tissue 10 % larger": rendered(mpp=pcam.MPP / 1.1),
    "darker stain": rendered_upright**1.3,
}
print(f"{'mean change by':20} " + " ".join(f"{name:>14}" for name in trained))
for words, images in changes.items():
    print(f"{words:20} " + " ".join(f"{moves_by(network, images):14.1e}" for network in trained.values()))
spread = [float(pcam.probabilities(network, rendered_upright).std()) for network in trained.values()]
print(f"{'std over patches':20} " + " ".join(f"{value:14.1e}" for value in spread))

# %% [markdown]
# Read the table row by row. Two rows are a theorem: quarter turns and mirrors, exactly, before and after any
# training. All other rows are experience. Between the angles the network may be steadier than a plain one,
# because it cannot prefer one of the eight poses; but no equation says so, and on other weights it may come out
# otherwise. A shift by one pixel is not covered either: after five poolings, only shifts by 32 pixels are, and
# those only in a map of answers. Scale is nobody's business here, and stain was left to training. (The last line
# says how much the answers differ from patch to patch; a network that always answers the same would be steady,
# too.)
#
# A group with more angles shortens the gap between two poses, at the price of more planes and of interpolated
# filters. The steerable kernels of lesson 2 close it, up to what sampling breaks. For scale, another lesson
# follows.
#
# ## 12. In your own words
#
# Two questions that no function can check. They are read by a person. Three to six sentences each.
#
# **Question A (3 points).** A colleague has built a P4M U-Net: every convolution is a group convolution, batch
# norm normalises each of the 8 · C maps on its own, and it pools four times with windows of 3, stride 2 and one
# pixel of padding. Her test turns a whole batch of pictures of 321 pixels, in training mode, and finds an error
# of $10^{-6}$. In the hospital, on tiles of 320 pixels, the answer changes when a tile is turned. Name the two
# causes, say for each why her test did not see it, and how to test for it.

# %% [markdown] nbgrader={"grade_id": "question-flicker", "grade": true, "solution": true, "points": 3}
# ### BEGIN SOLUTION
# First: batch norm by map. When the whole batch is turned in training mode, each map takes its mean along to its
# new place, so the test sees nothing. At test time the running means stay with their places, and in a mixed batch
# one turned picture changes the means of the others. Test in evaluation mode after some training steps, or turn a
# single picture of a batch. Repair: one mean and variance for all planes of a field. Second: the size. 321 is an
# exact size for four such poolings (16 n + 1); at 320 a row is left over at each level, at another side of the
# turned tissue, so that every window sits one pixel off. Test at the size that is used; repair by padding to 321 or
# by windows of 2.
#
# *Rubric. 1 point: batch norm by plane, with the reason why whole batches in training mode hide it. 1 point: the
# size contract, 320 against 321. 1 point: a test that would have shown each (evaluation mode or one picture
# turned; the real size).*
# ### END SOLUTION

# %% [markdown]
# **Question B (2 points).** "P4M-DenseNet is more robust to rotations below 90°, so it has learned full rotation
# invariance." What in this sentence is measured, what is not true, and what would you change to be invariant at
# 45° as well? Name the price.

# %% [markdown] nbgrader={"grade_id": "question-below", "grade": true, "solution": true, "points": 2}
# ### BEGIN SOLUTION
# Measured, in the paper and perhaps here, is that the answers vary less between 0° and 90° than those of a plain
# network, for some weights and tissue. That is no invariance: at 45° the answer moves, nothing in the layers
# forbids it, and it was not learned either: the exact part is built in and holds for the eight poses only. To
# include 45° one takes a group with more angles (8 turns, 16 with mirrors) or steerable filters: more planes or
# kernels, filters between the pixels that must be interpolated or band-limited, so exactness is lost to sampling;
# or one averages over rotated copies at test time and pays for each.
#
# *Rubric. 1 point: less variation is an observation, exactness holds for the eight elements only. 1 point: a
# remedy with its price.*
# ### END SOLUTION

# %% [markdown]
# ## What you can do now
#
# You can lift a picture to a feature map on p4 or p4m, say how such a map moves, and convolve it with the next.
# You can write the layer as one convolution, count what it shares, and you know two traps that a careless test
# does not see: means that belong to planes, and sizes that leave a row over. You can go back to the plane with
# the poses used, and not thrown away. You have built a network from the literature out of your own functions, and
# it gives the library's numbers.
#
# **What is open.** *Linmans et al.* leave open how much of the gain is the symmetry and how much the larger
# number of maps at equal weights; our stored runs raise the question of training time beside it. *Veeling et al.*
# ask what continuous rotations would add to tissue; their own figure shows p4m steadier below 90°, without a
# reason. Both compare networks by one number from one training. And the bank costs as much as a plain network of
# 8 · C maps: how far can one get below that? The starred section is one answer, for deep layers.
#
# **Where to read on.** [Cohen & Welling 2016](https://arxiv.org/abs/1602.07576): the paper that began it; read
# sections 4 to 6 with your functions beside them. [Veeling et al. 2018](https://arxiv.org/abs/1806.03962) and
# [Linmans et al. 2018](https://arxiv.org/abs/1807.00583): the two experiments of this lesson. [Weiler & Cesa
# 2019](https://arxiv.org/abs/1911.08251): groups with more angles, compared.
