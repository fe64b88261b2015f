"""Japanese verbs: last in their clause, in the polite, the linking or the adnominal form; written without spaces."""

from dataclasses import dataclass

from processing.scenes.grammar import Word, content_words
from processing.scenes.japanese import JAPANESE, JAPANESE_BACKGROUNDS

from .actions import ClipFacts, Event
from .telling import Telling


@dataclass(frozen=True)
class JapaneseVerb:
    """A verb in its three forms, and the adverb or particle before it."""

    adnominal: str
    linking: str
    polite: str
    before: str = ""


def _verb(adnominal: str, linking: str, before: str = "") -> JapaneseVerb:
    return JapaneseVerb(adnominal, linking, linking + "ます", before)


def _does(noun: str, before: str = "") -> JapaneseVerb:
    return _verb(noun + "する", noun + "し", before)


def _stays(adverb: str) -> JapaneseVerb:
    return JapaneseVerb(adverb + "いる", adverb + "いて", adverb + "います")


JAPANESE_VERBS = {
    "moves_left": (_verb("動く", "動き", "左 に"), _does("移動", "左 へ")),
    "moves_right": (_verb("動く", "動き", "右 に"), _does("移動", "右 へ")),
    "moves_up": (_verb("動く", "動き", "上 に"), _does("移動", "上 へ")),
    "moves_down": (_verb("動く", "動き", "下 に"), _does("移動", "下 へ")),
    "grows": (_verb("なる", "なり", "大きく"), _verb("なる", "なり", "だんだん 大きく")),
    "shrinks": (_verb("なる", "なり", "小さく"), _verb("なる", "なり", "だんだん 小さく")),
    "appears": (_verb("現れる", "現れ"),),
    "disappears": (_verb("消える", "消え"), _verb("なる", "なり", "見えなく")),
    "approaches": (_verb("近づく", "近づき", "に"), _does("接近", "に")),
    "leaves": (_verb("離れる", "離れ", "から"), _verb("遠ざかる", "遠ざかり", "から")),
    "turns": (_verb("変わる", "変わり", "に"), _does("変化", "に")),
    "spins": (_verb("回る", "回り"), _does("回転")),
    "blinks": (_does("点滅"),),
    "shakes": (_verb("震える", "震え"), _verb("揺れる", "揺れ")),
    "stands_still": (_stays("じっとして"), _stays("止まって")),
}
# What something turns into is a noun.
JAPANESE_COLOUR_NOUNS = {
    "red": Word("赤"),
    "orange": Word("オレンジ色"),
    "yellow": Word("黄色"),
    "green": Word("緑色", "緑"),
    "blue": Word("青"),
    "purple": Word("紫色", "紫"),
    "pink": Word("ピンク色", "ピンク"),
    "brown": Word("茶色"),
}


class JapaneseClipGrammar:
    """A clause that describes a noun stands right before it; only the last verb is polite."""

    def words(self, facts: ClipFacts, telling: Telling) -> list[str]:
        """The words of a sentence in order, without the full stop."""
        bare = [JAPANESE_BACKGROUNDS[facts.background]] if facts.background else []
        first, *others = facts.events
        # Night is a time, the others are places; what appears does so `に` a place.
        particle = "に" if facts.background == "night" or first.verb == "appears" else "で"
        located = [*bare, particle] if bare else []
        if telling.frame == "while" and others:
            aside = [*self.clause(first, "adnominal", telling), "一方", "、"]
            return [*located, *(["、"] if located else []), *aside, *self.clause(others[0], "polite", telling)]
        if telling.frame == "while":
            subject = [*JAPANESE.phrase(first.subject, telling), "が", JAPANESE.existence(first.subject).linking, "、"]
            return [*bare, *(["に"] if bare else []), *subject, *self.verb(first, "polite", telling)]
        if telling.frame == "who":
            things = [self.described(event, telling) for event in facts.events]
            return [*located, *things[0], *(word for thing in things[1:] for word in ["と", "、", *thing])]
        return self.story(facts, located, telling)

    def story(self, facts: ClipFacts, located: list[str], telling: Telling) -> list[str]:
        """The clauses one after the other, all but the last in the linking form."""
        first, *others = facts.events
        last = "adnominal" if telling.frame == "see" else "polite"
        inside = located if telling.frame == "says" else []
        words = self.clause(first, "linking" if others else last, telling, inside)
        words += ["、", *self.clause(others[0], last, telling)] if others else []
        if telling.frame == "see":
            return [*located, *words, "の", "が", "見えます"]
        return [*located, "は", "、", *words] if telling.frame == "place" and located else words

    def clause(self, event: Event, form: str, telling: Telling, located: list[str] | None = None) -> list[str]:
        """Subject, place, verb: `赤い星が雪の中で左に動きます`."""
        subject = JAPANESE.phrase(event.subject, telling)
        return [*subject, "が", *(located or []), *self.verb(event, form, telling)]

    def described(self, event: Event, telling: Telling) -> list[str]:
        """A noun with what it does before it: `左に動く赤い星`."""
        return [*self.verb(event, "adnominal", telling), *JAPANESE.phrase(event.subject, telling)]

    def verb(self, event: Event, form: str, telling: Telling) -> list[str]:
        """The verb with all that belongs to it: `小さな青いハートに近づきます`."""
        verb = JAPANESE_VERBS[event.verb][-1 if telling.synonyms else 0]
        words = JAPANESE.phrase(event.other, telling) if event.other else []
        words += [JAPANESE_COLOUR_NOUNS[event.new_colour].pick(telling)] if event.new_colour else []
        return [*words, *verb.before.split(), getattr(verb, form)]

    def sentence(self, words: list[str]) -> str:
        """The words as a written sentence."""
        return JAPANESE.sentence(words)

    def vocabulary(self) -> tuple[str, ...]:
        """Content words, in a fixed order."""
        verbs = (verb.adnominal for verbs in JAPANESE_VERBS.values() for verb in verbs)
        return content_words(JAPANESE.vocabulary(), verbs)


JAPANESE_CLIPS = JapaneseClipGrammar()
