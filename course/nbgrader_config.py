"""The course as nbgrader sees it: where the notebooks come from, and where submissions and grades are kept.

Run nbgrader in this folder and it finds this file. The lessons' sources must never lie in nbgrader's own
source folder: it hands every file there that is not a notebook to the students as it is. So that folder is a
built one (`coursekit build`), and holds notebooks only.
"""

import os
from pathlib import Path

c = get_config()  # noqa: F821 (nbgrader puts it here)

repository = Path(__file__).resolve().parent.parent
# Submissions and the gradebook cannot be built again. Name a folder that is backed up before the first
# student hands in.
classroom = Path(os.environ.get("COURSEKIT_CLASSROOM") or repository / "build" / "classroom").resolve()
exchange = classroom / "exchange"
exchange.mkdir(parents=True, exist_ok=True)  # nbgrader makes its own folders, but not these

c.CourseDirectory.course_id = "equipath"
c.CourseDirectory.root = str(classroom)
c.CourseDirectory.source_directory = str(repository / "build" / "source")
c.Exchange.root = str(exchange)
c.NbGrader.logfile = str(classroom / "nbgrader.log")

# nbgrader gives no points to a cell that wrote anything to stderr, be it a warning or a progress bar. Output
# is no mistake: take stderr away before scores are read. What a cell returns or raises still decides.
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"(?s)."
# A cell may train a small network, on a machine that grades others too; after this many seconds it counts as endless.
c.Execute.timeout = 300
c.Execute.startup_timeout = 180
