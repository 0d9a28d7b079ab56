"""Fetch and verify dsb2018, as `equipath data fetch dsb2018` does; equipath.data.dsb2018 has the facts."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "dsb2018", *sys.argv[1:]])
