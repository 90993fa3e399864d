"""The 200 texts behind the golden files: ordinary English, many scripts, and all that is known to upset a tokenizer.

Written for this purpose, apart from some stretches of the Python standard library's docstrings (PSF licence), which
depend on the Python that runs this; texts.json holds the outcome, frozen. Invisible characters stand as escapes.
"""

from __future__ import annotations

import importlib
import inspect

QUESTIONS = [  # the first is the one whose layers and attention maps are kept
    "how do I start another program and capture what it prints?",
    "pick a random element from a list",
    "parse a date string",
    "What causes the northern lights?",
    "why does bread rise",
    "Who wrote the first treatise on optics?",
    "does vitamin D reduce the risk of infection",
    "how long should eggs boil",
    "When was the telephone invented, and by whom?",
    "difference between a list and a tuple",
    "Is it safe to freeze cooked rice twice?",
    "how to remove duplicates while keeping order",
    "what's the tallest mountain outside of Asia?",
    "Can plants feel pain?",
    "read a file line by line without loading it all",
    "How far is the Moon from the Earth in light-seconds?",
    "Should I water tomatoes in the evening?",
    "compress a folder into a zip archive",
    "WHY IS THE SKY BLUE",
    "where do swallows spend the winter?",
    "which enzymes break down starch in saliva",
    "how can I make two threads share a counter safely",
]

PASSAGES = [
    "Bread rises because yeast turns sugar into carbon dioxide, and the dough's elastic gluten holds the bubbles.",
    "The harbour froze twice that winter; ships waited outside for weeks.",
    "A bicycle stays upright mostly because it steers into its own fall. Neither the spinning wheels nor the angle of "
    "the fork is needed for it, as riders of strange prototypes have shown.",
    "Salt lowers the freezing point of water. On a road at minus five degrees it therefore melts ice, but at minus "
    "twenty-five it does almost nothing, and sand is the better choice.",
    "Auroras appear where charged particles from the Sun, guided by the Earth's magnetic field, strike oxygen and "
    "nitrogen high in the atmosphere. Oxygen glows green at about a hundred kilometres and red above two hundred; "
    "nitrogen adds the violet hem.",
    "In 1609 Galileo turned a telescope of his own making on Jupiter and, within a week of January nights, understood "
    "that the four small stars beside it were moons. The drawing of the first night shows three of them; one was "
    "hidden behind the planet. He named them after his patrons, and nobody used those names.",
    "Patients who took the drug for twelve weeks had, on average, a systolic pressure 4.2 mmHg lower than those on "
    "placebo (95% CI 1.9-6.5, p < 0.001). Three participants withdrew because of headaches. The trial was small and "
    "short, and the authors call for a longer one before the dose is raised.",
    "A hash table finds a key in constant time on average. It turns the key into a number, uses the number as a "
    "position, and looks there first. Two keys may want the same place; then one of them moves on to the next free "
    "place, or both share a short list. When the table fills up, these detours grow, so the table is rebuilt at twice "
    "the size. The rebuilding is slow, but it happens so rarely that each insertion still costs little: the price is "
    "spread over all of them. What a hash table cannot do is answer in order. Whoever needs the smallest key, or all "
    "keys between two bounds, takes a tree.",
    "Swallows leave in September. They gather on the wires above the lane, some days only a dozen, some days so many "
    "that the wires sag, and then one morning there are none. Ringed birds have been found again south of the Sahara, "
    "a journey of nine thousand kilometres made at the height of a house, by day, feeding on the wing. The young of "
    "the year go without guidance. Most do not return; those that do come back to the very barn in which they "
    "hatched, and quarrel over the same beam. Farmers used to say that they wintered in the mud at the bottom of "
    "ponds, and a bishop of Uppsala printed it in a learned book, with a woodcut of fishermen netting them.",
    "The court held that a contract signed under a mistake shared by both sides is void only if the mistake goes to "
    "the root of the bargain.",
    "Stir the flour into the melted butter, let it foam for a minute, then add the milk little by little.",
    "No. It depends.",
]

