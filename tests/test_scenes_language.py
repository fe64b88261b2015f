"""The grammars, against sentences written by hand: each gender, each case, each sentence pattern."""

# A sentence that is broken over lines is hard to proof-read.
# ruff: noqa: E501

import random

import pytest

from processing.scenes.english import write_description
from processing.scenes.grammar import FRAMES, Wording
from processing.scenes.language import (
    GRAMMARS,
    HUMAN_VOICE,
    SOURCE_VOICE,
    WRITER,
    CaptionWriter,
    disturb_words,
    write_caption,
)
from processing.scenes.world import (
    COLOURS,
    RELATIONS,
    SHAPES,
    CaptionFacts,
    Mention,
    Scene,
    SceneObject,
    disturb_facts,
    is_true,
    sample_facts,
    sample_scene,
)

STAR = Mention("star", "red", "large", "striped")
HEART = Mention("heart", "blue", "small", None)
FISH = Mention("fish", "green", None, "dotted")
FLOWER = Mention("flower", "purple", "huge", None)
MOON = Mention("moon", "pink", None, "plain")
SQUARE = Mention("square", "brown", None, "checkered")
TRIANGLE = Mention("triangle", "orange", "small", None)
CIRCLE = Mention("circle", "yellow", "huge", None)

# star left of heart and above fish, in the snow
TRIPLE = CaptionFacts((STAR, HEART, FISH), ("left_of", "above"), None, "snow")
FLOWER_UNDER_MOON = CaptionFacts((FLOWER, MOON), ("below",), None, "night")
SQUARE_RIGHT_OF_FLOWER = CaptionFacts((SQUARE, FLOWER), ("right_of",), None, None)
CIRCLE_OVER_TRIANGLE = CaptionFacts((CIRCLE, TRIANGLE), ("above",), None, "meadow")
FISH_LEFT_OF_STAR = CaptionFacts((FISH, STAR), ("left_of",), None, "sand")
LONE_FISH = CaptionFacts((FISH,), (), "left", "sky")

PLAIN = {frame: Wording(frame) for frame in FRAMES}
RARE = {frame: Wording(frame, synonyms=True, texture_noun=True) for frame in FRAMES}

