"""Chinese verbs: before the noun with `的`, or after it with the place in between; written without spaces."""

from processing.scenes.chinese import CHINESE, CHINESE_BACKGROUNDS, CHINESE_COLOURS
from processing.scenes.grammar import content_words

from .actions import ClipFacts, Event
from .telling import Telling

CHINESE_VERBS = {
    "moves_left": (("向左", "移动"), ("往左", "移动")),
    "moves_right": (("向右", "移动"), ("往右", "移动")),
    "moves_up": (("向上", "移动"), ("往上", "移动")),
    "moves_down": (("向下", "移动"), ("往下", "移动")),
    "grows": (("慢慢", "变大"), ("逐渐", "变大")),
    "shrinks": (("慢慢", "变小"), ("逐渐", "变小")),
    "appears": (("慢慢", "出现"), ("逐渐", "出现")),
    "disappears": (("慢慢", "消失"), ("逐渐", "消失")),
    "approaches": (("慢慢", "靠近"), ("逐渐", "靠近")),
    "leaves": (("慢慢", "远离"), ("逐渐", "远离")),
    "turns": (("变成",), ("变为",)),
    "spins": (("不停地", "旋转"), ("不停地", "转动")),
    "blinks": (("不停地", "闪烁"),),
    "shakes": (("不停地", "抖动"), ("不停地", "晃动")),
    "stands_still": (("静止不动",), ("一动不动",)),
}


class ChineseClipGrammar:
    """A clause that describes a noun stands between its measure word and the rest of its description."""

    def words(self, facts: ClipFacts, telling: Telling) -> list[str]:
        """The words of a sentence in order, without the full stop."""
        bare = [CHINESE_BACKGROUNDS[facts.background]] if facts.background else []
        located = ["在", *bare] if bare else []
        ahead = [*located, "，"] if bare else []
        first, *others = facts.events
        if telling.frame == "while" and others:
            return [*ahead, *self.clause(others[0], [], telling), "，", "同时", *self.clause(first, [], telling)]
        if telling.frame == "while":
            return [*bare, "有", *CHINESE.phrase(first.subject, telling), "，", "它", *self.verb(first, telling)]
        if telling.frame == "who":
            story = self.described(first, telling)
            return [*ahead, *story, *(word for event in others for word in ["和", *self.described(event, telling)])]
        rest = [word for event in others for word in ["，", *self.clause(event, [], telling)]]
        if telling.frame == "place":
            return [*ahead, *self.clause(first, [], telling), *rest]
        opening = ["我们", "看到"] if telling.frame == "see" else []
        return [*opening, *self.clause(first, located, telling), *rest]

    def clause(self, event: Event, located: list[str], telling: Telling) -> list[str]:
        """Subject, place, verb: `一颗红色星星在雪地上向左移动`."""
        return [*CHINESE.phrase(event.subject, telling), *located, *self.verb(event, telling)]

    def described(self, event: Event, telling: Telling) -> list[str]:
        """A noun with what it does before it: `一颗向左移动的红色星星`."""
        one, measure, *rest = CHINESE.phrase(event.subject, telling)
        return [one, measure, *self.verb(event, telling), "的", *rest]

    def verb(self, event: Event, telling: Telling) -> list[str]:
        """The verb with all that belongs to it: `慢慢靠近一颗小的蓝色爱心`."""
        words = list(CHINESE_VERBS[event.verb][-1 if telling.synonyms else 0])
        words += CHINESE.phrase(event.other, telling) if event.other else []
        return [*words, CHINESE_COLOURS[event.new_colour].pick(telling)] if event.new_colour else words

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""
        return CHINESE.sentence(words)

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order."""
        return content_words(CHINESE.vocabulary(), (word for verbs in CHINESE_VERBS.values() for word in verbs[0]))


CHINESE_CLIPS = ChineseClipGrammar()
