"""Exercises and their verdicts: what is asked, how an answer is judged, and what a student reads.

An `Exercise` holds a reference, alternatives, misconceptions, hints and checks. A check is ``def
check(ask)``; ``ask`` sends plain arrays to the answer and returns plain arrays, so the answer may live in
another process (`serve`, `PipeTransport`).
"""

from .catalogue import list_exercises
from .exercise import Exercise, ExerciseError, Misconception, worth, wrong
from .expect import agrees, batched, close, commutes, depends, equivariant_map, expect, sensitive
from .pipe import PipeTransport
from .port import Ask, Finding, Handle
from .verdict import Hint, NoPoints, Points, Verdict

__all__ = [
    "Ask",
    "Exercise",
    "ExerciseError",
    "Finding",
    "Handle",
    "Hint",
    "Misconception",
    "NoPoints",
    "PipeTransport",
    "Points",
    "Verdict",
    "agrees",
    "batched",
    "close",
    "commutes",
    "depends",
    "equivariant_map",
    "expect",
    "list_exercises",
    "sensitive",
    "worth",
    "wrong",
]
