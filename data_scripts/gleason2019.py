"""Fetch and verify gleason2019, as `equipath data fetch gleason2019` does; see equipath.data.gleason2019."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "gleason2019", *sys.argv[1:]])
