# ---
# jupyter:
#   coursekit:
#     title: A small lesson
#     minutes: 5
#     run_minutes: 3
#     ram_mb: 2000
#     download_mb: 0
#     objectives:
#       - Halve a number.
#       - Count the elements of a group.
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
# It isn't long: an orbit is what a group makes of one point. $x \mapsto x/2$ halves.

# %% nbgrader={"grade_id": "setup", "locked": true}
# %matplotlib inline
import os

import matplotlib.pyplot as plt
from IPython.display import display


class Asked:
    """Stands in for an exercise object."""

    def __init__(self, question, points):
        self.question, self.points = question, points

    def right(self, answer):
        try:
            return [answer(x) == want for x, want in self.question.items()]
        except NotImplementedError:
            return None

    def check(self, answer):
        right = self.right(answer)
        print("not attempted" if right is None else "correct" if all(right) else "wrong")

    def grade(self, answer):
        right = self.right(answer)
        if right is None:
            raise NotImplementedError("not attempted")
        if not any(right):
            raise ValueError("no case is right")
        return self.points * sum(right) / len(right)


# %% nbgrader={"grade_id": "half", "solution": true}
def half(x):
    """Half of x."""
    ### BEGIN SOLUTION
    halved = x / 2
    return halved
    ### END SOLUTION


# %%
half_exercise = Asked({1: 0.5, 4: 2.0}, points=2)
half_exercise.check(half)

# %% nbgrader={"grade_id": "half-grade", "grade": true, "points": 2}
half_exercise.grade(half)

# %%
fig, ax = plt.subplots(figsize=(2, 1))
ax.plot([0, 1], [0, 0.5])
fig.savefig("line.png")  # the working directory is the run's own
display(fig, metadata={"image/png": {"alt": "a line that rises from 0 to 0.5"}})
plt.close(fig)

# %% nbgrader={"grade_id": "order", "solution": true}
def order(name):
    """Number of elements of a group."""
    ### BEGIN SOLUTION
    return {"p4": 4, "p4m": 8}[name]
    ### END SOLUTION


# %% nbgrader={"grade_id": "order-grade", "grade": true, "points": 3}
order_exercise = Asked({"p4": 4}, points=3)
### BEGIN HIDDEN TESTS
order_exercise = Asked({"p4": 4, "p4m": 8, }, points=3)
### END HIDDEN TESTS
order_exercise.grade(order)

# %%
"book" if os.environ.get("COURSEKIT_BOOK") == "1" else "classroom"
