"""Check a saved model in a process of its own, as somebody without this package would load it.

    python -I hub_scripts/verify_export.py MODEL_FOLDER

Runs `check_embeddings.py` of the folder from another place while this project's packages cannot be imported. Prints the
largest difference as JSON; exits with 1 above 1e-6, for on the machine that saved it nothing is rounded differently.
"""

import os
import runpy
import sys
import tempfile
from pathlib import Path

PACKAGES = ("modeling_leccr", "processing", "retrieval", "reporting", "hub_scripts")
TOLERANCE = 1e-6


def main(model_folder: str) -> None:
    """Load without the package, embed, compare."""
    script = str(Path(model_folder).resolve() / "check_embeddings.py")
    for package in PACKAGES:
        sys.modules[package] = None  # type: ignore[assignment]  # an import of it now fails
    with tempfile.TemporaryDirectory() as elsewhere:
        os.chdir(elsewhere)
        os.environ["HF_MODULES_CACHE"] = elsewhere
        sys.argv = [script, "--tolerance", str(TOLERANCE)]
        try:
            runpy.run_path(script, run_name="__main__")
        finally:
            os.chdir("/")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
