"""What to run where an optional package is missing."""


def install_hint(extra: str) -> str:
    """The command for an extra of `pyproject.toml`; from the checkout, for an index may hold another `leccr`."""
    return f'run `pip install -e ".[{extra}]"` in the checkout'
