"""Fetch, verify, unpack and convert camelyon16, as `equipath data fetch camelyon16` does; equipath.data.camelyon16 has the facts."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "camelyon16", *sys.argv[1:]])
