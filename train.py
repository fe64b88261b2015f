"""Train, evaluate, save, reload and search, from one recipe.

    accelerate launch train.py configs/scenes.yaml --learning_rate 1e-3 --model.num_slots 2

The first argument is a YAML recipe; the rest override it. `python train.py --help` lists all settings.
"""

import logging
import os
import sys
import time
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from hub_scripts.cli import USER_ERRORS, origin
from modeling_leccr.export import check_replaceable
from modeling_leccr.training.arguments import help_text, parse_recipe
from modeling_leccr.training.building import build_processor, frame_sampling, load_splits
from modeling_leccr.training.console import warn_once_of_many_workers
from modeling_leccr.training.controls import control_recipes
from modeling_leccr.training.failures import TrainingStoppedError
from modeling_leccr.training.outputs import (
    push_main_system,
    record_start,
    save_and_verify,
    search_in_fresh_process,
    write_metrics,
    write_pictures_and_report,
)
from modeling_leccr.training.run import TEACHER, reported_split, train_system, use_all_cores
from modeling_leccr.training.trained import model_config
from reporting.run_record import PeakMemory

logger = logging.getLogger("train")


def main(arguments: list[str]) -> None:
    """Read the recipe, build its parts, train it and its controls, and write what they give."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__, help_text(), sep="\n")
        return
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_first else logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    for client in ("httpx", "httpx2"):  # each request of a push would be a line
        logging.getLogger(client).setLevel(logging.WARNING)
    warn_once_of_many_workers()
    use_all_cores()
    start = time.perf_counter()
    recipe = parse_recipe(arguments)
    main_system, folder = recipe.title, Path(str(recipe.training.output_dir))
    for name in ("model", TEACHER) if recipe.first_stage else ("model",):
        check_replaceable(folder / name)
    config = model_config(recipe)
    splits = load_splits(recipe.data, config, frame_sampling(recipe.model, config))
    processor = build_processor(recipe.model, splits["train"], recipe.data.target_languages)
    seconds = {"prepare data": time.perf_counter() - start}
    reported = reported_split(splits)
    languages = recipe.data.evaluation_languages or recipe.data.target_languages
    controls = control_recipes(recipe)
    data_record = record_start(folder, recipe, splits) if is_first else {}
    with PeakMemory() as memory, logging_redirect_tqdm():
        runs = {
            main_system: train_system(
                recipe,
                splits,
                processor,
                folder / "checkpoints" / main_system,
                parts_folder=folder,
                data_record=data_record,
            )
        }
        if runs[main_system].is_main_process:
            start = time.perf_counter()
            logger.info("saving %s, and embedding with it in a fresh process", folder / "model")
            difference = save_and_verify(folder, runs[main_system], processor, recipe.training.hub_license)
            logger.info("reloaded in a fresh process: embeddings differ by at most %.1e", difference)
            logger.info("indexing and searching %s in a fresh process", folder / "items")
            searches = search_in_fresh_process(folder, splits[reported], languages)
            seconds["save, reload and search"] = time.perf_counter() - start
        for name, control in controls.items():
            runs[name] = train_system(
                control, splits, processor, folder / "checkpoints" / name, data_record=data_record
            )
    if not runs[main_system].is_main_process:
        return
    logger.info("drawing the pictures and writing the report")
    record = write_metrics(
        folder, runs, seconds=seconds, peak_gib=memory.peak_gib, truncation_rate=processor.truncation_rate
    )
    write_pictures_and_report(folder, runs, record, split_name=reported, languages=languages, searches=searches)
    logger.info("report: %s", folder / "report.md")
    if recipe.training.push_to_hub:
        try:
            logger.info("pushed: %s", push_main_system(folder, recipe.training))
        except RuntimeError as error:
            raise SystemExit(f"train.py: {error}") from error


def run_script(arguments: list[str]) -> None:
    """As `main`; what its user can mend ends it with one line and status 1.

    Raises:
        SystemExit: the user's data, settings or connections are at fault, or the run was stopped.
    """
    try:
        main(arguments)
    except KeyboardInterrupt:
        raise SystemExit("train.py: stopped; with `--resume_from_checkpoint true` it goes on.") from None
    except (*USER_ERRORS, TrainingStoppedError) as error:
        raise SystemExit(f"train.py: {error} [{origin(error)}]") from error


if __name__ == "__main__":
    run_script(sys.argv[1:])
