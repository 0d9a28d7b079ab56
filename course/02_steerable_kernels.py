# ---
# jupyter:
#   coursekit:
#     title: Arrows that turn with the tissue
#     minutes: 120
#     run_minutes: 3
#     ram_mb: 1600
#     download_mb: 0
#     objectives:
#       - "Move a vector field by every element of p4m: the pixels go elsewhere, and the arrows turn."
#       - Derive the constraint on a kernel, and test any kernel against it.
#       - Solve the constraint for maps between scalar and vector fields.
#       - Count the kernels that a group allows, and say what mirrors forbid.
#       - Sample a kernel on the pixel grid, and measure what sampling breaks.
#       - Build a layer from colours to scalar and vector fields as one convolution.
#       - Say why ReLU on components is wrong, and build a nonlinearity that acts on lengths.
#       - Gate vectors with scalars.
#       - Shrink vector fields without breaking them.
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
# # Arrows that turn with the tissue
#
# In lesson 1 we made a network equivariant by asking it eight times. Now we build one that needs to be asked
# once, and that can say more than numbers: it can point. Where does this fibre run? On which side of the border
# lies the tumour? The answer is an arrow in every pixel, and when the slide turns, arrows must do two things:
# go where the pixel goes, and turn.
#
# **You will build**: the rule that decides which kernels may make arrows, its four solutions, a layer from
# colours to scalars and arrows in one convolution, nonlinearities and a pooling that arrows survive. At the end
# they make a U-Net.
#
# **You need**: lesson 1, 2 × 2 matrices (product, inverse, transpose), the rank of a matrix (columns − rank = number
# of free solutions), and what a convolution does. One plot uses complex numbers, in code given to you. Two hours;
# up to 1.6 GB of memory; nothing is downloaded.
#
# **How it works**: as in lesson 1. `check` as often as you like, `hint` for a nudge, `grade` is what counts: 21
# points for nine functions and 5 for two written answers. An exercise that you leave open stops nothing: the
# cells below it then use the course's own function, and say so.

# %% nbgrader={"grade_id": "setup", "locked": true}
import math
import time
import warnings

import torch
import torch.nn.functional as F
from skimage.data import immunohistochemistry

from coursekit.explore import Choice, Slider, explore
from coursekit.figures import show, style
from coursekit.predict import predict
from coursekit.use import use
from equipath.equivariance import Rotation
from equipath.exercises import steerable_kernels
from equipath.exercises import steerable_kernels_figures as draw
from equipath.exercises.symmetry_figures import class_maps
from equipath.experiments import first_unet, results, steerable
from equipath.groups import P4M
from equipath.kernels.radial import expand_kernels
from equipath.losses import dice_cross_entropy
from equipath.metrics import dice_score
from equipath.models.steerable_unet import SteerableUNet
from equipath.models.summary import count_parameters
from equipath.models.unet import UNet
from equipath.nn.steerable import GatedReLU, SteerableConv2d, SteerablePool2d, act_packed
from equipath.viz.filters import steerable_kernels as picture_of_kernels

torch.manual_seed(0)
style()

# %% [markdown]
# ## Two filters are not yet an arrow
#
# Here is a real section of colon (immunohistochemistry: one protein is stained brown, the rest blue). We want an
# arrow in every pixel. A convolution with two output channels gives two numbers in every pixel. Draw the first
# to the right and the second upwards, and there is your arrow. Or is it? We take two random filters, smooth
# enough to look at, turn the tissue by 90°, ask again, and turn the arrows back.

# %%
question_random = predict(
    "The tissue is turned by 90°, filtered with the same two filters, and the arrows are turned back. By how many "
    "degrees do they differ from the arrows before, on average?",
    unit="°",
)

# %%
real = torch.from_numpy(immunohistochemistry()).movedim(-1, 0)[None] / 255
real = F.avg_pool2d(real, 2).double()  # half the size: 256 x 256 pixels
tile = real[..., 96:192, 96:192]
dark = 1 - tile.mean(dim=1, keepdim=True)

smooth = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
random_pair = F.interpolate(smooth, size=(11, 11), mode="bicubic", align_corners=True)
random_pair = random_pair - random_pair.mean((-2, -1), keepdim=True)


def plain_arrows(x):
    """Two filters, read as x and y of an arrow: (B, 1, H, W) to (B, 2, H, W)."""
    return F.conv2d(x, random_pair, padding=5)


def degrees_between(a, b):
    """The mean angle between the arrows of two fields (..., 2, H, W), away from the border."""
    a, b = a[..., 8:-8, 8:-8], b[..., 8:-8, 8:-8]
    cosine = (a * b).sum(-3) / (a.norm(dim=-3) * b.norm(dim=-3)).clamp_min(1e-12)
    return float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))).mean())


def good_scale(field, step):
    """So that a long arrow is as long as the distance between two arrows."""
    return float(torch.quantile(field.norm(dim=-3).flatten(), 0.95)) * field.shape[-1] / step / 1.3


before = plain_arrows(dark)
after = P4M.act_vector(plain_arrows(P4M.act(dark, 1)), 3)
off = degrees_between(before, after)
show(
    draw.fields_on_tissue(
        [tile[0], tile[0]],
        [before[0], after[0]],
        ["as it lies", "turned by 90°, asked, turned back"],
        good_scale(before, 8),
    ),
    alt="The same piece of colon twice, with arrows from two random filters. On the right the tissue was turned "
    f"by 90 degrees before it was filtered and the arrows were turned back: they differ by {off:.0f} degrees on average.",
)

# %%
question_random.reveal(
    round(off),
    because="About 90°, a little more or less for one pair of filters, is what two arrows that know nothing of each "
    "other differ by. These arrows do not belong to the "
    "tissue. They belong to the way in which the filters happened to lie.",
)

# %% [markdown]
# ## 1. How arrows move
#
# A **scalar field** has one number in every pixel: when the tissue moves, the number goes where its pixel goes. A
# **vector field** has an arrow in every pixel: its numbers go where the pixel goes, *and* they mix. In formulas,
# a move $g$ acts on a field $f$ as
#
# $$[g f](x) = \rho(g)\, f(g^{-1} x).$$
#
# On the right, $g^{-1}x$ says from which pixel the numbers come. In front, the matrix $\rho(g)$ says how they mix.
# It is called the *representation* of the field: the number 1 for scalars, the turn or mirror itself, a 2 × 2
# matrix, for arrows.

# %% [markdown]
# ### Exercise 1: move a vector field (2 points)
#
# Write `move_vectors(v, r, m)`: the vector field after the tissue under it is mirrored left-right (if `m`) and
# then turned by `r` quarter turns counter-clockwise.
#
# - `v`: float tensor (..., 2, H, W). Axis −3 holds the components of each arrow: first x, to the right, then y,
#   upwards. H and W may differ; there may be any leading axes, or none.
# - `r`: any whole number, also negative; only r modulo 4 matters. `m`: bool.
# - Returns the moved field: (..., 2, H, W) for even r, (..., 2, W, H) for odd r, dtype as in `v`. `v` itself
#   stays as it is.


# %% nbgrader={"grade_id": "move-vectors", "solution": true}
def move_vectors(v, r, m):
    """Mirror the field v (..., 2, H, W) left-right if m, then turn it r times by 90° counter-clockwise."""
    ### BEGIN SOLUTION
    if m:
        x, y = v.flip(-1).unbind(dim=-3)
        v = torch.stack([-x, y], dim=-3)
    for _ in range(r % 4):
        x, y = torch.rot90(v, 1, (-2, -1)).unbind(dim=-3)
        v = torch.stack([-y, x], dim=-3)
    return v
    ### END SOLUTION


# %%
steerable_kernels.MOVE_VECTORS.check(move_vectors)

# %%
# Stuck? Take the # away. Run the cell again for the next hint; there are three.
# steerable_kernels.MOVE_VECTORS.hint()

# %% nbgrader={"grade_id": "move-vectors-grade", "grade": true, "points": 2}
steerable_kernels.MOVE_VECTORS.grade(move_vectors)

