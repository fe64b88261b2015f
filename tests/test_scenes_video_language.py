"""The verbs of moving scenes, against sentences written by hand: each verb, each word order, each gender and case."""

# A sentence that is broken over lines is hard to proof-read.
# ruff: noqa: E501

import itertools
import random

import pytest

from processing.scenes.world import COLOURS, SHAPES, Mention
from processing.scenes_video.actions import RELATIONAL, VERBS, ClipFacts, Event, sample_clip, sample_facts
from processing.scenes_video.language import (
    CLIP_GRAMMARS,
    HUMAN_CLIP_VOICE,
    SOURCE_CLIP_VOICE,
    translate_clip_caption,
    write_clip_caption,
)
from processing.scenes_video.telling import CLIP_FRAMES, Telling

STAR = Mention("star", "red", "large", "striped")
HEART = Mention("heart", "blue", "small", None)
FISH = Mention("fish", "green", None, "dotted")
FLOWER = Mention("flower", "purple", "huge", None)
SQUARE = Mention("square", "brown", None, "checkered")

STAR_LEFT_FISH_BROWN = ClipFacts((Event(STAR, "moves_left"), Event(FISH, "turns", None, "brown")), "snow")
FLOWER_GROWS = ClipFacts((Event(Mention("flower", "purple", None, "plain"), "grows"),), "night")
FISH_TO_FLOWER = ClipFacts((Event(FISH, "approaches", FLOWER),), "meadow")
HEART_FROM_SQUARE = ClipFacts((Event(HEART, "leaves", SQUARE),))
SQUARE_SPINS_HEART_STANDS = ClipFacts((Event(SQUARE, "spins"), Event(HEART, "stands_still")), "sky")
STAR_GREEN = ClipFacts((Event(STAR, "turns", None, "green"),), "sand")
HEART_APPEARS = ClipFacts((Event(HEART, "appears"),))
FISH_APPEARS_STAR_SPINS = ClipFacts((Event(FISH, "appears"), Event(STAR, "spins")), "snow")

PLAIN = {frame: Telling(frame) for frame in CLIP_FRAMES}
RARE = {frame: Telling(frame, synonyms=True, texture_noun=True) for frame in CLIP_FRAMES}

