"""Fetch and verify tnbc, as `equipath data fetch tnbc` does; equipath.data.tnbc has the facts."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "tnbc", *sys.argv[1:]])
