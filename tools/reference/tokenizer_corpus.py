"""Lines for the tokenizer's tests: many scripts, code, white space, odd and invalid bytes. Written for this project."""

import random

# A line is a text, bytes (invalid UTF-8, or with NUL), or (text, count) for a text repeated.
WRITTEN = [
    "",
    " ",
    "  ",
    "a",
    " a",
    "a ",
    "\n",
    "\t",
    "\r\n",
    "The ship took on coal until the water touched the line painted on her side.",
    "The loading mark is a promise: past this line, she does not sail.",
    "   Three spaces before, three after.   ",
    "Two  spaces,   three spaces,    four spaces,        eight spaces.",
    "A tab\tbetween\t\twords and\t \t mixed ones.",
    "first line\nsecond line\n\nfourth line\n",
    "Windows\r\nline\r\nends\r\n\r\n",
    "old mac\rline\rends\r",
    " \n \n\n \n  x\n   y\n",
    "trailing newline and spaces \n   ",
    "I'm sure we'll see they've gone; it's what she'd said, you're right, don't!",
    "I'M SURE WE'LL SEE THEY'VE GONE; IT'S WHAT SHE'D SAID, YOU'RE RIGHT, DON'T!",
    "typographic: it’s what she’d said, they’ve gone",
    "'s't're've'm'll'd 'S'T'RE'VE'M'LL'D",
    "rock'n'roll o'clock 'tis '90s dogs' 'quoted'",
    "long s after an apostrophe: 'ſ, kelvin: K, ring: Å",
    "1 12 123 1234 12345 123456 1234567 3.14159 -0.5e+10 1,000,000",
    "0x1F 0b1010 1e-9 ½ ¾ ² ³ ₂ Ⅷ ① ٣ ३ ๓ 三",
    "2026-11-24T08:30:00Z, 07:05, +1 (555) 010-0199, 50%, $19.99, €7, £3, ¥500",
    "https://example.org/path/to/page.html?query=a+b&lang=en#section-2",
    "ftp://user:secret@files.example.net:2121/~home/%7Efile.txt",
    "someone@example.com, another.one+tag@mail.example.co.uk",
    "C:\\Users\\name\\file.txt /usr/local/share/doc ./a/../b",
    "int main(void) { return 0; }",
    "for (size_t i = 0; i < n; i++)\n    sum += x[i] * y[i];  /* dot product */",
    "def f(x: int) -> str:\n    \"\"\"Doc.\"\"\"\n    return f\"{x!r:>10}\"\n",
    "if (a != b && c <= d || !e) { a ^= b << 2 | c >> 1 & ~d; }",
    "SELECT name, COUNT(*) FROM ships WHERE draft > 7.5 GROUP BY name;",
    "<div class=\"a b\" id='x'>text &amp; more</div><!-- comment -->",
    "{\"key\": [1, 2.5, null, true], \"other\": {\"nested\": \"va\\\"lue\"}}",
    "#include <stdio.h>\n#define MAX(a, b) ((a) > (b) ? (a) : (b))\n",
    "\tif x:\n\t\tif y:\n\t\t\treturn z\n",
    "        eight = spaces\n                sixteen = more\n",
    "camelCaseName snake_case_name SCREAMING_CASE kebab-case-name PascalCase x2y3z4",
    "__init__ ___ --- === *** ... !!! ??? ?!?! ((())) [[[]]] {{{}}} <<<>>>",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "# Heading\n\n- item *one*\n- item **two**\n\n> quote\n\n```c\nx = 1;\n```\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "\\alpha + \\frac{1}{2}\\sum_{i=0}^{n} x_i^2 \\leq \\infty",
    "∀x∈ℝ: x²≥0 ∧ ∑ᵢxᵢ ≠ ∅ → √2 ≈ 1.414 ± ∞",
    "Der Kapitän prüfte die Größe der Fässer; Öl, Äpfel und süße Brötchen.",
    "Straße, Fußgängerübergang, Donaudampfschifffahrtsgesellschaft",
    "Le capitaine vérifie où l'équipage a rangé les œufs, déjà à bord.",
    "El señor García añadió un pingüino: ¿cuántos quedan? ¡Ninguno!",
    "O navio não zarpou; há três caixões de maçãs no porão.",
    "Żółta łódź płynęła w ciemność, a gęś śpiewała.",
    "Příliš těžký náklad potopí i nejlepší loď.",
    "A hajó túl mélyre merült, őrült űrhajósok ültek rajta.",
    "Geminin su kesimi çizgisi aşılmış; İstanbul'da ılık bir gün.",
    "Skipið er of þungt, sagði Þórður; æ, ð og ö.",
    "Con tàu chở quá nặng, thuyền trưởng nói rằng không thể đi được.",
    "Корабль нагружен до самой линии, дальше нельзя.",
    "Капитан сказал: «Ещё один ящик — и мы утонем!» Объём, подъезд, мышь.",
    "Ґедзь їсть її їжу; п'ять об'єктів на кораблі.",
    "Το πλοίο φορτώθηκε μέχρι τη γραμμή· ούτε ένα κιβώτιο ακόμη.",
    "Ὦ ἄνδρες, ἡ ναῦς βαρεῖά ἐστιν.",
    "السفينة محملة حتى الخط، ولا يمكن إضافة صندوق آخر.",
    "قَالَ الرُّبَّانُ: لا تُبحِروا! ١٢٣ صندوقًا؟",
    "کشتی تا خط بارگیری شده است؛ می‌خواهیم برویم.",
    "הספינה עמוסה עד הקו, ואסור להוסיף ארגז.",
    "בְּרֵאשִׁית שָׁלוֹם",
    "जहाज़ रेखा तक भर गया है, अब और नहीं। १२३ क्षत्रिय",
    "জাহাজটি রেখা পর্যন্ত বোঝাই হয়েছে।",
    "கப்பல் கோடு வரை ஏற்றப்பட்டது.",
    "เรือบรรทุกของจนถึงเส้นแล้ว ห้ามเพิ่มอีก ๑๒๓",
    "ເຮືອບັນທຸກເຕັມແລ້ວ",
    "ខ្មែរ កប៉ាល់ពេញហើយ",
    "这艘船已经装到了载重线,不能再装了。",
    "這艘船已經裝到了載重線,不能再裝了。2026年11月24日",
    "船長は「もう一箱も積めない」と言った。カタカナとひらがな、漢字。",
    "ガギグゲゴ ｶﾞｷﾞｸﾞ ﾊﾟ ー々〆",
    "배가 선까지 가득 찼습니다. 더 이상 실을 수 없어요!",
    "\u1112\u1161\u11ab\u1100\u1173\u11af 한글",
    "ᚠᚢᚦᚨᚱᚲ ☧ ☭ ♔♕♖ ⚓⛵",
    "😀😃😄 🙂🙃 🚢⚓🌊",
    "👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 🏴‍☠️ ❤️‍🔥",
    "👍👍🏻👍🏼👍🏽👍🏾👍🏿",
    "🇫🇷🇩🇪🇯🇵🇺🇳 🇦",
    "0️⃣1️⃣ #️⃣ *️⃣ ©️ ™",
    "text😀text 😀 text\n😀\n",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒻𝒶𝓃𝒸𝓎 𝟙𝟚𝟛 ｆｕｌｌ　ｗｉｄｔｈ １２３",
    "ﬁ ﬂ ﬃ ĳ ŉ ǆ ſt ﷺ ㎏ ㍿ ℡",
    "e\u0301 a\u0300\u0323 o\u0308 n\u0303 A\u030a",
    "é à ö ñ Å ệ ạ̀",
    "a\u0323\u0307 a\u0307\u0323 q\u0307\u0323 \u0344 \u0958 \u2126 \u212b",
    "\u0301 starts with a mark",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘",
    "no\u00a0break thin\u2009space em\u2003space figure\u2007space ideographic\u3000space",
    "zero\u200bwidth non\u200cjoiner joiner\u200dx bom\ufefftext soft\u00adhyphen",
    "next\u0085line line\u2028separator paragraph\u2029separator vt\u000bff\u000cend",
    "ogham\u1680mark mongolian\u180evowel \u205f math \u202f narrow",
    "left\u200e right\u200f \u202aembed\u202c \u2066isolate\u2069",
    "control \u0001\u0002\u001b[31mred\u001b[0m \u007f \u0080\u009f",
    "▁ ▁▁ ▁the a▁b ▁ ▁",
    "Ġ Ċ ĉ Ā ġ ŀ Ń ¡ ¬ ­ ®",
    "<0x41> <0x0A> <0xFF> <0xe2> <unk>",
    "\ue000\uf8ff private, \U000f0000 supplementary private",
    "noncharacter-like \ufffd replacement \ufffe\uffff",
    "<|endoftext|>",
    "text<|endoftext|>more text <|endoftext|> and <|endoftext|><|endoftext|>",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello!<|eot_id|>",
    "<|im_start|>system\nYou load ships.<|im_end|>\n<|im_start|>user\nHow deep?<|im_end|>\n",
    "<s>[INST] How much may she carry? [/INST] That depends.</s>",
    "<s><s></s> <s> </s>x<s>\n</s>",
    "almost <|endoftext|, <|endoftex|>, |endoftext|>, < |endoftext|>, <S>, <|im_start",
    "<bos>a<eos> <start_of_turn>user\nhi<end_of_turn>\n<pad><unk>",
    "<tool_call>{\"name\": \"load\"}</tool_call> <think>hm</think>",
    "xMASKx MASK  [MASK]  left[MASK]right  [MASK]\n[MASK]",
    "WORD WORDY aWORD WORD. -WORD- WORD_ éWORD WORDé (WORD) WORD",
    "New York new york NEW YORK NewYork",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbb ababababababababab",
    "AAAAAAAAAAAAA     BBBBBBBBB\n\n\n\n\n\n\nCCCC\t\t\t\t\t\t",
    "hahahahahahaha!!!!!!!!!!!! ............ ------------------",
    "wwwwwwwwwwww.iiiiiiiiiiii.com/////////",
    "qwxz zxwq qwxzqwxz xqwxz the qwxz",
    "mixed English и русский and 中文 with العربية in עברית one ไทย line 한국어",
    "a1b2c3 α1β2γ3 а1б2в3 一1二2三3",
    "x" + "\u0300" * 40 + "y",
    ("a", 600),
    (" ", 300),
    ("\n", 150),
    (" \n", 100),
    ("ab", 200),
    ("漢", 120),
    ("🚢", 60),
    ("!", 300),
    ("7", 250),
    ("\t ", 120),
    ("the ", 150),
    ("▁", 80),
    ("e\u0301", 80),
    ("é", 100),
    b"\xff",
    b"abc\xffdef",
    b"\xc3\x28 \xa0\xa1 \xe2\x28\xa1 \xe2\x82\x28",
    b"\xf0\x9f\x98",
    b"\xf0\x9f\x98\x80\xf0\x9f\x98 cut emoji \xf0\x9f",
    b"\xe4\xbd\xa0\xe5\xa5 cut\xe5",
    b"\xc0\x80 \xc1\xbf \xe0\x80\x80 \xf0\x80\x80\x80 overlong",
    b"\xed\xa0\x80 \xed\xbf\xbf surrogates \xed\xa0\xbd\xed\xb8\x80",
    b"\xf4\x90\x80\x80 \xf5\x80\x80\x80 \xfe\xfe\xff\xff past the end",
    b"\x80\x81\x82\x83\xbf\xbf lone continuations",
    b"latin-1 caf\xe9 na\xefve \xa3\xb5",
    b"nul \x00 inside \x00\x00",
    b"\x00",
    b"\xe2\x96\x81\xe2\x96 half a mark",
    b"<|endof\xfftext|><s\xff>",
]