SENTENCES = [
    ("en", STAR_LEFT_FISH_BROWN, PLAIN["says"], "A large striped red star moves to the left and a dotted green fish turns brown in the snow."),
    ("en", STAR_LEFT_FISH_BROWN, PLAIN["see"], "We see a large striped red star moving to the left and a dotted green fish turning brown in the snow."),
    ("en", SQUARE_SPINS_HEART_STANDS, RARE["see"], "We see a brown square with checks rotating and a little blue heart not moving in the sky."),
    ("en", SQUARE_SPINS_HEART_STANDS, RARE["while"], "In the sky, a little blue heart does not move while a brown square with checks rotates."),
    ("en", FLOWER_GROWS, PLAIN["while"], "At night, there is a plain purple flower and it grows."),
    ("en", FISH_TO_FLOWER, RARE["who"], "A green fish with dots that moves towards a huge purple flower on the meadow."),
    ("en", HEART_FROM_SQUARE, PLAIN["place"], "A small blue heart moves away from a checkered brown square."),
    # German: verb second, inverted, last; sich before a noun; separable prefixes; the dative
    ("de", STAR_LEFT_FISH_BROWN, PLAIN["says"], "Ein großer gestreifter roter Stern bewegt sich im Schnee nach links und ein gepunkteter grüner Fisch wird braun."),
    ("de", STAR_LEFT_FISH_BROWN, PLAIN["place"], "Im Schnee bewegt sich ein großer gestreifter roter Stern nach links und ein gepunkteter grüner Fisch wird braun."),
    ("de", STAR_LEFT_FISH_BROWN, PLAIN["see"], "Wir sehen, wie sich ein großer gestreifter roter Stern im Schnee nach links bewegt und wie ein gepunkteter grüner Fisch braun wird."),
    ("de", STAR_LEFT_FISH_BROWN, PLAIN["who"], "Ein großer gestreifter roter Stern, der sich im Schnee nach links bewegt, und ein gepunkteter grüner Fisch, der braun wird."),
    ("de", STAR_LEFT_FISH_BROWN, RARE["while"], "Im Schnee färbt sich ein grüner Fisch mit Punkten braun, während ein großer roter Stern mit Streifen nach links wandert."),
    ("de", SQUARE_SPINS_HEART_STANDS, PLAIN["while"], "Am Himmel steht ein kleines blaues Herz still, während sich ein kariertes braunes Quadrat dreht."),
    ("de", SQUARE_SPINS_HEART_STANDS, PLAIN["who"], "Ein kariertes braunes Quadrat, das sich am Himmel dreht, und ein kleines blaues Herz, das stillsteht."),
    ("de", SQUARE_SPINS_HEART_STANDS, RARE["says"], "Ein braunes Quadrat mit Karos rotiert am Himmel und ein kleines blaues Herz bewegt sich nicht."),
    ("de", FISH_TO_FLOWER, PLAIN["place"], "Auf der Wiese nähert sich ein gepunkteter grüner Fisch einer riesigen violetten Blume."),
    ("de", FISH_TO_FLOWER, RARE["who"], "Ein grüner Fisch mit Punkten, der auf der Wiese einer riesigen lila Blume näherkommt."),
    ("de", HEART_FROM_SQUARE, RARE["says"], "Ein kleines blaues Herz bewegt sich von einem braunen Quadrat mit Karos weg."),
    ("de", HEART_FROM_SQUARE, RARE["who"], "Ein kleines blaues Herz, das sich von einem braunen Quadrat mit Karos wegbewegt."),
    ("de", FLOWER_GROWS, PLAIN["while"], "In der Nacht gibt es eine einfarbige violette Blume und sie wächst."),
    ("de", FLOWER_GROWS, RARE["see"], "Wir sehen, wie eine lila Blume ohne Muster in der Nacht größer wird."),
    ("de", HEART_APPEARS, RARE["while"], "Es gibt ein kleines blaues Herz und es taucht auf."),
    # French: agreement after devient, elision, qui
    ("fr", STAR_LEFT_FISH_BROWN, PLAIN["says"], "Une grande étoile rouge rayée se déplace vers la gauche et un poisson vert à pois devient marron dans la neige."),
    ("fr", STAR_GREEN, PLAIN["says"], "Une grande étoile rouge rayée devient verte sur le sable."),
    ("fr", STAR_GREEN, PLAIN["while"], "Sur le sable, il y a une grande étoile rouge rayée et elle devient verte."),
    ("fr", STAR_LEFT_FISH_BROWN, RARE["while"], "Dans la neige, un poisson vert avec des pois devient brun pendant qu'une grande étoile rouge à rayures va vers la gauche."),
    ("fr", SQUARE_SPINS_HEART_STANDS, RARE["see"], "Nous voyons un carré brun avec des carreaux qui pivote sur place et un petit cœur bleu qui ne bouge pas dans le ciel."),
    ("fr", FISH_TO_FLOWER, PLAIN["place"], "Dans le pré, un poisson vert à pois s'approche d'une énorme fleur violette."),
    ("fr", HEART_FROM_SQUARE, PLAIN["who"], "Un petit cœur bleu qui s'éloigne d'un carré marron à carreaux."),
    # Czech: se in the second place; the dative after k, the genitive after od, the accusative after na
    ("cs", STAR_LEFT_FISH_BROWN, PLAIN["says"], "Velká pruhovaná červená hvězda se ve sněhu pohybuje doleva a puntíkovaná zelená ryba mění barvu na hnědou."),
    ("cs", STAR_LEFT_FISH_BROWN, PLAIN["place"], "Ve sněhu se velká pruhovaná červená hvězda pohybuje doleva a puntíkovaná zelená ryba mění barvu na hnědou."),
    ("cs", STAR_LEFT_FISH_BROWN, RARE["while"], "Ve sněhu zelená ryba s puntíky mění barvu na hnědou, zatímco se velká červená hvězda s pruhy posouvá doleva."),
    ("cs", SQUARE_SPINS_HEART_STANDS, PLAIN["who"], "Kostkovaný hnědý čtverec, který se na obloze točí, a malé modré srdce, které stojí na místě."),
    ("cs", SQUARE_SPINS_HEART_STANDS, RARE["see"], "Vidíme, jak se hnědý čtverec s kostkovaným vzorem na obloze otáčí a jak se malé modré srdce nehýbe."),
    ("cs", FISH_TO_FLOWER, PLAIN["says"], "Puntíkovaná zelená ryba se na louce přibližuje k obrovské fialové květině."),
    ("cs", ClipFacts((Event(HEART, "approaches", SQUARE),)), PLAIN["says"], "Malé modré srdce se přibližuje ke kostkovanému hnědému čtverci."),
    ("cs", HEART_FROM_SQUARE, PLAIN["who"], "Malé modré srdce, které se vzdaluje od kostkovaného hnědého čtverce."),
    ("cs", FLOWER_GROWS, PLAIN["while"], "V noci je jednobarevná fialová květina a roste."),
    ("cs", HEART_APPEARS, PLAIN["while"], "Tady je malé modré srdce a objevuje se."),
    # Chinese: the place before the verb, the clause before the noun
    ("zh", STAR_LEFT_FISH_BROWN, PLAIN["says"], "一颗条纹图案的大的红色星星在雪地上向左移动，一条圆点图案的绿色的鱼变成棕色。"),
    ("zh", STAR_LEFT_FISH_BROWN, RARE["who"], "在雪地上，一颗往左移动的带条纹的很大的红色星星和一条变为棕色的带圆点的绿色的鱼。"),
    ("zh", SQUARE_SPINS_HEART_STANDS, PLAIN["while"], "在天空中，一颗小的蓝色爱心静止不动，同时一个格子图案的棕色正方形不停地旋转。"),
    ("zh", FISH_TO_FLOWER, PLAIN["place"], "在草地上，一条圆点图案的绿色的鱼慢慢靠近一朵巨大的紫色的花。"),
    ("zh", FLOWER_GROWS, RARE["while"], "夜里有一朵没有图案的紫色的花，它逐渐变大。"),
    ("zh", HEART_FROM_SQUARE, PLAIN["see"], "我们看到一颗小的蓝色爱心慢慢远离一个格子图案的棕色正方形。"),
    # Japanese: the linking form before a comma, the adnominal before a noun; ある for things, いる for the fish
    ("ja", STAR_LEFT_FISH_BROWN, PLAIN["says"], "しま模様の大きな赤い星が雪の中で左に動き、水玉模様の緑色の魚が茶色に変わります。"),
    ("ja", STAR_LEFT_FISH_BROWN, PLAIN["see"], "雪の中でしま模様の大きな赤い星が左に動き、水玉模様の緑色の魚が茶色に変わるのが見えます。"),
    ("ja", STAR_LEFT_FISH_BROWN, RARE["who"], "雪の中で左へ移動するしま柄の大きい赤い星と、茶色に変化する水玉柄の緑の魚。"),
    ("ja", SQUARE_SPINS_HEART_STANDS, PLAIN["while"], "空で、チェック模様の茶色の正方形が回る一方、小さな青いハートがじっとしています。"),
    ("ja", FLOWER_GROWS, PLAIN["place"], "夜には、無地の紫色の花が大きくなります。"),
    ("ja", FLOWER_GROWS, RARE["while"], "夜に柄のない紫の花があって、だんだん大きくなります。"),
    ("ja", FISH_TO_FLOWER, PLAIN["while"], "草原に水玉模様の緑色の魚がいて、巨大な紫色の花に近づきます。"),
    ("ja", FISH_APPEARS_STAR_SPINS, PLAIN["says"], "水玉模様の緑色の魚が雪の中に現れ、しま模様の大きな赤い星が回ります。"),
    ("ja", FISH_APPEARS_STAR_SPINS, PLAIN["place"], "雪の中には、水玉模様の緑色の魚が現れ、しま模様の大きな赤い星が回ります。"),
    ("ja", FISH_APPEARS_STAR_SPINS, RARE["who"], "雪の中に現れる水玉柄の緑の魚と、回転するしま柄の大きい赤い星。"),
    ("ja", HEART_FROM_SQUARE, RARE["see"], "小さい青いハートがチェック柄の茶色い正方形から遠ざかるのが見えます。"),
]  # fmt: skip


