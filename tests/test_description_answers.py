"""Tests of processing/description_answers.py."""

from pathlib import Path

import pytest

from processing.description_answers import cut_to_sentences, is_empty, is_refusal, tidy_captions, tidy_description
from processing.sources import open_splits

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t assist with that request.",
    "I`m sorry, I cannot do this.",
    "I am sorry, but the picture cannot be described.",
    "I'm really sorry, but no.",
    "Sorry, I can't do that.",
    "Sorry but this picture is not allowed.",
    "My apologies, but I am unable to view it.",
    "Apologies for the confusion, but no picture came through.",
    "I apologize, but I cannot identify people.",
    "I cannot describe this picture.",
    "I can not describe this picture.",
    "I can't see any image.",
    "I CANNOT assist with that.",
    "I couldn't find a picture in your message.",
    "I don't see an image attached.",
    "I do not have the ability to view pictures.",
    "I didn't receive a picture.",
    "I won't describe this.",
    "I will not describe this.",
    "I must decline to describe this.",
    "I'm unable to provide a description.",
    "I am not able to identify the people.",
    "I'm not comfortable describing this.",
    "I'm afraid I can't do that.",
    "I'm just an AI and have no eyes.",
    "I was unable to open the file.",
    "I haven't received any image.",
    "As an AI, I do not see pictures.",
    "As an AI language model, I cannot see pictures.",
    "As a large language model I have no eyes.",
    "As a text-based AI, I cannot see.",
    "As an artificial intelligence, I have no view on this.",
    "Unfortunately, I cannot view the picture.",
    "Unfortunately I'm unable to help.",
    "Hello! I'm sorry, but I can't help with that.",
    "Thank you for the picture, but I cannot describe it.",
    "I'd be happy to help, but I don't see a picture.",
    "I would love to describe it! Please upload the image.",
    "Please upload the image you would like me to describe.",
    "Could you please provide the picture?",
    "It seems that no image was attached.",
    "It looks like there is no picture attached to your message.",
    "There is no image to describe.",
    "No image provided.",
    "No image was provided.",
    "It appears that the image has not been uploaded.",
    "The image could not be loaded.",
    "The image you sent is not available.",
    "The picture failed to load.",
    "It looks like you forgot to attach the image.",
    "It seems you haven't uploaded a picture yet.",
    "Unable to process the image.",
    "This is not something I can help with.",
    "It's not appropriate to describe this.",
    "This request violates the rules.",
    "For privacy reasons, I do not describe people.",
    "\"I'm sorry, but I can't help with that.\"",
    "“I’m sorry, but I can’t help with that.”",
    "**I'm sorry**, but I can't help.",
    "  \n I'm sorry, I can't.",
)
DESCRIPTIONS = (
    'A man holds a sign that says "I can\'t breathe" on a crowded street.',
    '"I\'m sorry" is written in blue icing on a round cake.',
    "‘I cannot swim’ is printed on the shirt of a boy beside a pool.",
    '"I\'m sorry" and "I can\'t" stand on two cards, as in "a game"',
    "A robot with the words As an AI on its chest stands in a hall.",
    "Sorry-looking dogs lie in the rain in front of a shop.",
    "As an artist paints by the lake, two children watch.",
    "As an aircraft lands, people wave from a fence.",
    "As an assistant holds a lamp, a dentist bends over a patient.",
    "As a model walks down the runway, cameras flash.",
    "As a language teacher points to the board, the class laughs.",
    "As a large dog jumps, a woman throws a ball.",
    "I ♥ NY is printed on a white mug that stands on a desk.",
    "I can see a brown dog on a red sofa.",
    "I can't help but notice the bright red barn behind the horses.",
    "I see two men at a table; the man on the left cannot reach his cup.",
    "No people are in the street, and the shops are closed.",
    "No picture hangs on the white wall above the sofa.",
    "There is no one on the beach.",
    "The image is black and white and shows a tram.",
    "The picture frame on the wall is not straight.",
    "The photo is taken from above; a car is visible.",
    "The video is not in colour and shows a train.",
    "It is not raining, but the street is wet.",
    "It looks like a market: stalls with fruit stand in two rows.",
    "For safety, the climber wears a helmet and a red harness.",
    "Two people look at a screen that reads: no image available.",
    "Please do not feed the ducks, says a sign beside a pond.",
    "This is not a pipe, says the line below a painted pipe.",
    "An apology is written on a card beside flowers.",
    "A child who is unable to reach the shelf stands on a chair.",
    "Unfortunate ducks sit on a frozen pond.",
    "Well-dressed guests stand around a table.",
    "Hi-vis vests hang on hooks in a hall.",
    "Indoors, a cat sleeps.",
    "",
)


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_found(text: str):
    """A refusal kept as a description is trained on as if it told of the picture."""
    assert is_refusal(text)


@pytest.mark.parametrize("text", DESCRIPTIONS)
def test_descriptions_are_not_taken_for_refusals(text: str):
    """Words of a sign, or an innocent first word, would throw a good description away."""
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("text", "empty"), [("", True), (" \n\t", True), ("...", True), ("“—”", True), ("7", False), ("é", False)]
)
def test_a_text_of_punctuation_is_empty(text: str, empty: bool):
    """A dot for a description would pass as one."""
    assert is_empty(text) == empty