# %%
T = use(steerable_kernels.MOVE_VECTORS, move_vectors)
swirl = torch.stack([dark[0, 0] * 0 + 1.0, dark[0, 0] * 0 + 0.3])[:, :60]
moved = T(swirl, 1, False)
print(f"before: {tuple(swirl.shape)}, every arrow is {swirl[:, 0, 0].tolist()}")
print(
    f"after a quarter turn: {tuple(moved.shape)}, every arrow is {[round(v, 2) for v in moved[:, 0, 0].tolist()]}"
)

# %% [markdown]
# ## 2. Which kernels may make arrows?
#
# Let a kernel $K$ map a field with representation $\rho_\text{in}$ to one with $\rho_\text{out}$. For every offset
# $y$, $K(y)$ is a matrix with one row for each component of the output and one column for each of the input:
#
# $$[K \star f](x) = \int K(y)\, f(x + y)\, dy.$$
#
# Demand that moving first or last makes no difference, $K \star (g f) = g\,(K \star f)$, for every field $f$. The
# left side is
#
# $$\int K(y)\, \rho_\text{in}(g)\, f(g^{-1}x + g^{-1}y)\, dy
#   = \int K(g y)\, \rho_\text{in}(g)\, f(g^{-1}x + y)\, dy,$$
#
# where we put $gy$ for $y$, which changes no area. The right side is
#
# $$\int \rho_\text{out}(g)\, K(y)\, f(g^{-1}x + y)\, dy.$$
#
# Both must agree for *every* $f$. So the factors in front of $f$ must agree for every $y$, and we have **the
# constraint**:
#
# $$\boxed{K(g\,y) = \rho_\text{out}(g)\; K(y)\; \rho_\text{in}(g)^{-1}}$$
#
# Read it: the kernel at the moved place is the kernel at the old place, its output moved, its input moved back.
# Nothing here is special to turns. In this lesson $g$ runs through **O(2)**: turns by any angle, and mirrors.
# **SO(2)** is the turns alone.

# %% [markdown]
# ### Exercise 2: test a kernel against the constraint (2 points)
#
# Write `constraint_gap(kernel, g, rho_out, rho_in, points)`: the largest absolute entry of
#
# $$K(g\,x) - \rho_\text{out}(g)\, K(x)\, \rho_\text{in}(g)^{-1}$$
#
# over all points x.
#
# - `kernel`: a function from points (N, 2), each row one x = (x, y), to matrices (N, a, b), float64.
# - `g`: the 2 × 2 matrix that moves a point, a turn or a mirror; it multiplies the column x from the left.
# - `rho_out`: ρ_out(g), a matrix (a, a). `rho_in`: ρ_in(g), a matrix (b, b). They are invertible, and need not be
#   orthogonal. `points`: (N, 2). All float64.
# - Returns one number (a Python float or a tensor without axes).


# %% nbgrader={"grade_id": "constraint-gap", "solution": true}
def constraint_gap(kernel, g, rho_out, rho_in, points):
    """The largest absolute entry of K(g x) − ρ_out K(x) ρ_in⁻¹ over all points (N, 2)."""
    ### BEGIN SOLUTION
    left = kernel(points @ g.T)
    right = rho_out @ kernel(points) @ torch.linalg.inv(rho_in)
    return float((left - right).abs().max())
    ### END SOLUTION


# %%
steerable_kernels.CONSTRAINT_GAP.check(constraint_gap)

# %%
# steerable_kernels.CONSTRAINT_GAP.hint()

# %% nbgrader={"grade_id": "constraint-gap-grade", "grade": true, "points": 2}
steerable_kernels.CONSTRAINT_GAP.grade(constraint_gap)

# %% [markdown]
# Try some kernels that could make arrows of a grey picture. Which of them do you trust? Say it before you run.

# %%
gap = use(steerable_kernels.CONSTRAINT_GAP, constraint_gap)


def turn(degrees, mirror=False):
    """The 2 x 2 matrix that first mirrors left-right, if told to, and then turns."""
    a = math.radians(degrees)
    matrix = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
    return matrix @ torch.diag(torch.tensor([-1.0 if mirror else 1.0, 1.0], dtype=torch.float64))