def event_of(verb: str, subject: Mention = STAR) -> Event:
    return Event(subject, verb, HEART if verb in RELATIONAL else None, "yellow" if verb == "turns" else None)


@pytest.mark.parametrize(
    ("language", "facts", "telling", "sentence"),
    [pytest.param(*case, id=f"{case[0]}-{number}") for number, case in enumerate(SENTENCES)],
)
def test_a_sentence_is_what_a_speaker_would_write(language, facts, telling, sentence):
    """A verb at the wrong place or in the wrong form would teach and test a language that nobody speaks."""
    assert write_clip_caption(language, facts, telling) == sentence


@pytest.mark.parametrize(
    ("shape", "dative"),
    [
        ("circle", "červenému kruhu"),
        ("square", "červenému čtverci"),
        ("triangle", "červenému trojúhelníku"),
        ("star", "červené hvězdě"),
        ("heart", "červenému srdci"),
        ("moon", "červenému měsíci"),
        ("flower", "červené květině"),
        ("fish", "červené rybě"),
    ],
)
def test_czech_nouns_have_a_dative(shape, dative):
    """The dative is made from the words of the nominative; each noun is checked, since no rule covers them all."""
    facts = ClipFacts((Event(HEART, "approaches", Mention(shape, "red")),))
    assert write_clip_caption("cs", facts, Telling()) == f"Malé modré srdce se přibližuje k {dative}."


