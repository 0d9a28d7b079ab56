"""The papers' tables, re-run: one module an experiment, found by its name.

Each module offers `run(data, size, seed, folder, progress, root) -> dict` (the metrics, saved run by run
with `equipath.experiments.results.save`), `report(results) -> list` of the page's parts, and `TITLE`.
"""

NAMES = ("steerable", "pcam", "gunet", "seunet", "srenet")
"""The experiments, in the order of the page of results."""
