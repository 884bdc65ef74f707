"""A seed → texts with invented personal data at known places, and look-alikes, in several languages and formats.

Nothing here is anybody's: numbers are drawn at random and then given the check digits that make them valid. The set
was written by the authors of the rules, so recall on it says that the forms they know are found, not that all are;
precision on pages that nobody made for the purpose is measured apart (docs/measurements.md).
"""

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

Value = Callable[[random.Random], str]


@dataclass(frozen=True)
class Sample:
    """A text and where in it which kind stands: (kind, begin, end) in characters."""

    text: str
    spans: tuple[tuple[str, int, int], ...]


def filled(form: str, rng: random.Random) -> str:
    """`#` becomes a digit, `~` one of 2 to 9, `@` a small letter, `^` a capital; the rest stays."""
    drawn = {
        "#": string.digits, "~": "23456789", "@": string.ascii_lowercase, "^": string.ascii_uppercase
    }  # fmt: skip
    return "".join(rng.choice(drawn[character]) if character in drawn else character for character in form)


def _completed(body: str, digits: str, is_valid: Callable[[str], bool]) -> str:
    """The body with the first of the check digits that is valid."""
    return next(body + check for check in digits if is_valid(body + check))


def _luhn(number: str) -> bool:
    doubled = [int(digit) * (1 + index % 2) for index, digit in enumerate(number[::-1])]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _card(rng: random.Random) -> str:
    prefix, length = rng.choice(
        (("4", 16), ("51", 16), ("55", 16), ("6225", 16), ("3530", 16), ("37", 15), ("6011", 16))
    )
    number = _completed(prefix + filled("#" * (length - len(prefix) - 1), rng), string.digits, _luhn)
    joint = rng.choice((" ", "-"))
    cuts = (0, 4, 10, 15) if length == 15 else (0, 4, 8, 12, 16)
    return joint.join(number[begin:end] for begin, end in pairwise(cuts))


def _iban(rng: random.Random) -> str:
    country, form = rng.choice(
        (("DE", "#" * 18), ("GB", "^^^^" + "#" * 14), ("FR", "#" * 23), ("NL", "^^^^" + "#" * 10), ("ES", "#" * 20),
         ("CH", "#" * 17), ("PL", "#" * 24))
    )  # fmt: skip
    body = filled(form, rng)
    number = int("".join(str(int(character, 36)) for character in f"{body}{country}00"))
    whole = f"{country}{98 - number % 97:02d}{body}"
    return whole if rng.random() < 0.5 else " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))


