"""Fetch and verify nct_crc, as `equipath data fetch nct_crc` does; equipath.data.nct_crc has the facts."""

import sys

from equipath.cli import app

if __name__ == "__main__":
    app(["data", "fetch", "nct_crc", *sys.argv[1:]])
