"""Fetch and verify pcam, as `equipath data fetch pcam` does; equipath.data.pcam has the facts."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "pcam", *sys.argv[1:]])
