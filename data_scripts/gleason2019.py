"""Fetch, verify, unpack and convert gleason2019, as `equipath data fetch gleason2019` does; equipath.data.gleason2019 has the facts."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "gleason2019", *sys.argv[1:]])