SENTENCES = [
    # English: a / an, and the patterns
    ("en", TRIPLE, PLAIN["is"], "A large striped red star is to the left of a small blue heart and above a dotted green fish in the snow."),
    ("en", TRIPLE, RARE["beside"], "In the snow, we see a little blue heart and to the left of it a big red star with stripes and below it a green fish with dots."),
    ("en", CIRCLE_OVER_TRIANGLE, PLAIN["see"], "We see a huge yellow circle above a small orange triangle on the meadow."),
    ("en", CaptionFacts((Mention("heart", "orange"),), (), "middle", "sky"), PLAIN["there"], "In the sky, there is an orange heart in the middle."),
    # German nominative m, n, f; dative m, n, f; accusative m, n, f
    ("de", TRIPLE, PLAIN["is"], "Ein großer gestreifter roter Stern ist links von einem kleinen blauen Herzen und über einem gepunkteten grünen Fisch im Schnee."),
    ("de", FLOWER_UNDER_MOON, PLAIN["is"], "Eine riesige violette Blume ist unter einem einfarbigen rosa Mond in der Nacht."),
    ("de", FLOWER_UNDER_MOON, RARE["is"], "Eine riesige lila Blume liegt unter einem rosa Mond ohne Muster in der Nacht."),
    ("de", SQUARE_RIGHT_OF_FLOWER, PLAIN["is"], "Ein kariertes braunes Quadrat ist rechts von einer riesigen violetten Blume."),
    ("de", SQUARE_RIGHT_OF_FLOWER, PLAIN["there"], "Es gibt ein kariertes braunes Quadrat rechts von einer riesigen violetten Blume."),
    ("de", FLOWER_UNDER_MOON, PLAIN["see"], "Wir sehen eine riesige violette Blume unter einem einfarbigen rosa Mond in der Nacht."),
    ("de", CIRCLE_OVER_TRIANGLE, PLAIN["there"], "Auf der Wiese gibt es einen riesigen gelben Kreis über einem kleinen orange Dreieck."),
    ("de", TRIPLE, RARE["beside"], "Im Schnee sehen wir ein kleines blaues Herz und links davon einen großen roten Stern mit Streifen und darunter einen grünen Fisch mit Punkten."),
    ("de", FISH_LEFT_OF_STAR, PLAIN["fronted"], "Links von einem großen gestreiften roten Stern ist auf dem Sand ein gepunkteter grüner Fisch."),
    ("de", LONE_FISH, PLAIN["fronted"], "Links ist am Himmel ein gepunkteter grüner Fisch."),
    # French m, f; elision; order around the noun
    ("fr", TRIPLE, PLAIN["is"], "Une grande étoile rouge rayée est à gauche d'un petit cœur bleu et au-dessus d'un poisson vert à pois dans la neige."),
    ("fr", FLOWER_UNDER_MOON, PLAIN["see"], "Nous voyons une énorme fleur violette en dessous d'une lune rose unie dans la nuit."),
    ("fr", SQUARE_RIGHT_OF_FLOWER, PLAIN["there"], "Il y a un carré marron à carreaux à droite d'une énorme fleur violette."),
    ("fr", SQUARE_RIGHT_OF_FLOWER, RARE["is"], "Un carré brun avec des carreaux se trouve à droite d'une énorme fleur violette."),
    ("fr", TRIPLE, RARE["beside"], "Dans la neige, nous voyons un petit cœur bleu et à sa gauche une grande étoile rouge à rayures et en dessous un poisson vert avec des pois."),
    ("fr", FISH_LEFT_OF_STAR, PLAIN["fronted"], "À gauche d'une grande étoile rouge rayée, il y a un poisson vert à pois sur le sable."),
    ("fr", CaptionFacts((Mention("star", "green", "small"),), (), "top", "meadow"), PLAIN["is"], "Une petite étoile verte est en haut dans le pré."),
    # Czech nominative, genitive, instrumental, accusative; m, f, n
    ("cs", TRIPLE, PLAIN["is"], "Velká pruhovaná červená hvězda je vlevo od malého modrého srdce a nad puntíkovanou zelenou rybou ve sněhu."),
    ("cs", FLOWER_UNDER_MOON, PLAIN["see"], "Vidíme obrovskou fialovou květinu pod jednobarevným růžovým měsícem v noci."),
    ("cs", SQUARE_RIGHT_OF_FLOWER, PLAIN["there"], "Tady je kostkovaný hnědý čtverec vpravo od obrovské fialové květiny."),
    ("cs", CIRCLE_OVER_TRIANGLE, PLAIN["there"], "Na louce je obrovský žlutý kruh nad malým oranžovým trojúhelníkem."),
    ("cs", FISH_LEFT_OF_STAR, RARE["fronted"], "Nalevo od velké červené hvězdy s pruhy je na písku zelená ryba s puntíky."),
    ("cs", TRIPLE, PLAIN["beside"], "Ve sněhu vidíme malé modré srdce a vlevo od něj velkou pruhovanou červenou hvězdu a pod ní puntíkovanou zelenou rybu."),
    ("cs", FLOWER_UNDER_MOON, RARE["beside"], "V noci vidíme růžový měsíc bez vzoru a pod ním obrovskou fialovou květinu."),
    ("cs", CaptionFacts((HEART, CIRCLE), ("below",), None, "sky"), PLAIN["fronted"], "Pod obrovským žlutým kruhem je na obloze malé modré srdce."),
    # Chinese measure words 颗 条 朵 个
    ("zh", TRIPLE, PLAIN["is"], "一颗条纹图案的大的红色星星在一颗小的蓝色爱心的左边和一条圆点图案的绿色的鱼的上面，在雪地上。"),
    ("zh", FLOWER_UNDER_MOON, PLAIN["see"], "我们看到一朵巨大的紫色的花在一个纯色的粉色月亮的下面，在夜里。"),
    ("zh", SQUARE_RIGHT_OF_FLOWER, PLAIN["there"], "有一个格子图案的棕色正方形在一朵巨大的紫色的花的右边。"),
    ("zh", TRIPLE, RARE["beside"], "在雪地上，我们看到一个小小的蓝色心形，它的左侧是一颗带条纹的很大的红色星星，星星的下方是一条带圆点的绿色的鱼。"),
    ("zh", LONE_FISH, PLAIN["fronted"], "天空中，左边有一条圆点图案的绿色的鱼。"),
    # Japanese particles; ある for things, いる for the fish
    ("ja", TRIPLE, PLAIN["is"], "雪の中には、しま模様の大きな赤い星が小さな青いハートの左と水玉模様の緑色の魚の上にあります。"),
    ("ja", FISH_LEFT_OF_STAR, PLAIN["is"], "砂の上には、水玉模様の緑色の魚がしま模様の大きな赤い星の左にいます。"),
    ("ja", FLOWER_UNDER_MOON, PLAIN["see"], "無地のピンク色の月の下にある巨大な紫色の花が夜に見えます。"),
    ("ja", LONE_FISH, PLAIN["there"], "空には、左に水玉模様の緑色の魚がいます。"),
    ("ja", TRIPLE, RARE["beside"], "雪の中に小さい青いハートがあって、その左側にしま柄の大きい赤い星があって、その下に水玉柄の緑の魚がいます。"),
    ("ja", FISH_LEFT_OF_STAR, RARE["fronted"], "しま柄の大きい赤い星の左側にいる水玉柄の緑の魚、砂の上。"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("language", "facts", "wording", "sentence"),
    [pytest.param(*case, id=f"{case[0]}-{number}") for number, case in enumerate(SENTENCES)],
)
def test_a_sentence_is_what_a_speaker_would_write(language, facts, wording, sentence):
    """A wrong ending, article, case or measure word would teach and test a language that nobody speaks."""
    assert write_caption(language, facts, wording) == sentence


@pytest.mark.parametrize(
    ("shape", "nominative", "dative"),
    [
        ("circle", "Ein roter Kreis", "einem roten Kreis"),
        ("square", "Ein rotes Quadrat", "einem roten Quadrat"),
        ("triangle", "Ein rotes Dreieck", "einem roten Dreieck"),
        ("star", "Ein roter Stern", "einem roten Stern"),
        ("heart", "Ein rotes Herz", "einem roten Herzen"),
        ("moon", "Ein roter Mond", "einem roten Mond"),
        ("flower", "Eine rote Blume", "einer roten Blume"),
        ("fish", "Ein roter Fisch", "einem roten Fisch"),
    ],
)
def test_german_nouns_have_their_gender(shape, nominative, dative):
    """The table of genders is short enough to be written twice."""
    thing = Mention(shape, "red")
    text = write_caption("de", CaptionFacts((thing, thing), ("above",)), Wording("is"))
    assert text == f"{nominative} ist über {dative}."


@pytest.mark.parametrize(
    ("shape", "nominative", "genitive", "instrumental"),
    [
        ("circle", "Červený kruh", "červeného kruhu", "červeným kruhem"),
        ("square", "Červený čtverec", "červeného čtverce", "červeným čtvercem"),
        ("triangle", "Červený trojúhelník", "červeného trojúhelníku", "červeným trojúhelníkem"),
        ("star", "Červená hvězda", "červené hvězdy", "červenou hvězdou"),
        ("heart", "Červené srdce", "červeného srdce", "červeným srdcem"),
        ("moon", "Červený měsíc", "červeného měsíce", "červeným měsícem"),
        ("flower", "Červená květina", "červené květiny", "červenou květinou"),
        ("fish", "Červená ryba", "červené ryby", "červenou rybou"),
    ],
)
def test_czech_nouns_decline(shape, nominative, genitive, instrumental):
    """Eight nouns of five patterns: each form is checked, since no rule covers them all."""
    thing = Mention(shape, "red")
    text = write_caption("cs", CaptionFacts((thing, thing, thing), ("left_of", "above")), Wording("is"))
    assert text == f"{nominative} je vlevo od {genitive} a nad {instrumental}."


@pytest.mark.parametrize("language", GRAMMARS)
def test_every_frame_of_every_language_names_each_attribute(language):
    """A value without a word, or two values with one word, would make captions that cannot be told apart."""
    for frame in FRAMES:
        for wording in (PLAIN[frame], RARE[frame]):
            texts = set()
            for shape in SHAPES:
                for colour in COLOURS:
                    for relation in RELATIONS:
                        facts = CaptionFacts((Mention(shape, colour), Mention("star", "red", "large")), (relation,))
                        texts.add(write_caption(language, facts, wording))
            assert len(texts) == len(SHAPES) * len(COLOURS) * len(RELATIONS)


@pytest.mark.parametrize("language", GRAMMARS)
def test_sentences_are_tidy(language):
    """No doubled space, no comma at an end, one full stop."""
    rng = random.Random(0)
    for _ in range(200):
        facts = sample_facts(sample_scene(rng, held_out=False), rng)
        text = write_caption(language, facts, rng.choice((SOURCE_VOICE, HUMAN_VOICE)).sample_wording(rng))
        assert text.count(".") + text.count("。") == 1 and text[-1] in ".。"
        assert "  " not in text and " ," not in text and text[0] not in "，、 " and text[-2] not in ",，、"
        assert (" " in text) == (language not in ("zh", "ja"))
        assert text[0] == text[0].upper()


def test_facts_are_true_of_their_scene_and_false_when_any_part_is_wrong():
    """`is_true` is the oracle of uniqueness; an oracle that always says no would pass every uniqueness test."""
    rng = random.Random(0)
    for _ in range(300):
        scene = sample_scene(rng, held_out=True)
        facts = sample_facts(scene, rng)
        assert is_true(facts, scene)
        assert not is_true(disturb_facts(facts, 1.0, rng), scene)
    star = SceneObject("star", "red", "large", "plain", (-1, -1))
    heart = SceneObject("heart", "blue", "small", "plain", (1, 1))
    diagonal = Scene((star, heart), "sky")
    pair = (Mention("star", "red"), Mention("heart", "blue"))
    assert is_true(CaptionFacts(pair, ("left_of",)), diagonal)
    assert is_true(CaptionFacts(pair, ("above",)), diagonal)
    assert not is_true(CaptionFacts(pair, ("right_of",)), diagonal)
    assert not is_true(CaptionFacts(pair, ("below",)), diagonal)
    assert is_true(CaptionFacts(pair[:1], (), "top"), diagonal)
    assert not is_true(CaptionFacts(pair[:1], (), "right"), diagonal)


def test_a_description_names_everything_in_the_picture():
    """What the description leaves out, the slots cannot find."""
    scene = Scene(
        (
            SceneObject("star", "red", "large", "striped", (-1, -1)),
            SceneObject("heart", "orange", "small", "plain", (-1, 1)),
            SceneObject("fish", "green", "huge", "dotted", (1, -1)),
        ),
        "snow",
    )
    assert write_description(scene, noise=0.0, rng=random.Random(0)) == (
        "The picture shows three objects in the snow. At the top left there is a large striped red star. "
        "At the top right there is a small plain orange heart. At the bottom left there is a huge dotted green fish. "
        "The star is to the left of the heart and the star is above the fish."
    )


def test_description_noise_is_the_share_of_wrong_attributes():
    """A probability of 0.3 that makes every second colour wrong would misname the experiment."""
    thing = SceneObject("star", "red", "large", "striped", (0, 0))
    texts = [
        write_description(Scene((thing,), "snow"), noise=0.3, rng=random.Random(seed)).split(".")[1].split()
        for seed in range(2000)
    ]
    for word in ("star", "red", "large", "striped", "middle"):
        assert sum(word not in text for text in texts) / 2000 == pytest.approx(0.3, abs=0.04)


def test_word_noise_drops_swaps_and_replaces():
    """Each kind of mistake must occur, and none at zero."""
    words = ["wir", "sehen", "einen", "roten", "Stern", ",", "links", "von", "einem", "Herzen"]
    vocabulary = WRITER.vocabularies["de"]
    assert disturb_words(words, vocabulary, noise=0.0, rng=random.Random(0)) == words
    results = [disturb_words(words, vocabulary, noise=0.2, rng=random.Random(seed)) for seed in range(300)]
    assert any(len(result) < len(words) for result in results)
    assert any(sorted(result) == sorted(words) and result != words for result in results)
    assert any(len(result) == len(words) and set(result) - set(words) <= set(vocabulary) != set() for result in results)
    assert all("," in result and len(result) <= len(words) for result in results)
    hopeless = [disturb_words(words, vocabulary, noise=1.0, rng=random.Random(seed)) for seed in range(50)]
    assert all(result and result != words for result in hopeless)


class OneWordGrammar:
    """A language of one word, which has another one for mistakes."""

    def __init__(self, word: str) -> None:
        self.word = word

    def words(self, facts: None, wording: None) -> list[str]:
        return [self.word] * 9

    def sentence(self, words: list[str]) -> str:
        return " ".join(words)

    def vocabulary(self) -> tuple[str, ...]:
        return (f"{self.word}-slip",)


def test_words_that_slip_into_a_translation_are_of_its_language():
    """English words in a German translation would be found by their letters, and tell how much of it is wrong."""
    writer = CaptionWriter({"de": OneWordGrammar("wort"), "fr": OneWordGrammar("mot")})
    for language, word in (("de", "wort"), ("fr", "mot")):
        texts = [writer.translate(language, None, None, noise=0.3, rng=random.Random(seed)) for seed in range(20)]
        assert {word for text in texts for word in text.split()} == {word, f"{word}-slip"}
        assert writer.write(language, None, None) == " ".join([word] * 9)


def test_an_unknown_language_or_frame_is_refused():
    """The message must list what there is."""
    with pytest.raises(ValueError, match=r"language must be one of .*'ja'.*got 'xx'"):
        write_caption("xx", LONE_FISH, Wording())
    with pytest.raises(ValueError, match="frame must be one of"):
        Wording("sonnet")
