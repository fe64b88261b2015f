"""Language and script of a text."""

import subprocess
import sys

import pytest

from processing import language_id
from processing.language_id import identify, script_share, scripts_of
from processing.languages import LANGUAGES

# "A brown dog runs across the green meadow and plays with a small ball" in each language of the table.
SENTENCES = {
    "ar": "كلب بني يركض عبر المرج الأخضر ويلعب بكرة صغيرة",
    "bn": "একটি বাদামী কুকুর সবুজ মাঠের উপর দিয়ে দৌড়াচ্ছে এবং একটি ছোট বল নিয়ে খেলছে",
    "cs": "Hnědý pes běží přes zelenou louku a hraje si s malým míčem",
    "da": "En brun hund løber hen over den grønne eng og leger med en lille bold",
    "de": "Ein brauner Hund läuft über die grüne Wiese und spielt mit einem kleinen Ball",
    "el": "Ένας καφέ σκύλος τρέχει στο πράσινο λιβάδι και παίζει με μια μικρή μπάλα",
    "en": "A brown dog runs across the green meadow and plays with a small ball",
    "es": "Un perro marrón corre por el prado verde y juega con una pelota pequeña",
    "fa": "یک سگ قهوه‌ای در چمنزار سبز می‌دود و با یک توپ کوچک بازی می‌کند",
    "fi": "Ruskea koira juoksee vihreän niityn poikki ja leikkii pienellä pallolla",
    "fil": "Isang kayumangging aso ang tumatakbo sa luntiang parang at naglalaro ng maliit na bola",
    "fr": "Un chien brun court dans le pré vert et joue avec une petite balle",
    "he": "כלב חום רץ על פני האחו הירוק ומשחק בכדור קטן",
    "hi": "एक भूरा कुत्ता हरे मैदान में दौड़ता है और एक छोटी गेंद से खेलता है",
    "hr": "Smeđi pas trči preko zelene livade i igra se s malom loptom",
    "hu": "Egy barna kutya fut a zöld réten és egy kis labdával játszik",
    "id": "Seekor anjing cokelat berlari melintasi padang rumput hijau dan bermain dengan bola kecil",
    "it": "Un cane marrone corre sul prato verde e gioca con una piccola palla",
    "ja": "茶色の犬が緑の草原を走り、小さなボールで遊んでいる",
    "ko": "갈색 개가 푸른 초원을 달리며 작은 공을 가지고 놀고 있다",
    "nl": "Een bruine hond rent over de groene weide en speelt met een kleine bal",
    "no": "En brun hund løper over den grønne engen og leker med en liten ball",
    "pl": "Brązowy pies biegnie przez zieloną łąkę i bawi się małą piłką",
    "pt": "Um cachorro marrom corre pelo prado verde e brinca com uma bola pequena",
    "ro": "Un câine maro aleargă pe pajiștea verde și se joacă cu o minge mică",
    "ru": "Коричневая собака бежит по зелёному лугу и играет с маленьким мячом",
    "sv": "En brun hund springer över den gröna ängen och leker med en liten boll",
    "sw": "Mbwa wa kahawia anakimbia kwenye uwanja wa kijani na kucheza na mpira mdogo",
    "te": "ఒక గోధుమ రంగు కుక్క పచ్చని మైదానంలో పరుగెత్తుతూ చిన్న బంతితో ఆడుకుంటోంది",
    "th": "สุนัขสีน้ำตาลวิ่งข้ามทุ่งหญ้าสีเขียวและเล่นกับลูกบอลเล็กๆ",
    "tr": "Kahverengi bir köpek yeşil çayırda koşuyor ve küçük bir topla oynuyor",
    "uk": "Коричневий собака біжить зеленим лугом і грається маленьким м'ячем",
    "vi": "Một con chó nâu chạy qua đồng cỏ xanh và chơi với một quả bóng nhỏ",
    "zh": "一只棕色的狗跑过绿色的草地，玩着一个小球",
}


def test_every_language_of_the_table_is_told_from_english():
    """A code that the identifier spells otherwise (Filipino) would stop every job in that language."""
    assert SENTENCES.keys() == LANGUAGES.keys()
    for code, sentence in SENTENCES.items():
        others = ["en", code] if code != "en" else ["de", "en"]
        assert identify([sentence, SENTENCES[others[0]]], others) == [code, others[0]]


def test_among_all_languages_nearly_every_sentence_is_found():
    """Data set reports ask among all languages; a wrong label table would shift many answers, not one or two."""
    found = identify(list(SENTENCES.values()), list(LANGUAGES))
    wrong = [(code, answer) for code, answer in zip(SENTENCES, found, strict=True) if code != answer]
    assert len(wrong) <= 2, wrong


def test_the_answer_depends_on_nothing_that_was_asked_before():
    """Restricting a shared identifier would leak the candidates of one call into the next."""
    from py3langid import langid

    langid.set_languages(["fr", "it"])
    before = identify([SENTENCES["de"]], ["en", "de"])
    identify([SENTENCES["de"]], ["zh", "ja"])
    assert identify([SENTENCES["de"]], ["en", "de"]) == before == ["de"]
    assert langid.classify(SENTENCES["de"])[0] in {"fr", "it"}
    langid.set_languages(None)


@pytest.mark.parametrize("text", ["", "  ", "12 : 30", "🙂"])
def test_a_text_that_says_nothing_gives_the_first_candidate(text):
    """The order inside the library's model would otherwise decide, and may change with its version."""
    assert identify([text], ["fr", "de"]) == ["fr"]
    assert identify([text], ["de", "fr"]) == ["de"]


@pytest.mark.parametrize("candidates", [[], ["de", "de"], ["de", "xx"]])
def test_bad_candidates_are_refused(candidates):
    """An unknown code must name the table, not end in a KeyError."""
    with pytest.raises(ValueError, match="must be"):
        identify(["a"], candidates)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    """The extra is optional; its absence shows first in a long job."""
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    language_id._identifier.cache_clear()
    language_id._restricted_identifier.cache_clear()
    with pytest.raises(ImportError, match=r'`pip install -e "\.\[data\]"` in the checkout'):
        identify(["a"], ["de", "en"])


def test_importing_the_module_does_not_load_the_identifier(root_dir):
    """Every command would pay for it, and fail where the extra is not installed."""
    code = "import sys, processing.language_id; print('py3langid' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=root_dir, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("Ein Hund, 2 Bälle!", {"Latin": 12}),
        ("狗 と ボール ー 々", {"Han": 2, "Hiragana": 1, "Katakana": 4}),
        ("ＡＢ", {"Latin": 2}),
        ("м'яч мʼяч", {"Cyrillic": 6}),
        ("पानी", {"Devanagari": 2}),
        ("12 🙂 !", {}),
    ],
)
def test_letters_are_counted_by_script(text, scripts):
    """Marks, digits and full-width forms have misled script counts before."""
    assert scripts_of(text) == scripts


def test_each_language_is_written_in_its_scripts():
    """A script that is spelled otherwise in the table would flag every text of that language."""
    for code, sentence in SENTENCES.items():
        assert script_share(sentence, code) == 1
        if "Latin" not in LANGUAGES[code].scripts:
            assert script_share(SENTENCES["en"], code) == 0


def test_the_script_share_of_a_mixture_and_of_no_letters():
    """Hand-computed: 3 Han letters of 6; nothing to complain about where there is no letter."""
    assert script_share("小狗跑 BMW", "zh") == pytest.approx(0.5)
    assert script_share("42", "zh") == 1
    with pytest.raises(ValueError, match="language must be one of"):
        script_share("a", "xx")