DOCSTRINGS = [  # (dotted name, how many characters to keep)
    ("subprocess.run", 900),
    ("random.Random.choice", 200),
    ("shutil.copyfile", 400),
    ("textwrap.dedent", 700),
    ("bisect.bisect_left", 500),
    ("heapq.nsmallest", 300),
    ("statistics.median", 400),
    ("functools.lru_cache", 700),
    ("json.dumps", 1200),
    ("urllib.parse.urljoin", 200),
    ("difflib.get_close_matches", 1000),
    ("collections.Counter.most_common", 400),
    ("collections.OrderedDict.move_to_end", 200),
    ("os.path.commonprefix", 200),
    ("os.walk", 2500),
    ("fnmatch.fnmatch", 600),
    ("glob.glob", 500),
    ("tempfile.mkstemp", 900),
    ("string.capwords", 400),
    ("zipfile.is_zipfile", 200),
    ("configparser.ConfigParser", 200),
    ("datetime.datetime.fromisoformat", 200),
    ("fractions.Fraction.limit_denominator", 700),
    ("threading.Event", 300),
    ("queue.Queue.put", 500),
    ("asyncio.gather", 1300),
    ("email.utils.formatdate", 300),
    ("unicodedata.normalize", 300),
    ("calendar.monthrange", 200),
    ("logging.Logger.exception", 200),
]

LATIN = [
    "Café crème à l'hôtel, s'il vous plaît",
    "Cafe\u0301 cre\u0300me a\u0300 l'ho\u0302tel, s'il vous plai\u0302t",  # the same, combining
    "naïve coöperation, résumé, façade, jalapeño, Ångström",
    "Zürich, Österreich: Die Straße überquert den Fluß in großer Höhe.",
    "DIE STRAẞE HEISST JETZT GROẞE STRAẞE",
    "Wie kann ich ein anderes Programm starten und seine Ausgabe lesen?",
    "Donaudampfschifffahrtsgesellschaftskapitänsmütze",
    "Où puis-je trouver un médecin qui parle français ? L'œuvre d'Æsope, « peut-être ».",
    "Làm thế nào để nấu phở bò đúng kiểu Hà Nội?",
    "La\u0300m the\u0302\u0301 na\u0300o \u0111e\u0302\u0309 na\u0302\u0301u pho\u031b\u0309",  # marks two deep
    "İstanbul'da ışık sönünce ILIK rüzgâr İĞDE kokar mı?",
    "¿Dónde está la biblioteca? ¡Está allí, señor!",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Þórður át ísinn; ǆ ǅ Ǆ ĳ Ĳ ŉ ſ",
    "ﬁnd the ﬂuﬀy oﬃce ﬆyle ligatures",
    "Ｆｕｌｌ ｗｉｄｔｈ ＡＢＣ １２３ ！",
    "Å (angstrom sign) K (kelvin sign) Ω (ohm sign)".replace("Å", "\u212b")
    .replace("K (", "\u212a (")
    .replace("Ω", "\u2126"),
    "Z\u0351\u036b\u0343a\u0358\u0321l\u0334g\u0335o\u0336 t\u0337e\u0338x\u0348t",  # heaped combining marks
    "\u0301 a mark with nothing to stand on",
    "ĐƯỜNG ĐẾN ĐÀ NẴNG, Ơ Ư Ă Â",
    "Hawaiʻi ʼn ˈfəʊnɪm ′prime″ ʰʷ ªº",
]

SCRIPTS = [
    "北京是中国的首都，人口超过两千万。",
    "我想用Python读取3个文件",
    "機械学習で文章を検索する方法を教えてください。",
    "カタカナとひらがな、ｶﾀｶﾅ、ｶﾞｷﾞ、がぎ",
    "か\u3099き\u3099 ハ\u309aン ヷ ー・々〆ヶ",  # voiced marks as combining characters
    "한국어 문장을 검색하는 방법",
    "\u1112\u1161\u11ab\u1100\u116e\u11a8 \u110b\u1165",  # the same kind of text as conjoining jamo
    "\U00020000\U0002a6d6 \uf900\ufa0e \u3400\u4db5 𠮷野家",  # rare and compatibility ideographs
    "كيف يمكنني قراءة ملف سطرًا بسطر؟",
    "كِتَابٌ مُحَمَّدٍ ـــ ١٢٣",
    "איך אפשר לקרוא קובץ שורה אחר שורה?",
    "שָׁלוֹם עוֹלָם",
    "मैं फ़ाइल को पंक्ति दर पंक्ति कैसे पढ़ूँ?",
    "தமிழ் மொழி, తెలుగు, ಕನ್ನಡ",
    "วิธีอ่านไฟล์ทีละบรรทัด",
    "Как прочитать файл построчно? Ёжик йод.",
    "Київ — столиця України, її населення зростає.",
    "ΟΔΟΣ ΟΔΥΣΣΕΑΣ: Πώς διαβάζω ένα αρχείο; ὁ ἄνθρωπος",
    "Հայերեն გამარჯობა ᲒᲐᲛᲐᲠᲯᲝᲑᲐ አማርኛ ភាសាខ្មែរ",
    "Ⴀⴀ Ꭰꭰ Ᏸᏸ 𐐀𐐨 𞤀𞤢 Ǆ",  # pairs of cases outside the usual scripts
    "mixed 日本語 and English と русский في سطر واحد",
]

