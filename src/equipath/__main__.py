"""``python -m equipath`` is the ``equipath`` command."""

from equipath.cli import main

main()