@pytest.mark.parametrize(
    "answer",
    [
        "A dog runs.",
        "  A dog\n\nruns. ",
        "A\u00a0dog runs.",
        "Here is a description of the image:\n\nA dog runs.",
        "Here's the description: A dog runs.",
        "Here’s a short paragraph describing the picture:\nA dog runs.",
        "Sure! Here is a description: A dog runs.",
        "Certainly! A dog runs.",
        "Sure thing! A dog runs.",
        "Description: A dog runs.",
        "**Description:** A dog runs.",
        "**Image Description**\nA dog runs.",
        "The description of the image: A dog runs.",
        "## Description\n\nA dog runs.",
        "# A dog\nA dog runs.",
        "# A dog runs.",
        "A **dog** runs.",
        "A *dog* __runs__.",
        "- A dog\n- runs.",
        "• A dog\n• runs.",
        "1. A dog\n2. runs.",
        "```\nA dog runs.\n```",
        "```text\nA dog runs.```",
        '"A dog runs."',
        "“A dog runs.”",
        "A dog runs. Let me know if you need more detail!",
        "A dog runs. Would you like me to describe the house?",
        "<think>a cat? no</think>\nA dog runs.",
        "a cat? no</think>A dog runs.",
    ],
)
def test_decoration_is_taken_off(answer: str):
    """A text encoder would learn "here is a description" as a part of every picture."""
    assert tidy_description(answer) == "A dog runs."


@pytest.mark.parametrize(
    "text",
    [
        "A sign reads: closed.",
        "Here is where the road ends: two cones stand on it.",
        'A sign with "stop" on it stands beside one with "go".',
        '"Stop" is on one sign and on the other "go"',
        "'Tis the season is written on a card of the children's",
        "A clock shows 3:45. It hangs on a wall.",
        "Room 2 * 3 * 4 is on the door.",
        "A file named my_first_photo_1.jpg is on the screen.",
        "2. is painted on the second of three doors.",
        "Surely a cold day: people wear coats.",
        "A certain light falls on the lake. Let me know is on a banner.",
        "The caption on the wall reads: mind the step.",
    ],
)
def test_texts_without_decoration_stay_as_they_are(text: str):
    """A rule that goes too far takes words out of good descriptions, and nobody would see it."""
    assert tidy_description(text) == text


def test_thinking_without_an_end_leaves_nothing():
    """Thinking that used up the tokens is no description."""
    assert tidy_description("<think>The picture has a dog.") == ""


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A dog runs. A cat sl", "A dog runs."),
        ("A dog runs! It barks? The c", "A dog runs! It barks?"),
        ('It reads "stop." A c', 'It reads "stop."'),
        ("A dog runs.", "A dog runs."),
        ("A dog runs", ""),
        ("", ""),
        ("A dog runs. The church of St. Mary has", "A dog runs."),
        ("A dog runs. A man, e.g. a gua", "A dog runs."),
        ("A dog runs. Mr. T. sits on a ch", "A dog runs."),
        ("A jar of 3.5 litres", ""),
        ("A dog runs... and ju", "A dog runs..."),
    ],
)
def test_a_cut_text_ends_with_its_last_whole_sentence(text: str, kept: str):
    """Half a sentence at the end of many descriptions teaches that pictures end in the middle of a word."""
    assert cut_to_sentences(text) == kept


def test_captions_lose_numbers_bullets_doubles_and_introduction():
    """Numbers and bullets would be captions of their own style; doubles count twice in training."""
    answer = """Sure! Here are five captions:

1. A dog runs.
2) "A brown dog in the park."
- **A pet** plays outside
* a dog runs
• Two  trees   and a dog
...
"""
    assert tidy_captions(answer) == [
        "A dog runs.",
        "A brown dog in the park.",
        "A pet plays outside",
        "Two trees and a dog",
    ]


def test_captions_that_begin_with_a_number_keep_it():
    """A counted thing is not a list mark."""
    assert tidy_captions("3 dogs run.\n2 cats sleep.\nSure!\n## Captions") == ["3 dogs run.", "2 cats sleep."]


@pytest.mark.realdata
def test_what_people_wrote_is_neither_refused_nor_changed(data_dir: Path):
    """A rule that fires on real sentences would cost descriptions of real pictures."""
    rows = open_splits(data_dir / "flickr8k-ccr")["train"].select_columns(["description", "caption_en"])[:]
    texts = {" ".join(text.split()) for text in rows["description"] if text}
    texts |= {" ".join(text.split()) for captions in rows["caption_en"] for text in captions}
    assert len(texts) > 20_000
    assert not [text for text in texts if is_refusal(text) or is_empty(text)]
    changed = sorted(text for text in texts if tidy_description(text) != text)
    # Quotation marks around a whole caption are marks, not words.
    assert not [text for text in changed if tidy_description(text) != text.strip('"').strip()]
    assert len(changed) < 20