EMOJI = [
    "I love this! 😀😍🔥",
    "family 👨\u200d👩\u200d👧\u200d👦 and pilot 👩🏽\u200d✈\ufe0f",
    "👋🏿 👋🏻 👋",
    "flags 🇨🇭🇯🇵 🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "keycaps 1\ufe0f\u20e3 #\ufe0f\u20e3 and hearts ❤ ❤\ufe0f ♥",
    "word😀word",
    "🦖",
    "(╯°□°)╯︵ ┻━┻ ¯\\_(ツ)_/¯",
]

MARKS = [
    "!!!???...---***",
    "Wait... what?! No -- really; \"yes\" ('yes'), [maybe], {never}.",
    "“Curly” ‘quotes’ – en — em … ellipsis • bullet « » ‹ › „low“ ¿ ¡",
    "#hashtag @someone $5.00 €7,50 £3 ¥100 50% & more ~tilde ^caret `tick` |pipe|",
    "rock'n'roll isn't o'clock; don't can't won't I'd've",
    "state-of-the-art twenty-one e-mail co-operate",
    "3.14159 2,718.28 1e-9 -40 +7 0x1F 1/2 ½ ² ³ ① Ⅷ ⅷ ٣",
    "2024-11-21T02:03:04Z 21/11/2024 02:03 p.m.",
    "∑ᵢ xᵢ² ≤ √(n) · ‖x‖ ⇒ ∀ε>0 ∃δ: |f(x)−L|<ε, α≠β, ∂u/∂t = ∇²u",
    "𝐇𝐞𝐥𝐥𝐨 𝓦𝓸𝓻𝓵𝓭 ℝ ℕ ﷽",
    "https://example.org/a/b.html?q=neural+retrieval&page=2#top",
    "mailto:someone@example.com or ftp://files.example.net:2121/~user/",
    "C:\\Users\\me\\file.txt /usr/local/bin ../up/one",
    "for i in range(10):\n    total += values[i] ** 2  # sum of squares",
    "def f(x: int) -> dict[str, list[int]]: return {str(x): [x]}",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name;",
    '<p class="note">Tom &amp; Jerry &lt;3</p>',
    '{"key": [1, 2.5, null, true], "other": "\\u00e9"}',
    "snake_case camelCase PascalCase SCREAMING_SNAKE kebab-case __init__",
    "a,b;c:d.e!f?g/h\\i|j",
    "v1.2.3-rc.4+build.5 sha256:53aa5117 192.168.0.1 ::1",
    "²⁰²⁴ H₂O CO₂ E=mc² 10⁻³ °C ℃ № ™ ®",
]

UNSEEN = [  # control, format, private, unassigned; exotic spaces
    "tab\tand\nnewline\r\nand\rreturn",
    "   leading and trailing   ",
    "many     spaces    inside",
    "non\u00a0breaking\u202fnarrow\u2007figure spaces",
    "em\u2003en\u2002thin\u2009hair\u200aideographic\u3000ogham\u1680medium\u205fend",
    "line\u2028separator\u2029paragraph\u0085next\u000bvertical\u000cform",
    "nul\x00inside and bell\x07 escape\x1b[31m delete\x7f c1\x9f",
    "\x00",
    "\x00\x01\x02\x1f",
    "replacement \ufffd character\ufffd",
    "zero\u200bwidth\u200cnon\u200djoiner\u2060word\ufeffbom",
    "\ufeffstarts with a byte order mark",
    "soft\u00adhyphen in\u00advisible",
    "left\u200eto\u200fright \u202edirection\u202c \u2066isolate\u2069",
    "private \ue000 use \U000f0000 unassigned \u0378 \U000e0fff noncharacter \uffff \U0010ffff",
    "mongolian\u180evowel separator and \u034f joiner \ufe00 variation",
]

