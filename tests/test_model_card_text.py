"""What the card of a model claims: each sentence holds for the model it is about, and is absent from other cards."""

from typing import Any

import pytest

from reporting.markdown import plain
from reporting.model_card import ModelFacts, eval_result_files, model_card
from reporting.model_record import ModelRecord
from tests.model_card_parts import REPO, full_record, protocol, scores, section
from tests.tiny import tiny_config

NAN = float("nan")
FILES = frozenset({"check_embeddings.py", "modules.json"})
AUTO_MAP = {"AutoModelForZeroShotImageClassification": "x"}


def facts(record: ModelRecord | None = None, **fields: Any) -> ModelFacts:
    """Of a model that may go without descriptions, unless `fields` of its configuration say otherwise."""
    config = tiny_config(**{"description_dropout": 0.1, **fields}).to_dict() | {"auto_map": AUTO_MAP}
    return ModelFacts(
        REPO, config, {"max_length": 48}, full_record() if record is None else record, 7, "float32", files=FILES
    )


def drawn(**changes: Any) -> ModelRecord:
    return full_record(settings={"dataset": "scenes", "target_languages": ["de"]}, **changes)


def summary(card: str) -> str:
    return card.partition("\n# ")[2].partition("\n## ")[0]


def measured_alone(**changes: float) -> ModelRecord:
    """A record of a model that was also scored without descriptions."""
    record, alone = full_record(), scores("de", 1.0) | scores("zh", 2.0) | scores("fr_mt", 3.0)
    alone |= {"de/sum_r": 100.0, "zh/sum_r": 101.0, "fr_mt/sum_r": 102.5} | changes
    name = "test without descriptions"
    without = {**record.protocol["test"], "descriptions": False}
    return full_record(metrics={**record.metrics, name: alone}, protocol={**record.protocol, name: without})


def test_the_card_tells_what_going_without_descriptions_costs() -> None:
    """Most people have no descriptions; a model that halves its recall there was said to be found "less well"."""
    card = model_card(facts(measured_alone()))
    assert "stand-in for it, and the mean SumR is then 101.2 instead of 345.5." in section(card, "Limits")
    results = section(card, "Results")
    first, second = results.split("\nThe same without descriptions:\n")
    assert "| German | 31.1 |" in first and "| 345.5 |" in first
    assert "| German | 1.0 | 2.0 | 3.0 | 4.0 | 5.0 | 6.0 | 100.0 | 1,040 | 2,080 | 1 to 3 |" in second
    assert "pictures: used in the first table, not in the second." in second
    assert "it takes no description, and Limits says what that costs;" in section(card, "Use")
    # The results that others read stay those of the split itself.
    both, one = facts(measured_alone()), facts()
    assert eval_result_files(both) == eval_result_files(one)
    index = [card.partition("\n# ")[0] for card in (model_card(both), model_card(one))]
    assert index[0] == index[1] and index[0].count("de_sum_r") == 1


def test_a_cost_that_was_not_measured_is_not_hidden() -> None:
    """An older record, a checkpoint and a converted model say nothing about it."""
    for record in (full_record(), ModelRecord()):
        card = model_card(facts(record))
        assert "for it, and is found less well; how much was not measured." in section(card, "Limits")
        assert "The same without descriptions" not in card and "in the first table" not in card
    validation = full_record(metrics={"validation": scores("de"), "test without descriptions": scores("de")})
    assert "how much was not measured" in model_card(facts(validation))


@pytest.mark.parametrize("fields", [{"item_source": "image", "interaction": "none"}, {"description_dropout": 0.0}])
def test_only_a_model_that_may_go_without_descriptions_speaks_of_it(fields: dict[str, Any]) -> None:
    """The others take none, or refuse a picture without one."""
    card = model_card(facts(**fields))
    assert "without a description is taken" not in card and "less well" not in card and "it takes no desc" not in card
    believes = "What a description says wrongly about a picture, the model believes." in section(card, "Limits")
    assert believes is ("item_source" not in fields)
    assert ("(run it after the block above; a label of more than" in card) is ("item_source" in fields)