one = torch.ones(1, 1, dtype=torch.float64)
points = torch.randn(50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def bell(r):
    return torch.exp(-(r**2) / 2)


def column(x, y):
    return torch.stack([x, y], dim=1)[:, :, None]


candidates = {
    "(1, 0) everywhere": lambda p: column(torch.ones(len(p)).double(), torch.zeros(len(p)).double()),
    "bell(r) x": lambda p: column(p[:, 0], p[:, 1]) * bell(p.norm(dim=1))[:, None, None],
    "bell(r) (x², y²)": lambda p: column(p[:, 0] ** 2, p[:, 1] ** 2) * bell(p.norm(dim=1))[:, None, None],
    "bell(r) (−y, x)": lambda p: column(-p[:, 1], p[:, 0]) * bell(p.norm(dim=1))[:, None, None],
}
print(f"{'kernel from scalar to vector':30} {'90°':>9} {'30°':>9} {'mirror':>9}")
for name, candidate in candidates.items():
    gaps = [gap(candidate, g, g, one, points) for g in (turn(90), turn(30), turn(0, True))]
    print(f"{name:30} " + " ".join(f"{float(value):9.1e}" for value in gaps))

# %% [markdown]
# ## 3. Solve it
#
# One point decides for all points of its circle: if you know $K$ at $x$, the constraint says what it is at $gx$.
# So $K$ is free along one ray, as a function of the radius, and the rest follows. Take each case in turn.
#
# - **Scalar to scalar**: $K(gx) = K(x)$. The same on the whole circle: $f(|x|)$.
# - **Scalar to vector**: $K(gx) = g K(x)$. What turns with $x$ as $x$ does? $x$ itself. So $f(|x|)\,x$.
# - **Vector to scalar**: $K(gx) = K(x)\,g^{-1}$. Transpose it, and as $g^{-1} = g^T$ you have the case above:
#   $f(|x|)\,x^T$.
# - **Vector to vector**: $K(gx) = g K(x) g^{-1}$. The unit matrix obeys, since $g I g^{-1} = I$. And $x x^T$
#   obeys, since $(gx)(gx)^T = g\,x x^T g^{-1}$. Each with a *profile* (a function of the radius) of its
#   own: $f_1(|x|)\,I + f_2(|x|)\,x x^T$.
#
# That these are *all* solutions is not yet clear. Exercise 4 will count them.

# %% [markdown]
# ### Exercise 3: the four solutions (3 points)
#
# Write `steerable_kernel(points, source, target, f1, f2)`: the kernel that maps `source` to `target`, evaluated at
# points.
#
# | source → target | K(x) | shape of K(x) |
# |---|---|---|
# | scalar → scalar | $f_1(\lvert x\rvert)$ | 1 × 1 |
# | scalar → vector | $f_1(\lvert x\rvert)\, x$ | 2 × 1 |
# | vector → scalar | $f_1(\lvert x\rvert)\, x^T$ | 1 × 2 |
# | vector → vector | $f_1(\lvert x\rvert)\, I + f_2(\lvert x\rvert)\, x x^T$ | 2 × 2 |
#
# - `points`: float tensor (N, 2), each row one x = (x, y). x may be 0.
# - `source`, `target`: "scalar" or "vector". `f1`, `f2`: functions of the radius, from a tensor to a tensor of the
#   same shape; f2 is ignored in the first three lines.
# - Returns (N, a, b): N matrices, a components of the target times b of the source; dtype as in `points`.


# %% nbgrader={"grade_id": "steerable-kernel", "solution": true}
def steerable_kernel(points, source, target, f1, f2):
    """The kernel from source to target at points (N, 2): matrices (N, a, b)."""
    ### BEGIN SOLUTION
    r = points.norm(dim=1)
    column, row = points[:, :, None], points[:, None, :]
    first, second = f1(r)[:, None, None], f2(r)[:, None, None]
    if source == "scalar" and target == "scalar":
        return first
    if source == "scalar":
        return first * column
    if target == "scalar":
        return first * row
    return first * torch.eye(2, dtype=points.dtype) + second * column * row
    ### END SOLUTION


# %%
steerable_kernels.STEERABLE_KERNEL.check(steerable_kernel)

# %%
# steerable_kernels.STEERABLE_KERNEL.hint()

# %% nbgrader={"grade_id": "steerable-kernel-grade", "grade": true, "points": 3}
steerable_kernels.STEERABLE_KERNEL.grade(steerable_kernel)

# %% [markdown]
# Your ruler of exercise 2 on your kernels of exercise 3, for turns by 30° and for a mirror:

# %%
kernel = use(steerable_kernels.STEERABLE_KERNEL, steerable_kernel)


def wave(r):
    return torch.cos(2 * r)


print(f"{'kernel':20} {'30°':>9} {'mirror':>9}")
for source in ("scalar", "vector"):
    for target in ("scalar", "vector"):
        line = []
        for g in (turn(30), turn(0, True)):
            rho_in, rho_out = (g if kind == "vector" else one for kind in (source, target))
            line.append(
                gap(lambda p, s=source, t=target: kernel(p, s, t, bell, wave), g, rho_out, rho_in, points)
            )
        print(f"{source} → {target:9} " + " ".join(f"{float(value):9.1e}" for value in line))

# %% [markdown]
# ## 4. What mirrors forbid
#
# In section 2, the whirl $(-y, x)$ passed every turn and failed the mirror. Arrows along $x$ pass both. How many
# solutions are there, and which of them do mirrors forbid?
#
# Take a point on the ray to the right, $x = (r, 0)$. Some moves $s$ leave it where it is. For those, the
# constraint reads $K(x) = \rho_\text{out}(s) K(x) \rho_\text{in}(s)^{-1}$, or
#
# $$\rho_\text{out}(s)\, K = K\, \rho_\text{in}(s),$$
#
# a linear equation for the matrix $K = K(x)$. All other $g$ merely carry $K$ around the circle. So the number of
# free profiles is the number of independent matrices that obey this for all $s$ that keep the ray. Among turns
# alone, only the identity keeps it. With mirrors there is one more: $(x, y) \mapsto (x, -y)$.
# (All this at $r > 0$. The point 0 is kept by every move, which allows less there, but it is a single point.)

# %% [markdown]
# ### Exercise 4: count what is allowed (2 points)
#
# Write `count_kernels(rho_out, rho_in)`: how many linearly independent matrices K (a × b) obey
#
# $$\rho_\text{out}(s)\, K = K\, \rho_\text{in}(s) \quad\text{for all elements } s \text{ of a finite group?}$$
#
# - `rho_out`: float64 tensor (n, a, a), `rho_in`: (n, b, b): the matrices of the n elements of the group, in the
#   same order; the identity is one of them. The matrices are invertible, and need not be orthogonal.
# - Returns a whole number (an int, or an integer tensor without axes).


# %% nbgrader={"grade_id": "count-kernels", "solution": true}
def count_kernels(rho_out, rho_in):
    """How many independent matrices K obey ρ_out(s) K = K ρ_in(s) for all elements s."""
    ### BEGIN SOLUTION
    a, b = rho_out.shape[-1], rho_in.shape[-1]
    eye_a, eye_b = torch.eye(a, dtype=rho_out.dtype), torch.eye(b, dtype=rho_in.dtype)
    # K written as a column, row by row: ρ_out K is (ρ_out ⊗ I) K, and K ρ_in is (I ⊗ ρ_inᵀ) K.
    equations = [
        torch.kron(left, eye_b) - torch.kron(eye_a, right.T.contiguous())
        for left, right in zip(rho_out, rho_in, strict=True)
    ]
    return a * b - int(torch.linalg.matrix_rank(torch.cat(equations), tol=1e-8))
    ### END SOLUTION


# %%
steerable_kernels.COUNT_KERNELS.check(count_kernels)

# %%
# steerable_kernels.COUNT_KERNELS.hint()

# %% nbgrader={"grade_id": "count-kernels-grade", "grade": true, "points": 2}
steerable_kernels.COUNT_KERNELS.grade(count_kernels)

# %%
question_mirror = predict(
    "From vector to vector, turns alone allow how many independent profiles, and turns with mirrors how many?",
    options=["2 and 2", "4 and 2", "4 and 4", "8 and 4"],
)

# %%
count = use(steerable_kernels.COUNT_KERNELS, count_kernels)
keeps_the_ray = torch.stack([turn(0), torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))])
rho = {"scalar": torch.ones(2, 1, 1, dtype=torch.float64), "vector": keeps_the_ray}
print(f"{'':20} {'turns':>7} {'turns and mirrors':>18}")
for source in ("scalar", "vector"):
    for target in ("scalar", "vector"):
        turns_only = count(rho[target][:1], rho[source][:1])
        print(f"{source} → {target:9} {turns_only:7} {count(rho[target], rho[source]):18}")
show(
    picture_of_kernels(7),
    alt="Five kernels between scalar and vector fields in the upper row: a round one, arrows pointing outwards (twice, as "
    "answer and as weight), and two from vector to vector. The lower row shows what turns alone add: arrows that run "
    "around the centre in place of outwards, and their like from vector to vector. Nothing is added from scalar to scalar.",
)

# %%
question_mirror.reveal(
    "4 and 2",
    because="With mirrors your count agrees with the table: 1, 1, 1, 2. We have found all solutions. Turns alone "
    "allow each kernel with a vector in it a second time, multiplied by a quarter turn J: whirls. In the mirror a whirl "
    "turns the other way round, and tissue has no preferred handedness: the glass may have been laid face down. O(2) "
    "nearly halves the number of weights and loses nothing that we want.",
)

# %% [markdown]
# ## 5. On the grid
#
# So far $x$ was any point of the plane. A filter has taps at whole pixels. Quarter turns and mirrors map taps to
# taps, and the constraint stays exact. A turn by 30° maps taps to places between taps, and there the filter knows
# nothing.

# %% [markdown]
# ### Exercise 5: put a kernel on the grid (2 points)
#
# Write `sample_kernel(kernel, size)`: the taps of a kernel on a grid of `size` × `size` pixels.
#
# - `kernel`: a function from points (N, 2), each row one x = (x, y) in pixels, x to the right and y upwards, to
#   matrices (N, a, b).
# - `size`: an odd whole number from 1 up. The middle tap lies at x = 0.
# - Returns a float64 tensor (a, b, size, size), as conv2d wants it. Tap [..., i, j], row i and column j, is the
#   kernel at x = j − c and y = c − i with c = (size − 1) / 2: rows count downwards, y upwards.


# %% nbgrader={"grade_id": "sample-kernel", "solution": true}
def sample_kernel(kernel, size):
    """The taps of a kernel on size x size pixels: (a, b, size, size), y upwards."""
    ### BEGIN SOLUTION
    at = torch.arange(size, dtype=torch.float64) - size // 2
    down, right = torch.meshgrid(at, at, indexing="ij")
    values = kernel(torch.stack([right, -down], dim=-1).reshape(-1, 2))
    return values.permute(1, 2, 0).reshape(*values.shape[1:], size, size)
    ### END SOLUTION


# %%
steerable_kernels.SAMPLE_KERNEL.check(sample_kernel)

# %%
# steerable_kernels.SAMPLE_KERNEL.hint()

# %% nbgrader={"grade_id": "sample-kernel-grade", "grade": true, "points": 2}
steerable_kernels.SAMPLE_KERNEL.grade(sample_kernel)

# %% [markdown]
# ### What sampling breaks
#
# To measure it we need pictures that can be turned by any angle without interpolation. Plane waves can: $\cos$ of
# a linear function is the same function in other directions. The answer of the kernel $f(r)\,x$ to a wave must
# point along the wave and be equally long for all directions. We measure how far it is off, in three ways:
#
# - against the **angle** of the wave, for a bell of width 1 pixel cut off by filters of several sizes;
# - against the **frequency** of the wave: 0.5 cycles per pixel is the finest that a grid can hold;
# - against the **order** of the kernel: on a ring the profile varies as $\cos m\varphi$. $m = 0$ is from scalar to
#   scalar, $m = 1$ makes arrows, $m = 2$ is in $x x^T$, and nothing in the constraint forbids larger $m$ for
#   other representations.