LITERAL = [
    "[CLS] [SEP] [MASK] [UNK] [PAD]",
    "the answer is [MASK].",
    "a[SEP]b [sep] [Cls] [ SEP ]",
    "[CLS]",
    "<s> </s> <pad> <|endoftext|>",
    "[unused1] [UNUSED99]",
    "##ing ##s # # ing",
]

EDGES = [
    "",
    " ",
    "  \t\n ",
    "a",
    "Z",
    "7",
    ".",
    "é",
    "e\u0301",
    "字",
    "ß",
    "\u00a0",
    "\u200b",
    "xq zvk qqqq wxyzt",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "x" * 100,  # the longest word that WordPiece takes apart
    "x" * 101,  # one more: [UNK]
    "before " + "abcdefghij" * 15 + " after",
    "é" * 100,
    "e\u0301" * 60 + " 60 letters once the accents are gone",
    "字" * 120,
]

LONG = [
    " ".join(["wood"] * 254),  # 256 with [CLS] and [SEP]: just fits
    " ".join(["wood"] * 255),  # one too many
    " ".join(f"{n}" for n in range(200)),
    "The rain in Spain stays mainly in the plain. " * 40,
    "字典" * 160,
    "Unbelievably, " * 70 + "the end.",
    "!?" * 300,
    "supercalifragilisticexpialidocious " * 60,
    "Everything that is stored can be found again, if someone remembers how it was asked for; " * 300,
    "\n".join(PASSAGES),
]

REPEATED = [QUESTIONS[0], "", PASSAGES[3], "字", "WHY IS THE SKY BLUE"]  # again: the same text, the same vector
REPEATED += ["why is the sky blue", "Why is the sky blue", " why is the sky blue\n", "why is the sky blue?"]


def docstring(name: str, length: int) -> str:
    """The opening of a standard library docstring, by its dotted name."""
    found, rest = None, name.split(".")
    for depth in range(len(rest), 0, -1):
        try:
            found, rest = importlib.import_module(".".join(rest[:depth])), rest[depth:]
            break
        except ImportError:
            continue
    for part in rest:
        found = getattr(found, part)
    text = inspect.getdoc(found)
    assert text, name
    return text[:length]


def make_texts() -> list[str]:
    """All 200, in a fixed order."""
    docs = [docstring(name, length) for name, length in DOCSTRINGS]
    groups = (QUESTIONS, PASSAGES, docs, LATIN, SCRIPTS, EMOJI, MARKS, UNSEEN, LITERAL, EDGES, LONG, REPEATED)
    return [text for group in groups for text in group]


def make_pairs() -> list[tuple[str, str]]:
    """(query, document) pairs for a cross-encoder whose limit is 64 or 40 tokens, specials included."""
    words = ["the", "of", "to", "and", "in", "that", "it", "for", "is", "as"]  # one piece each

    def run(n: int) -> str:
        return " ".join(words[i % 10] for i in range(n))

    sides = [
        (3, 5),
        (1, 1),
        (20, 20),
        (30, 31),
        (31, 30),
        (30, 30),
        (31, 31),
        (18, 19),
        (19, 19),
        (40, 40),
        (41, 40),
        (40, 41),
        (41, 41),
    ]
    sides += [(2, 200), (200, 2), (29, 200), (200, 29), (30, 100), (31, 100), (100, 30), (100, 31), (32, 100), (61, 0)]
    sides += [(0, 61), (62, 0), (0, 100), (99, 101)]
    lengths = [(run(a), " ".join(reversed(run(b).split()))) for a, b in sides]
    return [
        ("why does bread rise", PASSAGES[0]),
        ("why does bread rise", PASSAGES[1]),
        (PASSAGES[0], "why does bread rise"),
        (QUESTIONS[0], DOCSTRING_PAIR),
        ("", ""),
        ("why does bread rise", ""),
        ("", PASSAGES[1]),
        (PASSAGES[7], PASSAGES[8]),
        ("what [SEP] is [MASK]?", "it is [CLS] 字 and é 😀"),
        *lengths,
    ]


DOCSTRING_PAIR = "Run command with arguments and return a CompletedProcess instance."
