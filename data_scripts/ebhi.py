"""Fetch and verify ebhi, as `equipath data fetch ebhi` does; equipath.data.ebhi has the facts."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "ebhi", *sys.argv[1:]])
