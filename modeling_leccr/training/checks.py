"""Settings that exclude or need each other, or that this machine cannot do: refused before anything is built."""

import importlib.util
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.training_args import OptimizerNames
from transformers.utils import is_torch_xla_available

from modeling_leccr.model_files import CONFIG_FILE
from processing.scenes_video import ScenesVideoConfig
from processing.sources import EMBEDDED_DATASETS
from processing.video_frames_leccr import FrameSampling
from retrieval.metrics import recall_metrics
from retrieval.ranks import RetrievalRanks

if TYPE_CHECKING:
    from modeling_leccr.training.arguments import DataArguments, LeccrTrainingArguments, ModelArguments

# accelerate takes these for the whole process from the first training in it.
PROCESS_SETTINGS = frozenset({"bf16", "fp16", "use_cpu"})


def check_trackers(trackers: Sequence[str]) -> None:
    """Refuse trackers that are not installed, or that nobody knows.

    Raises:
        ValueError: there is one.
    """
    modules = {"tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",), "wandb": ("wandb",)}
    for name in trackers:
        if name in modules and not any(importlib.util.find_spec(module) for module in modules[name]):
            raise ValueError(f"report_to names {name}, which is not installed; run `pip install {name}`.")
    if unknown := sorted(set(trackers) - set(INTEGRATION_TO_CALLBACK)):
        raise ValueError(f"report_to must name known trackers such as {list(modules)}, got {unknown}.")


def check_precision(args: "LeccrTrainingArguments") -> None:
    """Refuse bf16 where transformers asks for a GPU, in words that say what to do.

    Raises:
        ValueError: there is no accelerator, and the CPU was not asked for.
    """
    if args.bf16 and not args.use_cpu and not torch.accelerator.is_available() and not is_torch_xla_available():
        raise ValueError(
            "bf16 needs a GPU, and there is none here; to compute in bf16 on the CPU, add `--use_cpu true`."
        )


def check_processes(num_processes: int) -> None:
    """Refuse processes that were started together and do not know of each other.

    Args:
        num_processes: those that train together, as accelerate found them.

    Raises:
        ValueError: each would be a run of its own, and all would write into one folder.
    """
    num_started = int(os.environ.get("WORLD_SIZE", "1"))
    if num_started > 1 and num_processes == 1:
        raise ValueError(
            f"{num_started} processes were started, but without a GPU for each they do not train together: each would "
            f"be a run of its own in the same folder; to train on the CPU, add `--use_cpu true`."
        )


def check_evaluations(args: "LeccrTrainingArguments") -> None:
    """Refuse settings that choose by evaluations where there are none, or none that has a checkpoint.

    Raises:
        ValueError: training cannot stop early or end with the best model, or the patience is no number.
    """
    patience = args.early_stopping_patience
    evaluates, saves = IntervalStrategy(args.eval_strategy).value, SaveStrategy(args.save_strategy).value
    if patience is not None and (not isinstance(patience, int) or patience < 1):
        raise ValueError(f"early_stopping_patience must be a number of evaluations from 1, or null; got {patience!r}.")
    if patience is not None and (evaluates == "no" or args.metric_for_best_model is None):
        raise ValueError(
            f"early_stopping_patience needs evaluations and their metric; got eval_strategy {evaluates!r} and "
            f"metric_for_best_model {args.metric_for_best_model!r}."
        )
    if args.load_best_model_at_end and saves not in ("best", evaluates):
        raise ValueError(
            f"load_best_model_at_end needs eval_strategy and save_strategy to be the same, or save_strategy best, so "
            f"that what is evaluated is saved; got {evaluates!r} and {saves!r}. For the last model instead of the best "
            f"one, add `--load_best_model_at_end false`."
        )


def check_metric(args: "LeccrTrainingArguments", languages: Sequence[str]) -> None:
    """Refuse a metric that the first evaluation would not find.

    Args:
        args: of the run.
        languages: those that are evaluated.

    Raises:
        ValueError: the evaluations have no such metric, or the best model would be the worst by it.
    """
    metric = args.metric_for_best_model
    if metric is None or args.eval_strategy == "no":
        return
    rank = torch.ones(1, dtype=torch.int64)
    names = recall_metrics(RetrievalRanks(i2t=rank, t2i=rank)).keys()
    known = {"sum_r", "mean/sum_r", *(f"{language}/{name}" for language in languages for name in names)}
    if metric.removeprefix("eval_") not in known:
        raise ValueError(
            f"metric_for_best_model must be sum_r, or LANGUAGE/NAME with a LANGUAGE of {list(languages)} and a NAME of "
            f"{list(names)}; got {metric!r}."
        )
    if metric.endswith("median_rank") and args.greater_is_better:
        raise ValueError(f"greater_is_better must be false for {metric}, of which 1 is the best; got true.")


