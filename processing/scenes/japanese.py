"""Japanese: particles, and a verb of existence that depends on what exists; written without spaces."""

from dataclasses import dataclass

from .grammar import Word, Wording, content_words, joined, unspaced_sentence
from .world import CONVERSE, CaptionFacts, Mention


@dataclass(frozen=True)
class Existence:
    """The forms of the verb `to be somewhere`: polite, adnominal, and the linking form."""

    polite: str
    adnominal: str
    linking: str


THING = Existence("あります", "ある", "あって")
ANIMAL = Existence("います", "いる", "いて")

JAPANESE_NOUNS = {
    "circle": Word("丸", "円"),
    "square": Word("正方形"),
    "triangle": Word("三角形"),
    "star": Word("星"),
    "heart": Word("ハート"),
    "moon": Word("月"),
    "flower": Word("花"),
    "fish": Word("魚"),
}
JAPANESE_ANIMALS = frozenset({"fish"})
JAPANESE_COLOURS = {
    "red": Word("赤い"),
    "orange": Word("オレンジ色の"),
    "yellow": Word("黄色い"),
    "green": Word("緑色の", "緑の"),
    "blue": Word("青い"),
    "purple": Word("紫色の", "紫の"),
    "pink": Word("ピンク色の", "ピンクの"),
    "brown": Word("茶色の", "茶色い"),
}
JAPANESE_SIZES = {"small": Word("小さな", "小さい"), "large": Word("大きな", "大きい"), "huge": Word("巨大な")}
JAPANESE_TEXTURES = {
    "plain": "無地の",
    "striped": "しま模様の",
    "dotted": "水玉模様の",
    "checkered": "チェック模様の",
}
JAPANESE_TEXTURE_NOUNS = {"plain": "柄のない", "striped": "しま柄の", "dotted": "水玉柄の", "checkered": "チェック柄の"}
JAPANESE_SIDES = {
    "left_of": Word("左", "左側"),
    "right_of": Word("右", "右側"),
    "above": Word("上"),
    "below": Word("下"),
}
JAPANESE_PLACES = {
    "left": JAPANESE_SIDES["left_of"],
    "right": JAPANESE_SIDES["right_of"],
    "top": JAPANESE_SIDES["above"],
    "bottom": JAPANESE_SIDES["below"],
    "middle": Word("真ん中"),
}
JAPANESE_BACKGROUNDS = {"sky": "空", "night": "夜", "meadow": "草原", "sand": "砂の上", "snow": "雪の中"}


class JapaneseGrammar:
    """The verb is last and depends on its subject: things `ある`, a fish `いる`."""

    def words(self, facts: CaptionFacts, wording: Wording) -> list[str]:
        """The words of a sentence in order, without the full stop."""
        bare = [JAPANESE_BACKGROUNDS[facts.background]] if facts.background else []
        topic = [*bare, "に", "は", "、"] if bare else []
        first, *others = facts.mentions
        subject, verb = self.phrase(first, wording), self.existence(first)
        if wording.frame == "beside" and others:
            return [*bare, "に", *self.beside(facts, wording)] if bare else self.beside(facts, wording)
        where = joined(
            (
                [*self.phrase(other, wording), "の", JAPANESE_SIDES[relation].pick(wording)]
                for relation, other in zip(facts.relations, others, strict=True)
            ),
            "と",
        )
        where += [JAPANESE_PLACES[facts.place].pick(wording)] if facts.place else []
        if wording.frame == "is":
            return [*topic, *subject, "が", *where, "に", verb.polite]
        if wording.frame == "see":
            scenery = [*bare, "に"] if bare else []
            return [*where, "に", verb.adnominal, *subject, "が", *scenery, "見えます"]
        if wording.frame == "there":
            return [*topic, *where, "に", *subject, "が", verb.polite]
        return [*where, "に", verb.adnominal, *subject, *(["、", *bare] if bare else [])]

    def beside(self, facts: CaptionFacts, wording: Wording) -> list[str]:
        """`Bがあって、その左にAがあります`."""
        first, second, *others = facts.mentions
        steps = [(facts.relations[0], first)]
        steps += [(CONVERSE[relation], other) for relation, other in zip(facts.relations[1:], others, strict=True)]
        words, last = [*self.phrase(second, wording), "が"], second
        for relation, mention in steps:
            words += [self.existence(last).linking, "、", "その", JAPANESE_SIDES[relation].pick(wording), "に"]
            words += [*self.phrase(mention, wording), "が"]
            last = mention
        return [*words, self.existence(last).polite]

    def existence(self, mention: Mention) -> Existence:
        """`いる` for what lives, `ある` for what does not."""
        return ANIMAL if mention.shape in JAPANESE_ANIMALS else THING

    def phrase(self, mention: Mention, wording: Wording) -> list[str]:
        """A noun phrase: `しま模様の大きな赤い星`."""
        textures = JAPANESE_TEXTURE_NOUNS if wording.texture_noun else JAPANESE_TEXTURES
        # The texture comes first: `大きな水玉模様` would be a pattern of large dots.
        words = [textures[mention.texture]] if mention.texture else []
        words += [JAPANESE_SIZES[mention.size].pick(wording)] if mention.size else []
        return [*words, JAPANESE_COLOURS[mention.colour].pick(wording), JAPANESE_NOUNS[mention.shape].pick(wording)]

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""
        return unspaced_sentence(words)

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order."""
        words = [*JAPANESE_NOUNS.values(), *JAPANESE_COLOURS.values(), *JAPANESE_SIZES.values()]
        return content_words((word.main for word in words), JAPANESE_TEXTURES.values())


JAPANESE = JapaneseGrammar()
