"""Fetch and verify ocelot, as `equipath data fetch ocelot` does; equipath.data.ocelot has the facts."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "ocelot", *sys.argv[1:]])