def check_scoring(scoring: str, config: Any, title: str) -> None:
    """Refuse scores that the first evaluation would not find.

    Args:
        scoring: of the recipe.
        config: of the model.
        title: what the model is called.

    Raises:
        ValueError: it asks for slots where there are none.
    """
    if scoring == "slots" and not config.has_slots:
        raise ValueError(f"scoring must be fused or global for {title}, which has no slots, got {scoring!r}.")


def check_visual_settings(model: "ModelArguments", data: "DataArguments", config: Any) -> None:
    """Refuse settings of pictures, clips or frame features for a model that reads another of these.

    Args:
        model: of the recipe.
        data: likewise.
        config: of the model.

    Raises:
        ValueError: there is one, or it has no value that can be meant.
    """
    FrameSampling(frame_rate=model.frame_rate)  # for its check
    if not config.reads_image:  # a control of texts alone shares the data of its main system
        return
    if data.dataset == "scenes_video":
        form = ScenesVideoConfig(**data.scenes_video).form
        fitting = {"clips": "frames", "features": "features"}[form]
        if config.vision_input != fitting:
            raise ValueError(
                f"scenes_video.form: {form} is read with model.vision_input: {fitting}, got {config.vision_input}; set "
                f"both alike."
            )
    readers: dict[str, tuple[str, ...]] = {"images": ("image",), "videos": ("frames",), "features": ("features",)}
    given = {name: inputs for name, inputs in readers.items() if getattr(data, name) is not None}
    if model.num_frames is not None:
        given["num_frames"] = ("frames", "features")
    if model.frame_rate is not None:
        given["frame_rate"] = ("frames",)
    if data.augmentation:
        given["augmentation"] = ("image", "frames")
    if idle := [name for name, inputs in given.items() if config.vision_input not in inputs]:
        raise ValueError(
            f"{idle[0]} has no meaning for model.vision_input: {config.vision_input}, only for "
            f"{' or '.join(given[idle[0]])}; leave it out (`--{idle[0]} null`), or set vision_input."
        )


def check_gradient_cache(args: "LeccrTrainingArguments") -> None:
    """Refuse what updates the weights after a backward pass: a step with the cache makes several.

    Raises:
        ValueError: the run is one of these, or the chunk is empty.
    """
    if args.gradient_cache_chunk_size is None:
        return
    if args.gradient_cache_chunk_size < 1:
        raise ValueError(
            f"gradient_cache_chunk_size must be at least 1 pair, or null for none, got "
            f"{args.gradient_cache_chunk_size}."
        )
    with_deepspeed = args.deepspeed_plugin is not None
    if with_deepspeed or args.optim in (OptimizerNames.LOMO, OptimizerNames.ADALOMO):
        found = "DeepSpeed" if with_deepspeed else f"optim {OptimizerNames(args.optim).value!r}"
        raise ValueError(
            f"gradient_cache_chunk_size works with DDP and FSDP and with optimizers that step on their own, got "
            f"{found}; use configs/accelerate/fsdp2.yaml, or leave gradient_cache_chunk_size out."
        )


def check_base(settings: Mapping[str, Any], names: Collection[str]) -> None:
    """Refuse what a model that is trained already brings itself.

    Args:
        settings: of the recipe.
        names: the settings that say what is trained.

    Raises:
        ValueError: there is a base_model, and one of the others.
    """
    beside = {"base_model", "system", "teacher"}
    given = sorted(name for name in names if settings.get(name) and name not in beside)
    if settings.get("base_model") and given:
        raise ValueError(
            f"base_model brings its towers, sizes and processor, so {given} would do nothing; leave them out of the "
            f"recipe, or take them back with `{' '.join(f'--{name} null' for name in given)}`."
        )