BLOCKS = [
    (0x20, 0x7F), (0x20, 0x7F), (0xA1, 0x250), (0x300, 0x340), (0x391, 0x3CA), (0x410, 0x460), (0x5D0, 0x5EB),
    (0x621, 0x64B), (0x905, 0x93A), (0xE01, 0xE3B), (0x2010, 0x2028), (0x2190, 0x2200), (0x3041, 0x3097),
    (0x30A1, 0x30FB), (0x4E00, 0x4F00), (0xAC00, 0xAD00), (0x1F600, 0x1F650), (0x1D400, 0x1D450), (0xFF10, 0xFF5B),
]
SPACES = [" ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2003", "\u0085"]
FRAGMENTS = ["'s", "'LL", "don't", "<s>", "</s>", "<|endoftext|>", "[MASK]", "WORD", "ing", "the", " of the"]
FRAGMENTS += ["12", "345"]


def made(count, seed):
    """Random mixtures of scripts, spaces, contractions, digits and special tokens."""
    rnd = random.Random(seed)
    lines = []
    for _ in range(count):
        parts = []
        for _ in range(rnd.randrange(2, 9)):
            low, high = rnd.choice(BLOCKS)
            parts.append("".join(chr(rnd.randrange(low, high)) for _ in range(rnd.randrange(1, 6))))
            parts.append(rnd.choice(SPACES + FRAGMENTS))
        lines.append("".join(parts))
    return lines


