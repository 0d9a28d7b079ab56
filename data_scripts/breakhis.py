"""Fetch and verify breakhis, as `equipath data fetch breakhis` does; equipath.data.breakhis has the facts."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "breakhis", *sys.argv[1:]])
