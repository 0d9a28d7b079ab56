"""Fetch and verify bcss, as `equipath data fetch bcss` does; equipath.data.bcss has the facts."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "bcss", *sys.argv[1:]])