# %%
question_angle = predict(
    "The kernel f(r) x is sampled on 5 × 5 pixels. By which angles may a wave be turned so that the arrows turn "
    "exactly with it?",
    options=["by any angle", "by multiples of 45°", "by multiples of 90°", "by none"],
)

# %%
sample = use(steerable_kernels.SAMPLE_KERNEL, sample_kernel)


def arrow_taps(size, width=1.0):
    """The kernel f(r) x with a bell of this width in pixels: (2, size, size)."""
    return sample(lambda p: kernel(p, "scalar", "vector", lambda r: bell(r / width), lambda r: 0 * r), size)[
        :, 0
    ]


def order_taps(size, m, radius=2.0):
    """A ring of this radius times cos and sin of m times the polar angle: (2, size, size)."""

    def pair(p):
        ring = torch.exp(-((p.norm(dim=1) - radius) ** 2) / (2 * 0.6**2))
        phi = torch.atan2(p[:, 1], p[:, 0])
        return torch.stack([ring * torch.cos(m * phi), ring * torch.sin(m * phi)], dim=1)[:, :, None]

    return sample(pair, size)[:, 0]


def answer_to_wave(taps, frequency, degrees):
    """What taps (2, k, k) answer to a wave (complex: its cosine and sine at once) that runs in a direction."""
    c = taps.shape[-1] // 2
    at = torch.arange(-c, c + 1).double()
    up, right = torch.meshgrid(-at, at, indexing="ij")
    a = math.radians(degrees)
    wave = torch.exp(2j * math.pi * frequency * (math.cos(a) * right + math.sin(a) * up))
    return (taps * wave).sum((-2, -1))


def wave_error(taps, frequency, degrees, m=1):
    """How far the answer to the turned wave is from the turned answer, relative to that."""
    upright = turn(m * degrees).to(torch.complex128) @ answer_to_wave(taps, frequency, 0.0)
    return float((answer_to_wave(taps, frequency, degrees) - upright).norm() / upright.norm())


angles, sizes = range(0, 91, 5), (3, 5, 7, 9)
frequencies = [0.02 * n for n in range(1, 25)]
orders = range(7)
by_angle = {f"{k} x {k}": [wave_error(arrow_taps(k), 0.1, a) for a in angles] for k in sizes}
by_frequency = {f"{k} x {k}": [wave_error(arrow_taps(k), f, 45) for f in frequencies] for k in sizes}
by_order = {
    f"{k} x {k}, ring at {radius} px": [
        max(wave_error(order_taps(k, m, radius), 0.15, a, m) for a in (15, 30, 45)) for m in orders
    ]
    for k, radius in ((5, 1), (7, 2), (9, 3))
}
show(
    draw.error_curves(
        [
            (
                "angle (0.1 cycles / px)",
                "direction of the wave (°); lowest mark: rounding",
                list(angles),
                by_angle,
            ),
            ("frequency (at 45°)", "cycles / px", frequencies, by_frequency),
            ("order (0.15 cycles / px)", "order m of the kernel", list(orders), by_order),
        ],
        floor=1e-7,
    ),
    alt="Three panels of errors on logarithmic axes. Against the angle, the error is at rounding for 0 and 90 degrees and "
    f"largest at 45: {by_angle['3 x 3'][9]:.0e} for 3 x 3, {by_angle['9 x 9'][9]:.0e} for 9 x 9. Against frequency it "
    f"grows to {max(by_frequency['9 x 9']):.1f} near half a cycle per pixel. Against the order it grows from "
    f"{by_order['7 x 7, ring at 2 px'][1]:.0e} at 1 to {by_order['7 x 7, ring at 2 px'][6]:.0e} at 6 for a ring of 2 pixels.",
)

# %%
question_angle.reveal(
    "by multiples of 90°",
    because=f"At 45° the 5 × 5 kernel is off by {by_angle['5 x 5'][9]:.1e}. A bell of width 1 fits 9 × 9, and there the "
    f"error is {by_angle['9 x 9'][9]:.0e}: smooth kernels that fit their window are nearly exact at every angle. "
    "What is cut off by the square window, what varies faster than the taps can follow (high order on a small ring), "
    "and what is near half a cycle per pixel in the picture is not.",
)

# %% [markdown]
# Three rules follow. Let profiles fade before the window ends. Keep the orders low where the radius is small. And
# blur before you shrink a picture, since fine detail is where equivariance is lost.

# %% [markdown]
# ## 6. A layer from colours to scalars and arrows
#
# A layer has several fields in and out. Each pair of fields gets a profile of its own, and a profile is a weighted
# sum of fixed *rings*. The weights are what is learned. Take a picture with three colours $I_1, I_2, I_3$ and ask
# for two scalars and two vectors, the worked example of the lecture behind this lesson (Liem 2025, with D. Tward):
#
# $$J_s^{\,j}(x) = \sum_{i=1}^{3} \int f_{ji}(|y|)\, I_i(x + y)\, dy, \qquad
#   J_v^{\,j}(x) = \sum_{i=1}^{3} \int g_{ji}(|y|)\, y\; I_i(x + y)\, dy.$$
#
# (The lecture writes $x - x'$ for our offset, which turns all arrows round. That is a convention.) Six profiles $f$,
# six profiles $g$, six output channels: 2 + 2 · 2. And all of it is *one* ordinary convolution with a filter whose
# taps are tied.

# %% [markdown]
# ### Exercise 6: colours to scalars and vectors (3 points)
#
# Write `mixed_layer(x, rings, arrows, f, g)`: from C scalar channels to S scalar and V vector fields,
#
# $$J_s^{\,j} = \sum_{i} \Big(\sum_n f_{jin}\, R_n\Big) \star I_i, \qquad
# J_v^{\,j} = \sum_{i} \Big(\sum_m g_{jim}\, A_m\Big) \star I_i .$$
#
# - `x`: the channels $I_i$, float64 (B, C, H, W). H and W may differ.
# - `rings`: round kernels $R_n$, (n, k, k), k odd. `arrows`: kernels $A_m$ from scalar to vector, (m, 2, k, k),
#   components x, y.
# - `f`: weights (S, C, n). `g`: weights (V, C, m).
# - $\star$ is what conv2d does (the kernel is not flipped), with zeros around the picture, so that H and W stay.
# - Returns (B, S + 2 V, H, W): the scalars, then x and y of vector 0, then x and y of vector 1, and so on. No input
#   is changed.