def _date(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(1940, 2009), rng.randint(1, 12), rng.randint(1, 28)


def _chinese_id(rng: random.Random) -> str:
    year, month, day = _date(rng)
    body = f"{rng.choice(('110105', '310104', '440106', '510107'))}{year}{month:02d}{day:02d}{filled('###', rng)}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    rest = sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True)) % 11
    return body + "10X98765432"[rest]


def _cpf(rng: random.Random) -> str:
    digits = [int(digit) for digit in filled("#########", rng)]
    for _ in range(2):
        rest = (
            sum(digit * weight for digit, weight in zip(digits, range(len(digits) + 1, 1, -1), strict=True)) * 10 % 11
        )
        digits.append(rest % 10)
    text = "".join(map(str, digits))
    return f"{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}"


def _nir(rng: random.Random) -> str:
    _, month, _ = _date(rng)
    body = (
        f"{rng.choice('12')}{filled('##', rng)}{month:02d}{rng.choice(('75', '69', '13', '33'))}{filled('######', rng)}"
    )
    whole = f"{body}{97 - int(body) % 97:02d}"
    cuts = (0, 1, 3, 5, 7, 10, 13, 15)
    spaced = " ".join(whole[begin:end] for begin, end in pairwise(cuts))
    return rng.choice((whole, spaced))


def _dni(rng: random.Random) -> str:
    number = filled("########", rng)
    return number + "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23]


def _pesel(rng: random.Random) -> str:
    year, month, day = _date(rng)
    body = f"{year % 100:02d}{month + (20 if year > 1999 else 0):02d}{day:02d}{filled('####', rng)}"
    rest = sum(int(digit) * weight for digit, weight in zip(body, (1, 3, 7, 9) * 3, strict=False)) % 10
    return f"{body}{(10 - rest) % 10}"


def _ssn(rng: random.Random) -> str:
    return f"{rng.randint(1, 665):03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"


def _email(rng: random.Random) -> str:
    user = rng.choice(("@@@@", "@@@@@.@@@@@@", "@@@_@@@@##", "@@@@@@+@@@", "@-@@@@@@", "^^@@@@"))
    host = rng.choice(
        ("@@@@@@.com", "mail.@@@@@.co.uk", "@@@@-@@@@.de", "@@@@.edu.cn", "sub.@@@@@@@@.org", "@@@@@@.io")
    )
    return filled(f"{user}\0{host}", rng).replace("\0", "@")


def _ip(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return f"2a0{rng.randint(0, 9)}:{rng.randint(16, 4095):x}:{rng.randint(1, 4095):x}::{rng.randint(1, 4095):x}"
    numbers = rng.choice((23, 34, 52, 81, 93, 104, 151)), rng.randint(0, 240), rng.randint(0, 255), rng.randint(1, 254)
    return ".".join(map(str, numbers))


_KEY_FORMS = (
    "ghp_{36}",
    "glpat-{20}",
    "sk_live_{24}",
    "hf_{34}",
    "AKIA{16}",
    "xoxb-{12}-{24}",
    "sk-proj-{48}",
    "npm_{36}",
)


def _key(rng: random.Random) -> str:
    form = rng.choice(_KEY_FORMS)
    characters = string.ascii_uppercase + "234567" if form.startswith("AKIA") else string.ascii_letters + string.digits
    pieces = []
    for piece in form.replace("}", "{").split("{"):
        pieces.append("".join(rng.choices(characters, k=int(piece))) if piece.isdigit() else piece)
    return "".join(pieces)


def _password(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits, k=rng.randint(14, 24))) + rng.choice("37") + "x"


def _form(*forms: str) -> Value:
    return lambda rng: filled(rng.choice(forms), rng)


# Numbers as people write them in each country, and what they write around them; half the sentences say what it is.
_PHONES: tuple[tuple[Value, tuple[str, ...]], ...] = (
    (_form("(~0~) ~~#-####", "~5#-~~#-####", "~2~.5~#.####", "+1 ~3# ~~# ####", "1-877-~~#-####"),
     ("Call us at {} today.", "Reach the front desk: {} (ask for Ann).", "Phone: {}", "the office, {}, is open")),
    (_form("020 7### ####", "07### ######", "+44 20 7### ####", "+44 (0)161 ### ####", "01632 ######"),
     ("Ring {} for a quote.", "Tel: {}", "Mobile {}, London", "Our number is {}.")),
    (_form("+49 30 #######", "+49 (0)89 ######-##", "0049 171 #######"),
     ("Sie erreichen uns unter {}.", "Tel.: {}", "Fax {} oder per Post")),
    (_form("030 / #######", "0171-#######", "(089) ######"), ("Telefon: {}", "Tel. {} (Mo-Fr)", "Handy: {}")),
    (_form("01 4# ## ## ##", "06.##.##.##.##", "+33 1 4# ## ## ##", "+33 (0)6 ## ## ## ##"),
     ("Appelez le {} dès aujourd'hui.", "Tél. : {}", "Portable {}")),
    (_form("+34 91 ### ## ##", "+34 6## ### ###"), ("Llame al {} hoy.", "Teléfono: {}")),
    (_form("91 ### ## ##", "6## ### ###"), ("Teléfono: {}", "Móvil {} (Madrid)")),
    (_form("138########", "159 #### ####", "186-####-####", "+86 137 #### ####"),
     ("联系电话：{}，欢迎咨询。", "手机{}（微信同号）", "有意者请致电{}。", "Tel {}")),
    (_form("010-6#######", "021-5#######", "0755-8#######", "(010)8#######", "400-###-####"),
     ("电话：{}", "座机{}，传真另询。", "预约请拨打{}。")),
    (_form("03-3###-####", "090-2###-####", "06-6###-####", "+81 3 3### ####"),
     ("お電話は{}まで。", "TEL {}", "携帯：{}")),
    (_form("02-5##-####", "010-2###-####", "+82 10 2### ####"), ("전화 {}로 문의하세요.", "연락처: {}")),
    (_form("+91 98### #####", "+91-22-2#######", "+91 80 2### ####"), ("Call {} (Mumbai).", "WhatsApp: {}")),
    (_form("(11) 9####-####", "(21) 2###-####", "+55 11 9####-####"), ("Ligue para {} agora.", "Fone: {}")),
    (_form("8 (495) ###-##-##", "+7 495 ###-##-##", "+7 (9##) ###-##-##"), ("Звоните: {}.", "Тел. {}, Москва")),
    (_form("(02) 9### ####", "04## ### ###", "+61 2 9### ####"), ("Phone {} before noon.", "The Sydney office: {}.")),
)  # fmt: skip

_OTHERS: tuple[tuple[str, Value, tuple[str, ...]], ...] = (
    (
        "email",
        _email,
        (
            "Write to {}.",
            "Schreiben Sie an {}, bitte.",
            "请发邮件到{}联系我们。",
            "Contact <{}>",
            "mail:{};",
            "Пишите на {}!",
            "{} is the address of the list",
        ),
    ),
    ("ip", _ip, ("The server at {} answered.", "登录地址{}，来自上海。", "Connection from {}: refused", "ping {}")),
    ("card", _card, ("My card is {}, expires soon.", "卡号：{}。", "Kartennummer {} angeben", "pay with {}")),
    ("iban", _iban, ("IBAN: {}", "Bitte überweisen Sie auf {}.", "Compte {} (BIC sur demande)", "account {}, thanks")),
    ("national_id", _chinese_id, ("身份证号{}，请核对。", "身份证：{}", "ID number {} was given")),
    ("national_id", _cpf, ("CPF {} do titular.", "portador do documento {},")),
    ("national_id", _nir, ("Numéro de sécurité sociale : {}", "NIR {} (assuré)")),
    ("national_id", _dni, ("con DNI {} y domicilio", "NIF: {}.")),
    ("national_id", _pesel, ("PESEL: {}", "numer PESEL {}, zamieszkały")),
    ("national_id", _ssn, ("My SSN is {}.", "Social Security Number: {}", "applicant {}, born")),
    (
        "key",
        _key,
        ("export TOKEN={}", "use the key {} for now", 'headers = {{"Authorization": "Bearer {}"}}', "密钥是{}。"),
    ),
    ("key", _password, ("password: {}", "DB_PASSWORD='{}'", 'api_key = "{}"', "密码：{}")),
)

# What looks like one of the kinds and is none.
_NEGATIVES: tuple[Value, ...] = (
    _form("Published 2019-0~-1~, pages 1###-1###.", "am 1~.0~.2018 um 1~:3~ Uhr", "2023年1~月1~日发布", "FY 2018-2019"),
    _form(
        "ISBN 978-0-##-######-~", "ISSN 1###-2###", "arXiv:2#0~.1####", "doi:10.1###/j.abc.2019.0~.0##", "PMID 2#######"
    ),
    _form(
        "It costs $1,###,###.## in total.",
        "rund #.###.### Euro",
        "总价###,###.##元",
        "EUR 1# ### ###",
        "+12 ### ### people",
    ),
    _form(
        "version 1#.2.3.4#", "release 4.1#.0-2##-generic", "Section 4.2.1.#", "firmware 2.3.4.1##", "build 1########"
    ),
    _form(
        "part no. 11#-0###-0##",
        "SKU 1##-##-####-#",
        "order 1##########",
        "Art.-Nr. 1### ####",
        "订单号2019########",
        "serial A#########",
    ),
    _form("at 48.8###, 2.3### degrees", "40.7#####, -74.0#####", "N 52° 3#.###'", "3.14159265358979"),
    _form("host 192.168.1.1##", "10.#.#.# is private", "127.0.0.1:8080", "fe80::1", "203.0.113.~", "::1"),
    _form(
        "someone\0example.com",
        "icon\0" + "2x.png",
        "@decorator",
        "@media screen",
        "user\0localhost",
        "git\0github.com:a/b",
    ),
    _form("std::map<a::b>", "12:34:56", "00:1b:44:11:3a:b7", "1:2:3:4", "http://example.com/?id=1##########"),
    _form(
        "sha1 2fd4e1c67a2d28fced849ee1bb76e7391b93eb1#",
        "token = get_token(1)",
        "password: ********",
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ),
    _form(
        "1 2 3 4 5 6 7 8 9 10",
        "0.12 0.4# 0.88 1.2#",
        "3 – 2 – 1",
        "score 21-19, 18-21, 21-1#",
        "(1994) 20-3#",
        "5551212 rows",
    ),
)
_FILLER = (
    "The committee met again in the spring and agreed on most points.", "Der Ausschuss tagte im Frühjahr.",
    "委员会在春天再次开会，达成一致。", "Le comité s'est réuni au printemps.", "El comité se reunió en primavera.",
    "Комитет собрался весной.", "委員会は春に開かれた。",
    "There was nothing else to report from the workshop that year.",
)  # fmt: skip


def personal_samples(num_texts: int, seed: int = 0) -> list[Sample]:
    """Texts of ten to twenty sentences each, some with one value and some with something alike; equal for a seed."""
    rng = random.Random(seed)
    return [_sample(rng) for _ in range(num_texts)]


def _sample(rng: random.Random) -> Sample:
    text, spans = "", []
    for _ in range(rng.randint(10, 20)):
        drawn = rng.random()
        if drawn < 0.3:
            kind, value, sentences = rng.choice(_OTHERS)
        elif drawn < 0.45:
            kind, (value, sentences) = "phone", rng.choice(_PHONES)
        else:
            text += (
                rng.choice(_NEGATIVES)(rng).replace("\0", "@") if drawn < 0.7 else rng.choice(_FILLER)
            ) + rng.choice(" \n")
            continue
        before, after = rng.choice(sentences).replace("{{", "{\0").split("{}")
        written = value(rng)
        text += before.replace("\0", "")
        spans.append((kind, len(text), len(text) + len(written)))
        text += written + after.replace("}}", "}") + rng.choice(" \n")
    return Sample(text, tuple(spans))