def check_stages(model: "ModelArguments", *, reads_teacher: bool) -> None:
    """Refuse settings of training in two stages that contradict each other.

    Args:
        model: of the recipe.
        reads_teacher: whether a term of the losses does.

    Raises:
        ValueError: nothing is learned from the teacher, the stages differ in what one takes over from the other, or a
            trained model is to go on without its teacher.
    """
    if model.system == "cl2cm" and not (reads_teacher or model.init_from_teacher):
        raise ValueError(
            "no term of the losses reads the teacher, so that the first stage would be for nothing; raise "
            "loss.relational_transfer or loss.feature_distillation, or train two streams without a teacher, as "
            "configs/baseline_scenes.yaml does."
        )
    if model.init_from_teacher and {"text_tower", "model"} & set(model.cross_lingual):
        raise ValueError(
            "init_from_teacher needs both stages to have the same text tower and the same choices of the model, got "
            f"{sorted(model.cross_lingual)} in cross_lingual; leave text_tower and model out there."
        )
    if model.system == "cl2cm" and model.base_model and not model.teacher:
        raise ValueError(
            "base_model with system: cl2cm needs its teacher, a folder or Hub id of a cross-lingual network that reads "
            "with the same tokenizer; got none."
        )


def check_first_stage(changes: Mapping[str, Any], data_names: Collection[str]) -> None:
    """Refuse changes for the first stage of what both stages share.

    Args:
        changes: the section `cross_lingual` of a recipe.
        data_names: settings of the data.

    Raises:
        ValueError: there is such a change.
    """
    shared = {
        *data_names,
        *PROCESS_SETTINGS,
        "system",
        "teacher",
        "base_model",
        "init_from_teacher",
        "cross_lingual",
        "controls",
    }
    shared |= {"vocab_size", "max_length", "clean_captions", "output_dir", "push_to_hub", "resume_from_checkpoint"}
    refused = sorted(set(changes) & shared)
    # Both stages read with one tokenizer: that of a tower by name, or one that is trained here.
    if isinstance(changes.get("text_tower"), str):
        refused.append("text_tower (by name)")
    if refused:
        raise ValueError(
            f"cross_lingual changes what the first stage learns with, not what both stages share, got {refused}; set "
            f"them for the whole recipe, or train the network by a recipe of its own and name it as teacher."
        )


def check_same_model(checkpoint: Path, config: Any, title: str) -> None:
    """Refuse to go on from a checkpoint of another system, such as one of the first stage in the second.

    Args:
        checkpoint: its folder.
        config: of the model that is trained.
        title: what that is called.

    Raises:
        ValueError: the checkpoint holds a model of another type.
    """
    if not (checkpoint / CONFIG_FILE).is_file():  # of an adapter
        return
    found = PreTrainedConfig.get_config_dict(checkpoint)[0].get("model_type")
    if found != config.model_type:
        raise ValueError(
            f"resume_from_checkpoint must be a checkpoint of {title}, got {checkpoint} of type {found!r}; to go on in "
            f"whichever stage a run was stopped, say `--resume_from_checkpoint true`."
        )


def check_streaming(data: "DataArguments", training: "LeccrTrainingArguments") -> None:
    """Refuse what a stream does not have.

    Raises:
        ValueError: the recipe needs a length, epochs, other data, or rows by their number.
    """
    if training.max_steps <= 0:
        raise ValueError(
            f"streaming needs max_steps, got {training.max_steps}: a stream has no length, and with it no epochs to "
            f"count; max_steps is epochs x items / pairs of all processes in a step."
        )
    strategies = {
        name: str(IntervalStrategy(getattr(training, name)).value) for name in ("eval_strategy", "save_strategy")
    }
    if "epoch" in strategies.values():
        raise ValueError(f"streaming has no epochs after which to evaluate or save, got {strategies}; say steps or no.")
    if data.dataset in EMBEDDED_DATASETS:
        raise ValueError("streaming reads parquet files, and the embedded data set has none; leave streaming out.")
    if training.batch_neighbours != 1:
        raise ValueError(f"streaming draws rows one by one, got batch_neighbours={training.batch_neighbours}; drop it.")
    names = ("images", "videos", "features", "train_items")
    refused = {name: getattr(data, name) for name in names if getattr(data, name) is not None}
    if refused:
        raise ValueError(
            f"streaming does not go with {refused}: rows are read once, in the order of their files; write the "
            f"pictures, clips or features and the items wanted into the parquet files."
        )