def test_a_card_of_drawn_scenes_speaks_of_no_translation_model() -> None:
    """No model wrote its captions: rules did, and disturbed some words in place of a translator's faults."""
    for language in ("de", "de_mt"):
        card = model_card(facts(drawn(metrics={"test": scores(language)}, protocol={"test": protocol("test", "de")})))
        assert "learned other languages from captions that rules wrote about drawn scenes." in summary(card)
        training = section(card, "Training")
        assert "- Data: `scenes`, pictures of one to three objects that a program draws." in training
        assert "captions in German, all written by rules" in training and "(`translation_noise`)" in training
        limits = section(card, "Limits")
        assert "It was trained on drawn scenes of a few objects and on captions written by rules; it knows" in limits
        for claim in ("machine translations", "the model that wrote them", "human captions"):
            assert claim not in card, claim
        disturbed = "Queries: captions written by rules, with disturbed words, against all items of the split;"
        assert (disturbed in card) is (language == "de_mt")
    both = drawn(metrics={"test": scores("de") | scores("de_mt")})
    assert "by rules, or captions written by rules, with disturbed words where the table says" in model_card(
        facts(both)
    )


def test_a_card_of_real_data_says_that_a_model_translated() -> None:
    """The faults of translations are those that the model has learned."""
    card = model_card(facts())
    assert "; it learned other languages from machine translations of English captions." in summary(card)
    assert "- English captions with their machine translations into German and Chinese." in section(card, "Training")
    assert "are machine translations, with the faults of the model that wrote them." in section(card, "Limits")
    assert "drawn" not in card and "rules" not in card
    unknown = model_card(facts(full_record(settings={"dataset": "org/pets"})))
    assert "it learned other languages" not in unknown and "English captions with" not in unknown
    assert "that it learned other languages from" not in unknown


def test_queries_are_named_for_what_they_are() -> None:
    """A recall of translations beside recalls of human captions compares nothing."""
    found = {
        languages: section(model_card(facts(full_record(metrics={"test": metrics}))), "Results")
        for languages, metrics in {
            "human": scores("de"),
            "translated": scores("de_mt"),
            "both": scores("de") | scores("fr_mt"),
        }.items()
    }
    assert "Queries: human captions, against all items of the split; all texts" in found["human"]
    assert "Queries: machine translations, against all items of the split; all texts" in found["translated"]
    assert "Queries: human captions, or machine translations where the table says so, against all" in found["both"]


def test_items_that_were_left_out_are_counted() -> None:
    """An item whose translations were all refused is no candidate, and fewer candidates are found more easily."""
    measured = protocol("test", "de", "fr_mt")
    measured["languages"] = {**measured["languages"], "fr_mt": {"items_without_translation_left_out": 1012}}
    record = full_record(metrics={"test": scores("de") | scores("fr_mt")}, protocol={"test": measured})
    results = section(model_card(facts(record)), "Results")
    left_out = "split but those without a translation (1,012 in French (machine translation)); all texts of an item"
    assert left_out in results and "against all items of the split;" not in results


def test_the_card_says_on_what_a_min_max_score_depends() -> None:
    """A share of stretched scores is not the share of cosines that the other scores have."""
    measured = {**protocol("test", "de"), "scoring": "min_max", "scores_depend_on": "all items and texts of the split"}
    results = section(model_card(facts(full_record(protocol={"test": measured}))), "Results")
    stretched = "0.25 of the best slot, each stretched to [0, 1] over all items and texts of the split."
    assert stretched in results.replace("\\", "")
    assert "stretched" not in section(model_card(facts()), "Results")


@pytest.mark.parametrize(("used", "told"), [(True, "used"), (False, "not used")])
def test_the_protocol_says_whether_descriptions_were_used(used: bool, told: str) -> None:
    """A recall with descriptions is another task than one without."""
    record = full_record(protocol={"test": {**protocol("test", "de"), "descriptions": used}})
    assert f"- Descriptions of the pictures: {told}.\n" in section(model_card(facts(record)), "Results")