def lines():
    return WRITTEN + made(80, 20261124)


def text_of(line):
    """What Python's tokenizers see for a line."""
    if isinstance(line, bytes):
        return line.decode("utf-8", "replace")
    return line[0] * line[1] if isinstance(line, tuple) else line


NOUNS = "ship captain line water coal box sailor harbour cargo mast rope deck storm wind night island whale map".split()
VERBS = "loads carries watches follows counts sinks paints holds leaves finds writes lifts measures remembers".split()
ADJECTIVES = "heavy old small deep wet quiet bright broken narrow steady northern empty second careful".split()


def training_text(seed=7):
    """Plain sentences for learning merges, besides the written lines."""
    rnd = random.Random(seed)
    out = [text_of(line) for line in WRITTEN if isinstance(line, str)]
    for _ in range(1500):
        out.append(
            f"The {rnd.choice(ADJECTIVES)} {rnd.choice(NOUNS)} {rnd.choice(VERBS)} the {rnd.choice(NOUNS)} of the "
            f"{rnd.choice(ADJECTIVES)} {rnd.choice(NOUNS)}, and in {rnd.randrange(1500, 2030)} it {rnd.choice(VERBS)} "
            f"{rnd.randrange(1, 500)} {rnd.choice(NOUNS)}s."
        )
    return out
