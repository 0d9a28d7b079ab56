# ---
# jupyter:
#   coursekit:
#     title: A small lesson
#     minutes: 5
#     run_minutes: 1
#     ram_mb: 4000
#     download_mb: 0
#     objectives:
#       - Turn an image.
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
# # A small lesson
# The orbit of a tile under p4m holds eight pictures. $f(g \cdot x) = g \cdot f(x)$

# %% nbgrader={"grade_id": "setup", "locked": true}
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
import torch
from check.toys import turn_image
from skimage import data

from coursekit.explore import Choice, Slider, explore
from coursekit.figures import image_row, show, style, tissue
from coursekit.predict import predict

style()
image = data.immunohistochemistry()[:128, :160]

# %%
figure, _ = image_row([image, image[:, ::-1]], ["as it lay", "mirrored"], um_per_px=0.5)
show(figure, alt="A piece of tissue and its mirror image.")

# %%
guess = predict("What does a plain network do when the slide turns?", ["It follows.", "It flickers."])

# %%
guess.reveal("It flickers.", because="Nothing in it knows about turns.")


# %% nbgrader={"grade_id": "turn", "solution": true}
def turn(x, r):
    ### BEGIN SOLUTION
    return torch.rot90(x, r, (-2, -1))
    ### END SOLUTION


# %%
turn_image.check(turn)


# %%
def draw(turns, tint):
    figure, ax = plt.subplots(figsize=(4, 3.6))
    picture = image if tint == "stain" else image.mean(-1)
    tissue(ax, np.rot90(picture, turns), um_per_px=0.5)
    return figure, f"The tissue after {turns} quarter turns, shown as {tint}."


explore(draw, turns=Slider(0, 3, label="quarter turns", play=True), tint=Choice(["stain", "grey"]))