def test_the_limits_name_the_cut_and_what_was_measured() -> None:
    """English is in the metadata and was not evaluated; what is behind the cut is lost without a word."""
    limits = section(model_card(facts()), "Limits")
    assert "- Captions and descriptions are cut after 48 tokens." in limits
    assert "Languages, pictures and uses other than those in Results were not measured, and neither was b" in limits
    unmeasured = section(model_card(facts(ModelRecord())), "Limits")
    assert "How well it finds pictures was not recorded, and bias was not measured." in unmeasured
    assert "those in Results" not in unmeasured and "was trained on, and how, was not recorded" in unmeasured


@pytest.mark.parametrize(
    ("source", "interaction", "item"),
    [
        ("image_and_description", "dual", "A picture, with its English description, and a caption become"),
        ("image", "none", "A picture and a caption become"),
        ("description", "none", "The English description of a picture and a caption become"),
    ],
)
def test_the_card_says_what_an_item_is_embedded_from(source: str, interaction: str, item: str) -> None:
    """A control is published by the same code, and is another kind of model."""
    card = model_card(facts(item_source=source, interaction=interaction))
    rows = section(card, "Model")
    assert f"| an item is embedded from | {source.replace('_', ' ')} |" in rows and item in summary(card)
    assert ("| interaction of slots and visual tokens |" in rows) is (interaction == "dual")


@pytest.mark.parametrize(
    ("processes", "steps", "precision", "told"),
    [
        (1, 1, "no", "Global batch: 32 pairs (1 process); mixed precision: no."),
        (4, 1, "bf16", "Global batch: 128 pairs (4 processes of 32); mixed precision: bf16."),
        (4, 2, "no", "Global batch: 128 pairs (4 processes of 32), 2 of them an update; mixed precision: no."),
    ],
)
def test_the_card_tells_the_global_batch(processes: int, steps: int, precision: str, told: str) -> None:
    """The losses are over the batch of all processes, and the recipe holds that of one."""
    launch = {"num_processes": processes, "pairs_per_process": 32}
    launch |= {"gradient_accumulation_steps": steps, "mixed_precision": precision}
    training = section(model_card(facts(full_record(launch=launch))), "Training")
    assert f"- {told}\n" in training
    assert "- Training took 2.5 minutes, evaluations included." in training
    assert "Global batch" not in model_card(facts())


def test_the_card_tells_where_the_weights_are_from() -> None:
    """Converted weights would be taken for trained here."""
    card = model_card(facts(ModelRecord(origin="converted from *best*.pth (sha256 12ab)")))
    assert r"Its weights were converted from \*best\*.pth (sha256 12ab)." in summary(card)
    assert "With the package LECCR for the Hub write `import modeling_leccr`" in card
    assert "Its weights were" not in model_card(facts())


def test_a_metric_that_is_not_a_number_is_left_out() -> None:
    """The Hub refuses `.nan` in the metadata of a card."""
    record = full_record(metrics={"test": scores("de") | {"de/t2i_R@1": NAN, "de/sum_r": NAN}})
    card = model_card(facts(record))
    assert ".nan" not in card and "de_t2i_R@5" in card and "de_t2i_R@1\n" not in card
    assert "| German | – | 32.1 |" in section(card, "Results")
    assert not [text for text in eval_result_files(facts(record)).values() if "nan" in text]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("~~gone~~", r"\~\~gone\~\~"),
        ("see https://example.org", r"see https\://example.org"),
        ("see WWW.example.org", r"see WWW\.example.org"),
        ("a@example.org", r"a\@example.org"),
        ("torch 2.13: a, b", "torch 2.13: a, b"),
    ],
)
def test_a_plain_text_becomes_neither_a_link_nor_struck_out(text: str, shown: str) -> None:
    """Addresses become links without any mark around them, and a card is trusted."""
    assert plain(text) == shown
