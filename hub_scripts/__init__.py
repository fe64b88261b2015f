"""Command lines: `python -m hub_scripts.NAME` or `leccr NAME`."""
