"""Fetch and verify monuseg, as `equipath data fetch monuseg` does; equipath.data.monuseg has the facts."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "monuseg", *sys.argv[1:]])
