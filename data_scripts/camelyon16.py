"""Fetch and verify camelyon16, as `equipath data fetch camelyon16` does; see equipath.data.camelyon16."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "camelyon16", *sys.argv[1:]])
