"""Chinese: measure words, and `在 … 的左边` for where something is; written without spaces."""

from dataclasses import dataclass

from .grammar import Word, Wording, content_words, joined, unspaced_sentence
from .world import CONVERSE, CaptionFacts, Mention


@dataclass(frozen=True)
class ChineseNoun:
    """A noun with its measure word; a noun of one syllable takes `的` after the colour (`红色的鱼`)."""

    noun: str
    measure: str

    @property
    def linked(self) -> str:
        """The noun as it follows a colour."""
        return self.noun if len(self.noun) > 1 else "的" + self.noun


CHINESE_NOUNS = {
    "circle": (ChineseNoun("圆形", "个"),),
    "square": (ChineseNoun("正方形", "个"),),
    "triangle": (ChineseNoun("三角形", "个"),),
    "star": (ChineseNoun("星星", "颗"),),
    "heart": (ChineseNoun("爱心", "颗"), ChineseNoun("心形", "个")),
    "moon": (ChineseNoun("月亮", "个"),),
    "flower": (ChineseNoun("花", "朵"),),
    "fish": (ChineseNoun("鱼", "条"),),
}
CHINESE_COLOURS = {
    "red": Word("红色"),
    "orange": Word("橙色"),
    "yellow": Word("黄色"),
    "green": Word("绿色"),
    "blue": Word("蓝色"),
    "purple": Word("紫色"),
    "pink": Word("粉色", "粉红色"),
    "brown": Word("棕色"),
}
CHINESE_SIZES = {"small": Word("小的", "小小的"), "large": Word("大的", "很大的"), "huge": Word("巨大的")}
CHINESE_TEXTURES = {
    "plain": "纯色的",
    "striped": "条纹图案的",
    "dotted": "圆点图案的",
    "checkered": "格子图案的",
}
CHINESE_TEXTURE_NOUNS = {
    "plain": "没有图案的",
    "striped": "带条纹的",
    "dotted": "带圆点的",
    "checkered": "带格子的",
}
CHINESE_SIDES = {
    "left_of": Word("左边", "左侧"),
    "right_of": Word("右边", "右侧"),
    "above": Word("上面", "上方"),
    "below": Word("下面", "下方"),
}
CHINESE_PLACES = {
    "left": CHINESE_SIDES["left_of"],
    "right": CHINESE_SIDES["right_of"],
    "top": CHINESE_SIDES["above"],
    "bottom": CHINESE_SIDES["below"],
    "middle": Word("中间"),
}
CHINESE_BACKGROUNDS = {"sky": "天空中", "night": "夜里", "meadow": "草地上", "sand": "沙地上", "snow": "雪地上"}


class ChineseGrammar:
    """`一 + measure word` opens a noun phrase; `在 … 的左边` says where."""

    def words(self, facts: CaptionFacts, wording: Wording) -> list[str]:
        """The words of a sentence in order, without the full stop."""
        bare = [CHINESE_BACKGROUNDS[facts.background]] if facts.background else []
        behind = ["，", "在", *bare] if bare else []
        ahead = ["在", *bare, "，"] if bare else []
        first, *others = facts.mentions
        subject = self.phrase(first, wording)
        if wording.frame == "beside" and others:
            return [*ahead, "我们", "看到", *self.beside(facts, wording)]
        where = joined(
            (
                [*self.phrase(other, wording), "的", CHINESE_SIDES[relation].pick(wording)]
                for relation, other in zip(facts.relations, others, strict=True)
            ),
            "和",
        )
        where += [CHINESE_PLACES[facts.place].pick(wording)] if facts.place else []
        if wording.frame == "is":
            return [*subject, "在", *where, *behind]
        if wording.frame == "see":
            return ["我们", "看到", *subject, "在", *where, *behind]
        if wording.frame == "there":
            return [*ahead, "有", *subject, "在", *where]
        return [*bare, "，", *where, "有", *subject] if bare else [*where, "有", *subject]

    def beside(self, facts: CaptionFacts, wording: Wording) -> list[str]:
        """`B，它的左边是A`; a third object is placed by the name of A, since `它` could be either."""
        first, second, *others = facts.mentions
        chain = [*self.phrase(second, wording), "，", "它", "的", CHINESE_SIDES[facts.relations[0]].pick(wording)]
        chain += ["是", *self.phrase(first, wording)]
        for relation, other in zip(facts.relations[1:], others, strict=True):
            chain += ["，", self.noun(first, wording).noun, "的", CHINESE_SIDES[CONVERSE[relation]].pick(wording)]
            chain += ["是", *self.phrase(other, wording)]
        return chain

    def noun(self, mention: Mention, wording: Wording) -> ChineseNoun:
        """The noun that this wording asks for."""
        return CHINESE_NOUNS[mention.shape][-1 if wording.synonyms else 0]

    def phrase(self, mention: Mention, wording: Wording) -> list[str]:
        """A noun phrase: `一颗带条纹的巨大的红色星星`."""
        noun = self.noun(mention, wording)
        words = ["一", noun.measure]
        textures = CHINESE_TEXTURE_NOUNS if wording.texture_noun else CHINESE_TEXTURES
        # The texture comes first: `巨大的格子图案` would be a huge pattern.
        words += [textures[mention.texture]] if mention.texture else []
        words += [CHINESE_SIZES[mention.size].pick(wording)] if mention.size else []
        return [*words, CHINESE_COLOURS[mention.colour].pick(wording), noun.linked]

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""
        return unspaced_sentence(words)

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order."""
        return content_words(
            (nouns[0].linked for nouns in CHINESE_NOUNS.values()),
            (word.main for word in [*CHINESE_COLOURS.values(), *CHINESE_SIZES.values()]),
            CHINESE_TEXTURES.values(),
        )


CHINESE = ChineseGrammar()
