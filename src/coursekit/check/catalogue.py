"""Which exercises there are: found in the packages that name themselves under the entry point group
``coursekit.exercises``.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from .exercise import Exercise, ExerciseError

GROUP = "coursekit.exercises"


def exercises_in(module: str | ModuleType) -> list[Exercise]:
    """The exercises that a module holds at its top level, in the order they are written there."""
    if isinstance(module, str):
        module = importlib.import_module(module)
    found: dict[int, Exercise] = {id(x): x for x in vars(module).values() if isinstance(x, Exercise)}
    return list(found.values())


def all_exercises(package: str | None = None) -> list[Exercise]:
    """Every exercise in the modules of ``package``, or of all packages of the entry point group, ordered by
    lesson.

    Raises `ExerciseError` where two exercises have one name, or where no installed package offers any.
    """
    packages = [package] if package else sorted({e.value for e in entry_points(group=GROUP)})
    if not packages:
        raise ExerciseError(
            f"no installed package offers exercises (entry point group {GROUP}): install the course again"
        )
    found: dict[int, Exercise] = {}
    for name in packages:
        root = importlib.import_module(name)
        modules = [name]
        if hasattr(root, "__path__"):
            modules += sorted(m.name for m in pkgutil.walk_packages(root.__path__, name + "."))
        for each in modules:
            found.update((id(x), x) for x in exercises_in(each))
    names = [x.name for x in found.values()]
    doubled = sorted({n for n in names if names.count(n) > 1})
    if doubled:
        raise ExerciseError(f"two exercises have the name {', '.join(doubled)}")
    return sorted(found.values(), key=lambda x: x.lesson)


def list_exercises(package: str | None = None) -> list[dict[str, Any]]:
    """One row for each exercise: exercise, lesson, title, points, alternatives, misconceptions, hints
    (counts), objective.
    """
    return [
        {
            "exercise": x.name,
            "lesson": x.lesson,
            "title": x.title,
            "points": x.points,
            "alternatives": len(x.alternatives),
            "misconceptions": len(x.misconceptions),
            "hints": len(x.hints),
            "objective": x.objective,
        }
        for x in all_exercises(package)
    ]