@pytest.mark.parametrize("language", CLIP_GRAMMARS)
def test_every_verb_has_words_of_its_own_in_every_frame(language):
    """Two verbs with one wording would be two clips with one caption, both right and one counted as wrong."""
    for frame, rare in itertools.product(CLIP_FRAMES, (False, True)):
        telling = Telling(frame, rare, rare)
        other = Event(FISH, "blinks")
        texts = {write_clip_caption(language, ClipFacts((event_of(verb),)), telling) for verb in VERBS}
        assert len(texts) == len(VERBS)
        texts = {write_clip_caption(language, ClipFacts((event_of(verb), other), "snow"), telling) for verb in VERBS}
        assert len(texts) == len(VERBS)
        colours = {
            write_clip_caption(language, ClipFacts((Event(STAR, "turns", None, colour),)), telling)
            for colour in COLOURS
        }
        assert len(colours) == len(COLOURS)


@pytest.mark.parametrize("language", CLIP_GRAMMARS)
def test_who_does_what_to_whom_is_told(language):
    """A grammar that loses the order of two objects would make `approaches` the same in both directions."""
    for frame in CLIP_FRAMES:
        texts = set()
        for shape in SHAPES[:-1]:
            thing = Mention(shape, "orange")
            for first, second in ((thing, FISH), (FISH, thing)):
                texts.add(write_clip_caption(language, ClipFacts((Event(first, "leaves", second),)), Telling(frame)))
        assert len(texts) == 2 * len(SHAPES[:-1])


@pytest.mark.parametrize("language", CLIP_GRAMMARS)
def test_sentences_are_tidy(language):
    """No doubled space, no comma at an end, one full stop."""
    rng = random.Random(0)
    for number in range(300):
        facts = sample_facts(sample_clip(rng, held_out=False, ordered=number % 2 == 0), rng)
        telling = rng.choice((SOURCE_CLIP_VOICE, HUMAN_CLIP_VOICE)).sample_wording(rng)
        text = write_clip_caption(language, facts, telling)
        assert text.count(".") + text.count("。") == 1 and text[-1] in ".。"
        assert "  " not in text and " ," not in text and text[0] not in "，、 " and text[-2] not in ",，、"
        assert ",," not in text and "，，" not in text and "、、" not in text
        assert (" " in text) == (language not in ("zh", "ja"))
        assert text[0] == text[0].upper()


@pytest.mark.parametrize("language", [name for name in CLIP_GRAMMARS if name != "en"])
def test_noise_disturbs_the_words_of_a_translation(language):
    """Noise that reached no word, or was there at zero, would misname an experiment."""
    clean, noisy = (
        [
            translate_clip_caption(language, STAR_LEFT_FISH_BROWN, Telling(), noise=noise, rng=random.Random(seed))
            for seed in range(50)
        ]
        for noise in (0.0, 0.3)
    )
    assert set(clean) == {write_clip_caption(language, STAR_LEFT_FISH_BROWN, Telling())}
    assert sum(text != clean[0] for text in noisy) > 40


def test_an_unknown_language_or_frame_is_refused():
    """The message must list what there is."""
    with pytest.raises(ValueError, match=r"language must be one of .*'ja'.*got 'xx'"):
        write_clip_caption("xx", HEART_APPEARS, Telling())
    with pytest.raises(ValueError, match="frame must be one of"):
        Telling("beside")