# %% nbgrader={"grade_id": "mixed-layer", "solution": true}
def mixed_layer(x, rings, arrows, f, g):
    """C channels (B, C, H, W) to S scalars and V vectors: (B, S + 2 V, H, W)."""
    ### BEGIN SOLUTION
    scalars = torch.einsum("scn,nij->scij", f, rings)
    vectors = torch.einsum("vcm,maij->vacij", g, arrows).flatten(0, 1)
    return F.conv2d(x, torch.cat([scalars, vectors]), padding=rings.shape[-1] // 2)
    ### END SOLUTION


# %%
steerable_kernels.MIXED_LAYER.check(mixed_layer)

# %%
# steerable_kernels.MIXED_LAYER.hint()

# %% nbgrader={"grade_id": "mixed-layer-grade", "grade": true, "points": 3}
steerable_kernels.MIXED_LAYER.grade(mixed_layer)

# %% [markdown]
# Your layer on real tissue, 3 colours to 2 scalars and 2 vectors. The weights are random, and that is the point:
# *whatever* the weights, the arrows belong to the tissue.

# %%
mixed = use(steerable_kernels.MIXED_LAYER, mixed_layer)
size = 11
rings = torch.stack(
    [
        sample(lambda p, s=s: kernel(p, "scalar", "scalar", lambda r: bell(r / s), bell), size)[0, 0]
        for s in (1.0, 1.7, 2.3)
    ]
)
outward = torch.stack([arrow_taps(size, s) for s in (1.0, 1.7, 2.3)])
chance = torch.Generator().manual_seed(4)
f_weights = torch.randn(2, 3, 3, generator=chance, dtype=torch.float64)
g_weights = torch.randn(2, 3, 3, generator=chance, dtype=torch.float64)


def layer(x):
    """Your mixed layer at random weights: (B, 3, H, W) to (B, 2 + 2·2, H, W)."""
    return mixed(x, rings, outward, f_weights, g_weights)


def relative(a, b):
    return float((a - b).norm() / b.norm())


fields = layer(tile)
for a in (1, 2, 4, 5):
    error = relative(layer(P4M.act(tile, a)), act_packed(fields, (2, 2), a))
    print(f"{P4M.label(a):18} error {error:.0e}")
first, second = fields[0, 2:4], fields[0, 4:6]
back = P4M.act_vector(layer(P4M.act(tile, 1))[:, 2:4], 3)[0]
show(
    draw.fields_on_tissue(
        [tile[0]] * 3,
        [first, back, second],
        ["vector 0", "vector 0, turned by 90° and back", "vector 1"],
        good_scale(first, 8),
    ),
    alt="Colon with the two vector fields of the mixed layer. The first panel and the second, for which the tissue was "
    "turned by 90 degrees and the arrows were turned back, show the same arrows: they differ by "
    f"{degrees_between(first, back):.0e} degrees.",
)

# %% [markdown]
# ### Turn the slide yourself
#
# Drag the angle. The tissue is turned (by interpolation, from a larger piece, so that nothing comes in from
# outside), and asked again. Then the distance of each arrow from where it should be is drawn: from the arrows of
# the upright picture, turned. The random pair of filters of the opening is there for comparison. For other angles
# than 0°, 90°, 180° and 270° part of what you see is the interpolation of the picture.

# %%
wide = real[..., 48:208, 48:208]
layers = {
    "your layer": lambda x: layer(x)[:, 2:4],
    "two random filters": lambda x: plain_arrows(1 - x.mean(1, True)),
}


def inner(x):
    return x[..., 35:125, 35:125]


upright = {name: f(wide) for name, f in layers.items()}


def draw_turned(angle, net):
    move = Rotation(float(angle), "bicubic")
    turned = move.planar(wide)
    field, wanted = inner(layers[net](turned)), inner(move.vector(upright[net]))
    distance = (field - wanted).norm(dim=1)[0] / wanted.norm(dim=1).mean()
    figure = draw.turning_arrows(
        inner(turned)[0], field[0], distance, f"the slide at {angle}°", good_scale(inner(upright[net]), 7)
    )
    return figure, (
        f"Colon turned by {angle} degrees with the arrows of {net}, and their distance from the turned arrows of the "
        f"upright picture: {distance.mean():.2f} of the mean length on average."
    )


explore(
    draw_turned,
    angle=Slider(0, 345, step=15, value=30, label="angle", unit="°"),
    net=Choice(["your layer", "two random filters"], label="arrows of"),
    frames={"angle": range(0, 360, 45)},
)

# %% [markdown]
# How much of that is interpolation? As a yardstick take a map that has no direction at all and reacts to detail of
# about the same size: the difference of two round blurs, treated the same way.

# %%
round_filter = (rings[0] / rings[0].sum() - rings[1] / rings[1].sum()).expand(3, 1, -1, -1)
round_upright = F.conv2d(wide, round_filter, groups=3, padding=5)
print(f"{'angle':>6} {'your arrows':>12} {'round filter':>13} {'random filters':>15}")
for angle in (15, 30, 45, 90):
    move = Rotation(float(angle), "bicubic")
    turned = move.planar(wide)
    row = [relative(inner(f(turned)), inner(move.vector(upright[name]))) for name, f in layers.items()]
    budget = relative(
        inner(F.conv2d(turned, round_filter, groups=3, padding=5)), inner(move.planar(round_upright))
    )
    print(f"{angle:5}° {row[0]:12.1e} {budget:13.1e} {row[1]:15.1e}")

# %% [markdown]
# The round filter has no direction that could be wrong, so its column is what interpolation alone costs a filter of
# this kind. Where your arrows are off by about as much or less, interpolation explains it. The random filters are off
# by far more, at 90° too, where nothing is interpolated.

# %% [markdown]
# ## 7. What may follow: nonlinearities
#
# Two linear layers in a row are one linear layer, so something must bend in between. For scalars any function
# will do, pixel by pixel. For arrows the usual ReLU, applied to the components, is a disaster that no training
# log shows.

# %%
question_relu = predict(
    "ReLU is applied to x and y of every arrow. Under which of these moves does it still commute?",
    options=["quarter turns", "the left-right mirror", "the mirror that exchanges x and y", "all three"],
)

# %%
fan = torch.stack([turn(15.0 * n) @ torch.tensor([1.0, 0.0], dtype=torch.float64) for n in range(24)])
cut = torch.relu(fan)


def commutes_with(g):
    return bool(torch.allclose(torch.relu(fan @ g.T), cut @ g.T))


exchange = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
for name, g in {
    "quarter turn": turn(90),
    "left-right mirror": turn(0, True),
    "exchange x and y": exchange,
}.items():
    print(f"{name:18} commutes with ReLU on components: {commutes_with(g)}")
left, down = (fan[:, 0] < -1e-9).sum().item(), (cut.norm(dim=1) < 1e-9).sum().item()
print(
    f"of 24 arrows all around, {left} point left before and {(cut[:, 0] < -1e-9).sum().item()} after; {down} are gone"
)

# %%
question_relu.reveal(
    "the mirror that exchanges x and y",
    because="Exchanging x and y only renames the components, and ReLU treats both alike. Everything else moves the "
    "quarter of the plane that ReLU favours, the one to the upper right.",
)

# %% [markdown]
# The cure is to touch what does not turn: the length. Then the direction passes untouched, whatever it is.

# %% [markdown]
# ### Exercise 7: a nonlinearity for arrows (3 points)
#
# Write `norm_relu(v, b)`: every arrow keeps its direction and gets a new length,
#
# $$v \;\mapsto\; \operatorname{relu}(\lvert v\rvert + b)\, \frac{v}{\lvert v\rvert}.$$
#
# - `v`: float64 tensor (B, N, 2, H, W): N vector fields. |v| is the Euclidean length of the one arrow in a pixel.
# - `b`: (N,), one number for each field; may be negative.
# - Returns a tensor like `v`, through which gradients flow to v and b. Where an arrow has length 0 the result is 0,
#   and the gradients are finite there, too. Adding up to 10⁻⁶ to a length, or up to 10⁻¹² under the root, is fine.


# %% nbgrader={"grade_id": "norm-relu", "solution": true}
def norm_relu(v, b):
    """Give every arrow of v (B, N, 2, H, W) the length relu(|v| + b), its direction unchanged."""
    ### BEGIN SOLUTION
    length = (v.square().sum(dim=2, keepdim=True) + 1e-12).sqrt()
    return v * torch.relu(length + b[:, None, None, None]) / length
    ### END SOLUTION


# %%
steerable_kernels.NORM_RELU.check(norm_relu)

# %%
# steerable_kernels.NORM_RELU.hint()

# %% nbgrader={"grade_id": "norm-relu-grade", "grade": true, "points": 3}
steerable_kernels.NORM_RELU.grade(norm_relu)

# %%
bend = use(steerable_kernels.NORM_RELU, norm_relu)
bias = torch.tensor([-0.3], dtype=torch.float64)


def bend_fan(arrows, b):
    return bend(arrows.T.reshape(1, 1, 2, 1, -1), b)[0, 0, :, 0].T


show(
    draw.fans(
        {
            "24 arrows": fan,
            "ReLU on components": cut,
            "your nonlinearity, b = −0.3": bend_fan(fan, bias),
        }
    ),
    alt="A fan of 24 arrows of length 1 in all directions. After ReLU on components all of them lie in the upper right "
    "quarter. After the nonlinearity on lengths they point as before and have length 0.7.",
)
v = fields[:, 2:].unflatten(1, (2, 2)) / fields[:, 2:].std()
b2 = torch.tensor([-0.5, -0.5], dtype=torch.float64)
print(f"on the arrows of the tissue:   {'90°':>8} {'mirror':>8}")
for name, f in {"ReLU on components": torch.relu, "your nonlinearity": lambda v: bend(v, b2)}.items():
    errors = [relative(f(P4M.act_vector(v, a)), P4M.act_vector(f(v), a)) for a in (1, 4)]
    print(f"  {name:28} " + " ".join(f"{value:8.0e}" for value in errors))

# %% [markdown]
# ### Gates
#
# There is a second way. Let the layer before make one scalar more for each vector, and let that scalar decide how
# much of the vector passes. A scalar does not turn, so neither does the decision. The gate can look at something
# else than the arrow: "pass the direction of this fibre only where there are nuclei". In practice gates often
# train better than norms ([Weiler & Cesa 2019](https://arxiv.org/abs/1911.08251) compare several).

# %% [markdown]
# ### Exercise 8: scalars open the gates (2 points)
#
# Write `gated_relu(x, s, v)`: ReLU on the scalars; each vector is multiplied by the sigmoid of a scalar of its own.
#
# - `x`: float64 tensor (B, s + v + 2 v, H, W), on axis 1 in this order: s scalars, v gates, and x, y of each of v
#   vectors (x, y, x, y, …). s and v are at least 1.
# - Returns (B, s + 2 v, H, W): relu of the s scalars, then the v vectors, number n times the sigmoid of gate n. The
#   gates themselves are used up. `x` stays as it is.


# %% nbgrader={"grade_id": "gated-relu", "solution": true}
def gated_relu(x, s, v):
    """ReLU on s scalars; v vectors times the sigmoid of their gates: (B, s + 2 v, H, W)."""
    ### BEGIN SOLUTION
    gates = torch.sigmoid(x[:, s : s + v])
    vectors = x[:, s + v :] * gates.repeat_interleave(2, dim=1)
    return torch.cat([torch.relu(x[:, :s]), vectors], dim=1)
    ### END SOLUTION


# %%
steerable_kernels.GATED_RELU.check(gated_relu)

# %%
# steerable_kernels.GATED_RELU.hint()

# %% nbgrader={"grade_id": "gated-relu-grade", "grade": true, "points": 2}
steerable_kernels.GATED_RELU.grade(gated_relu)

# %%
gate = use(steerable_kernels.GATED_RELU, gated_relu)
g_more = torch.randn(4, 3, 3, generator=chance, dtype=torch.float64)  # 2 scalars and 2 gates
gated = gate(mixed(tile, rings, outward, g_more, g_weights), 2, 2)
turned = gate(mixed(P4M.act(tile, 5), rings, outward, g_more, g_weights), 2, 2)
print(f"layer and gates, mirrored and turned: error {relative(turned, act_packed(gated, (2, 2), 5)):.0e}")

# %% [markdown]
# ## 8. Smaller and larger
#
# A U-Net shrinks its maps and enlarges them again. For scalars, take the largest of each window. For arrows,
# "largest" must mean "longest", and the arrow must stay whole.

# %% [markdown]
# ### Exercise 9: pool vectors (2 points)
#
# Write `pool_vectors(v, k)`: of every window of k × k pixels the longest arrow stays, whole.
#
# - `v`: float64 tensor (B, N, 2, H, W); H and W are multiples of k and may differ. Windows do not overlap.
# - Returns (B, N, 2, H / k, W / k): for each of the N fields the arrow, x and y, with the largest Euclidean length in
#   the window. If several are equally long, any of them will do. `v` stays as it is.


# %% nbgrader={"grade_id": "pool-vectors", "solution": true}
def pool_vectors(v, k):
    """Of every k x k window of v (B, N, 2, H, W) the longest arrow: (B, N, 2, H / k, W / k)."""
    ### BEGIN SOLUTION
    b, n, _, h, w = v.shape
    windows = v.reshape(b, n, 2, h // k, k, w // k, k).movedim(4, 5).flatten(5)
    longest = windows.square().sum(dim=2, keepdim=True).argmax(dim=-1, keepdim=True)
    return windows.gather(5, longest.expand(-1, -1, 2, -1, -1, -1))[..., 0]
    ### END SOLUTION


# %%
steerable_kernels.POOL_VECTORS.check(pool_vectors)

# %%
# steerable_kernels.POOL_VECTORS.hint()

# %% nbgrader={"grade_id": "pool-vectors-grade", "grade": true, "points": 2}
steerable_kernels.POOL_VECTORS.grade(pool_vectors)

# %%
pool = use(steerable_kernels.POOL_VECTORS, pool_vectors)


def componentwise(v):
    return F.max_pool2d(v.flatten(1, 2), 2).unflatten(1, (v.shape[1], 2))


def nearest(v):
    return F.interpolate(v.flatten(1, 2), scale_factor=2, mode="nearest").unflatten(1, (v.shape[1], 2))


def bilinear(v):
    return F.interpolate(v.flatten(1, 2), scale_factor=2, mode="bilinear").unflatten(1, (v.shape[1], 2))


def lengths(v):
    return v.norm(dim=2)


maps = {
    "longest arrow": lambda v: pool(v, 2),
    "largest component": componentwise,
    "enlarge, nearest": nearest,
    "enlarge, bilinear": bilinear,
}
print(f"{'':20} {'worst error':>11} {'mean length':>12}   (before: {lengths(v).mean():.3f})")
for name, f in maps.items():
    error = max(relative(f(P4M.act_vector(v, a)), P4M.act_vector(f(v), a)) for a in range(1, 8))
    print(f"{name:20} {error:11.0e} {lengths(f(v)).mean():12.3f}")
print("the worst error is that of the seven moves of p4m at a fixed place: turns and mirrors")

# %% [markdown]
# To enlarge, copy each pixel into four: *nearest-neighbour* up-sampling. It commutes with all eight moves, and as a
# copy it leaves every arrow as it is. Bilinear up-sampling commutes as well, but between arrows that disagree it
# makes shorter ones, which say "no direction here" where there are two.
#
# Sizes matter, too: pooling by 2 follows a turn only if heights and widths are even. With an odd number one row is
# left over, at one side only.

# %% [markdown]
# ## 9. Use it: a steerable U-Net
#
# Put the pieces together: convolutions between all kinds of fields (yours, with the two columns for vector inputs
# added), batch norm that divides arrows by their typical length, gates, longest-arrow pooling, nearest up-sampling,
# skip connections, and a last layer to scalar scores. The loss is that of lesson 1: cross-entropy + 1 − Dice.
#
# The lecture (Liem 2025) compares a plain U-Net that was trained on turned copies with an equivariant one that was
# not. Two things differ at once. So we train all four: plain or steerable, with or without *augmentation* (every
# tile in all eight poses). They have nearly equally many weights, see 16 tiles of drawn (vector-graphics) slides
# for 60 steps, and take seconds each.

# %%
question_table = predict(
    "Which kind will have the higher Dice on slides that none of them has seen, averaged over healthy gland and "
    "tumour, and over training with and without augmentation?",
    options=["plain", "steerable"],
)

# %%
images, targets = first_unet.gland_tiles(16, size=48)
test_images, test_targets = first_unet.gland_tiles(24, size=48, seed=first_unet.TEST_SEEDS)
all_poses = torch.cat([P4M.act(images, a) for a in range(8)])
all_targets = torch.cat([P4M.act(targets, a) for a in range(8)])
makers = {
    "plain": lambda: UNet(3, 3, width=6, depth=2),
    "steerable": lambda: SteerableUNet(3, 3, scalars=8, vectors=4, depth=2, kernel_size=3),
}


def score(net):
    """Dice of healthy gland and of tumour on the test tiles, and the error under a quarter turn."""
    with torch.no_grad():
        answer = net(test_images).softmax(1)
        turned = net(P4M.act(test_images, 1)).softmax(1)
    dice = dice_score(answer.argmax(1), test_targets, num_classes=3)
    return float(dice[1]), float(dice[2]), relative(turned, P4M.act(answer, 1))


nets, table, steps = {}, {}, 60
print(f"{'':22} {'weights':>8} {'s':>5} {'loss':>6} {'healthy':>8} {'tumour':>7} {'90° error':>10}")
for kind, make in makers.items():
    for augmented in (False, True):
        torch.manual_seed(0)
        net, start = make(), time.perf_counter()
        tiles = (all_poses, all_targets) if augmented else (images, targets)
        losses = list(first_unet.train(net, *tiles, dice_cross_entropy, steps=steps, peak=2e-2))
        nets[kind, augmented], table[kind, augmented] = net, score(net)
        healthy, tumour, wobble = table[kind, augmented]
        print(
            f"{kind + (', augmented' if augmented else ''):22} {count_parameters(net):8} "
            f"{time.perf_counter() - start:5.1f} {sum(losses[-10:]) / 10:6.2f} {healthy:8.3f} {tumour:7.3f} "
            f"{wobble:10.0e}",
            flush=True,
        )

# %%
mean_dice = {kind: sum(sum(table[kind, a][:2]) for a in (False, True)) / 4 for kind in makers}
question_table.reveal(
    max(mean_dice, key=mean_dice.get),
    because=f"The means of both Dice columns are {mean_dice['plain']:.3f} (plain) and {mean_dice['steerable']:.3f} "
    "(steerable). Do not believe the order yet: one seed, 24 test tiles, seconds of training. (A Dice of 0 says that "
    "a network has not learned that class in so few steps.) Another seed can change the order. What no seed changes "
    "is that the last column is tiny for the steerable pair, and not for the plain one.",
)

# %% [markdown]
# Read the last column first. It is tiny for both steerable networks, trained on turned tiles or not: what is left is
# the rounding of single precision, and how much of it differs from network to network. Equivariance is built in. The
# plain ones do not follow it, with augmentation or without: turned tiles in training are a request, and no
# guarantee.
#
# A step of the steerable network takes longer than one of the plain network: the price of equivariance is paid in
# time, here by about the factor between the times of the two augmented rows. And augmentation does nothing to a
# network that is equivariant: the turned tile gives the turned answer and the same gradient. (The figures still
# differ a little, because the batches are drawn differently.)


# %%
def turned_back(net):
    with torch.no_grad():
        return P4M.act(net(P4M.act(test_images[pick], 1)).argmax(1), 3)[0]


def as_it_lies(net):
    with torch.no_grad():
        return net(test_images[pick]).argmax(1)[0]


pick = slice(3, 4)
panels = {"labels": test_targets[3]}
for kind in ("plain", "steerable"):
    panels[kind] = as_it_lies(nets[kind, False])
    panels[f"{kind}, via 90°"] = turned_back(nets[kind, False])
changed = {
    kind: 100 * (panels[kind] != panels[f"{kind}, via 90°"]).double().mean()
    for kind in ("plain", "steerable")
}
show(
    class_maps(list(panels.values()), list(panels), first_unet.PIXEL_CLASSES, um_per_px=first_unet.MPP),
    alt="Labels of one tile and what the two networks without augmentation make of it, as it lies, and turned by 90 degrees "
    f"and turned back. The plain network changes its mind on {changed['plain']:.1f} percent of the pixels, the steerable "
    f"one on {changed['steerable']:.1f} percent.",
)

# %% [markdown]
# ### Longer runs
#
# The same four arms, trained for longer. The table below shows the runs that are stored with the course: "slides" are
# drawn (vector-graphics) slides of breast, "ebhi" is real, labelled tissue, glands and lesions of the colon
# (EBHI-Seg). `equipath run steerable` makes more of them, and the page of results in the book tells how. Dice is
# the mean over the classes; the error is the squared one of the library, averaged over the seven moves.

# %%
long_runs = {(data, size): steerable.stored(data, size) for data in ("ebhi", "slides") for size in results.SIZES}
for (data, size), runs in long_runs.items():
    if not runs:
        continue
    print(f"{data}, size {size:22} {'runs':>5} {'Dice':>14} {'move error':>11}")
    for arm in ("U-Net", "U-Net+", "steerable U-Net", "steerable U-Net+"):
        some = [r for r in runs if r["config"]["model"] == arm]
        if some:
            moved = sum(r["metrics"]["grid_error"] for r in some) / len(some)
            print(f"  {arm:30} {len(some):5} {results.cell(some, 'dice'):>14} {moved:11.0e}")
if not any(long_runs.values()):
    print(
        "No longer runs are stored with this copy of the course: `equipath run steerable --help` says how to make some."
    )
print(
    "the lecture (Liem 2025), real tissue, one run each: Dice of plain with augmentation 0.684, equivariant without 0.627"
)

# %% [markdown]
# (+ stands for augmentation; rows appear only for data with stored runs.) Compare the order of the arms with that of
# your small table. Where it is the reverse, remember what differs: other tiles and classes, longer training, and few
# runs for each arm. Neither table decides which kind is better. The lecture's numbers come from other tissue, other
# networks and other training, too; compare the pattern, not the height. There the plain network with augmentation
# came out ahead in Dice and behind in loss: plain with augmentation 2.294, equivariant without 1.168; lower is better.

# %% [markdown]
# ## 10. Cross-check
#
# Your functions against the library's, and your kernels against people who have never heard of this course.
# `e2cnn` solves the constraint numerically, for any representation. We take its layer from 3 scalars to 2 scalars
# and 2 vectors (its name for O(2)'s vectors is `irrep(1, 1)`; irreps are explained in section 11), read the filter
# that it made at random weights, and ask: do your tied kernels span it? If so, find your weights, and compare
# outputs.

# %%
with warnings.catch_warnings():  # e2cnn's own notices about newer versions of torch
    warnings.simplefilter("ignore")
    from e2cnn import gspaces
    from e2cnn import nn as enn
    from e2cnn.group import change_basis, dihedral_group, directsum

    plane = gspaces.FlipRot2dOnR2(-1, 2, axis=0.0)
    colours = enn.FieldType(plane, 3 * [plane.trivial_repr])
    both = enn.FieldType(plane, 2 * [plane.trivial_repr] + 2 * [plane.irrep(1, 1)])
    theirs = enn.R2Conv(
        colours,
        both,
        5,
        padding=2,
        bias=False,
        frequencies_cutoff=lambda r: 2 if r > 0 else 0,
        initialize=False,
    )
    torch.nn.init.normal_(theirs.weights, generator=torch.Generator().manual_seed(5))
    their_filter = theirs.eval().filter.detach().double()

made = expand_kernels(5)
R, A = made["scalar", "scalar"][:, 0, 0], made["scalar", "vector"][:, :, 0]
fit_f = torch.linalg.lstsq(R.flatten(1).T, their_filter[:2].flatten(2).flatten(0, 1).T).solution.T.reshape(
    2, 3, -1
)
vector_part = their_filter[2:].unflatten(0, (2, 2)).transpose(1, 2).reshape(6, -1)
fit_g = torch.linalg.lstsq(A.flatten(1).T, vector_part.T).solution.T.reshape(2, 3, -1)

library = SteerableConv2d(3, (2, 2), 5, padding=2, bias=False, dtype=torch.float64)
with torch.no_grad():
    library.named_weights()["scalar", "scalar"].copy_(fit_f)
    library.named_weights()["scalar", "vector"].copy_(fit_g)
    yours = mixed(tile, R, A, fit_f, fit_g)
    by_library = library(tile)
    by_e2cnn = theirs(enn.GeometricTensor(tile.float(), colours)).tensor.double()
    w = fields[:, 2:]
    packed = torch.cat([fields[:, :2], fields], 1)
    gates_apart = relative(gate(packed, 2, 2), GatedReLU((2, 2))(packed))
    pooled_apart = relative(pool(v, 2).flatten(1, 2), SteerablePool2d((0, 2))(v.flatten(1, 2)))
print(f"mixed_layer   against equipath: {relative(yours, by_library):.0e} apart")
print(
    f"mixed_layer   against e2cnn:    {relative(yours, by_e2cnn):.0e} apart (e2cnn computes in single precision)"
)
print(f"gated_relu    against equipath: {gates_apart:.0e} apart")
print(f"pool_vectors  against equipath: {pooled_apart:.0e} apart")


def milliseconds(f, repeats=10):
    """The shortest of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


x32 = tile.float()
fast = library.float()
frozen = fast.to_plain()
with torch.no_grad():
    print(
        "3 colours to 2 scalars and 2 vectors, 5 x 5, one tile of 96 x 96, single precision where not said otherwise:"
    )
    print(
        f"  {milliseconds(lambda: mixed(tile, R, A, fit_f, fit_g)):6.2f} ms  yours, in double precision, made anew each call"
    )
    print(
        f"  {milliseconds(lambda: fast(x32)):6.2f} ms  equipath, evaluated by the way that it calls {fast.evaluation(x32)!r}"
    )
    print(
        f"  {milliseconds(lambda: frozen(x32)):6.2f} ms  equipath, frozen into an ordinary convolution by to_plain()"
    )
    print(
        f"  {milliseconds(lambda: theirs(enn.GeometricTensor(x32, colours))):6.2f} ms  e2cnn, filters remembered"
    )

# %% [markdown]
# ## 11. Other ways to turn: representations
#
# Scalars and vectors are two representations. There are more, and the lecture lists `e2cnn`'s functions for them.
# An *irrep* (irreducible representation) is one that no change of basis splits into smaller ones; a *packed field* is
# several fields side by side on the channel axis. Here is each in a line, for the eight moves of D4. A
# representation is a list of matrices, one for each move; its *size* is how many channels one field takes.

# %%
d4 = dihedral_group(4)
c4 = d4.subgroup((None, 4))[0]
slant = [[1.0, 0.5], [0.0, 2.0]]
irreps = {"trivial": d4.irrep(0, 0), "det": d4.irrep(1, 0), "vector": d4.irrep(1, 1)}
regular = d4.regular_representation
quotient = d4.quotient_representation((None, 2))
induced = d4.induced_representation((None, 4), c4.irrep(1))
restricted = d4.restrict_representation((None, 4), irreps["vector"])
summed = directsum([irreps["trivial"], irreps["vector"]])
slanted = change_basis(irreps["vector"], torch.tensor(slant).double().numpy(), "slanted")
print(f"irrep             size {irreps['vector'].size}: cannot be split; {len(d4.irreps)} kinds exist for D4")
print(f"regular           size {regular.size}: one channel for each move, and moves exchange channels")
print(
    f"quotient          size {quotient.size}: the same, but a half turn exchanges nothing (orientations of fibres)"
)
print(
    f"induced           size {induced.size}: from arrows that know turns only, one copy for each handedness"
)
print(
    f"restricted        size {restricted.size}: the arrows again, for a group without mirrors ({restricted.group.name})"
)
print(f"direct sum        size {summed.size}: a scalar and a vector side by side, a packed field")
print(f"change of basis   size {slanted.size}: the arrows in slanted coordinates")

# %% [markdown]
# What is each made of? Your `count_kernels` can tell. The number of independent maps from an irrep that commute
# with all eight moves says how often it is contained (for the irreps of D4, all of which are real in the strict
# sense). `e2cnn` has its own list to compare with.


# %%
def matrices(representation):
    """The eight matrices of a representation of D4: (8, n, n)."""
    return torch.stack([torch.from_numpy(representation(g)) for g in d4.elements]).double()


for name, representation in {
    "regular": regular,
    "quotient": quotient,
    "induced": induced,
    "direct sum": summed,
}.items():
    counted = {irrep: count(matrices(representation), matrices(d4.irreps[irrep])) for irrep in d4.irreps}
    listed = {irrep: representation.irreps.count(irrep) for irrep in d4.irreps}
    print(f"{name:11} {list(counted.values())}   e2cnn says {list(listed.values())}")
print(f"{'':11} in the order {list(d4.irreps)}")

# %% [markdown]
# The regular representation contains every irrep as often as its size. So a network with regular fields, the
# *group convolution* of lesson 3, can express everything that a network with irreps can, for a finite group, and a
# plain ReLU is legal there, since moves only exchange channels. The price: eight channels a field, and angles
# beyond 90° only with larger groups. Irreps take any angle, and need nonlinearities like yours.

# %% [markdown]
# ## 12. In your own words
#
# Two questions that no function can check. They are read by a person. Three to six sentences each.
#
# **Question A (3 points).** A colleague has built a network from the four kernels of the table, with ReLU after
# every layer on *all* channels, those of the vectors too. "It trains well," she says, "and I turn the training
# tiles anyway." Explain what is broken on the vector channels, and why turning the tiles does not repair it. Name
# two repairs.

# %% [markdown] nbgrader={"grade_id": "question-relu", "grade": true, "solution": true, "points": 3}
# ### BEGIN SOLUTION
# ReLU on x and y favours the arrows to the upper right of the picture and cuts the others, so it commutes neither
# with turns nor with the left-right mirror; after the first such layer the fields are no vector fields any more, and
# the constraint on the next kernels is pointless. Training on turned tiles can make the network's answers similar
# on average over the training poses, but it does not make them equal, gives no promise for new tissue or other
# angles, and the kernels still pay for a restriction that buys nothing. Repairs: act on lengths (norm ReLU), gate
# vectors by scalars, or use fields whose channels are only exchanged (regular representation), where ReLU is legal.
#
# *Rubric. 1 point: ReLU on components depends on the axes of the picture, so the layer is not equivariant. 1 point:
# augmentation makes it at best approximately so, for poses and tissue like the training's. 1 point: two repairs.*
# ### END SOLUTION

# %% [markdown]
# **Question B (2 points).** The lecture reports a Dice of 0.684 for a plain U-Net with augmentation and 0.627 for an
# equivariant one without. Someone concludes that equivariance hurts. Give one reason why this does not follow from
# the two numbers, and describe a set of runs that could decide the question.

# %% [markdown] nbgrader={"grade_id": "question-table", "grade": true, "solution": true, "points": 2}
# ### BEGIN SOLUTION
# Two things differ between the runs, the network and the augmentation; the number of weights, the training time and
# the learning rate may differ too, and each number comes from one run with one seed. A decision needs all four
# combinations on the same split by patient, networks of equal size or equal cost, each tuned alike, several seeds,
# and the spread reported; better still at several amounts of training data, and with the error under turns beside
# the Dice.
#
# *Rubric. 1 point: names what is confounded or uncertain (augmentation, size, one seed). 1 point: the 2 x 2 design
# with equal conditions and repeated seeds.*
# ### END SOLUTION

# %% [markdown]
# ## What you can do now
#
# You can say how a field moves, and derive from that what a kernel may be. You have the four solutions between
# scalars and vectors, and you have counted that there are no others. You know what mirrors forbid, what a grid
# breaks and how much, and which nonlinearities and poolings arrows survive. You have built a network whose answer
# turns with the slide in one pass.
#
# **Other roads.** We took kernels that obey a constraint. Others get there differently, and we did not build these:
#
# - *Polar transformer networks* ([Esteves et al. 2018](https://arxiv.org/abs/1709.01889)): predict a centre, unroll the
#   picture around it in log-polar coordinates, and use an ordinary convolution. Turns and scalings become shifts, so
#   one gets both at once, but only about one centre: made for objects, less for tissue that has no middle.
# - *Spherical harmonics for vector data* ([Keuper 2023](https://arxiv.org/abs/2307.03311)): the same game in three
#   dimensions, where the orders $m$ of section 5 become spherical harmonics. It would be the road for stacks of
#   sections or confocal volumes.
# - *The neural Fourier transform* ([Koyama et al. 2023](https://arxiv.org/abs/2305.18484)): do not fix how the
#   latent features turn, learn a code in which the move acts linearly, and split it into irreps afterwards. It buys
#   symmetries that nobody can write down as a turn of pixels, at the price of exactness.
#
# **What is open.** Is equivariance worth its cost when augmentation is free? Your table and the longer runs do
# not decide it: little tissue, small networks, few runs, and perhaps two different orders.
# How should a network choose between scalars, vectors and higher orders? Nobody knows a rule. And the lecture's own
# last question: tissue and cells are seen at two scales at once; which fields should pass from one to the other?
#
# **Where to read on.** [Weiler & Cesa 2019](https://arxiv.org/abs/1911.08251): all of this for every group of the
# plane, and a comparison of many networks. [Worrall et al. 2017](https://arxiv.org/abs/1612.04642): harmonic networks,
# where the idea of steerable filters met deep learning. [Maurice Weiler's
# introduction](https://maurice-weiler.gitlab.io/blog_post/cnn-book_1_equivariant_networks/): the whole field.
