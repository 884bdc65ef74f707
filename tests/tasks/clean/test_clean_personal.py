"""Personal data and keys: what is replaced, what looks alike and stays, and text made to be slow."""

import time

import pyarrow as pa
import pytest

from modelmill.tasks.clean.config import PersonalData
from modelmill.tasks.clean.personal.checksums import cpf, luhn, mod_11_2, verhoeff
from modelmill.tasks.clean.personal.payment import is_card, is_iban
from modelmill.tasks.clean.personal.redact import KINDS, redact


def redacted(text: str) -> str:
    return redact(pa.array([text]), PersonalData())[0].to_pylist()[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to ann.lee+x@mail.example.co.uk now.", "Write to <email> now."),
        ("写信给debian-user@lists.debian.org邮件列表", "写信给<email>邮件列表"),
        ("Call (212) 555-0142 or +44 20 7946 0958.", "Call <phone> or <phone>."),
        ("手机13812345678，座机010-62345678。", "手机<phone>，座机<phone>。"),
        ("The host 8.8.8.8 answers, 192.168.1.1 is private.", "The host <ip> answers, 192.168.1.1 is private."),
        ("IPv6 2606:4700:4700:0:0:0:0:1111 too, not ::1.", "IPv6 <ip> too, not ::1."),
        ("IPv6 2620:fe::fe or 2001:db8::1.", "IPv6 <ip> or 2001:db8::1."),
        ("5.2.1.4. A heading; novas==3.1.1.3; 93.184.216.34", "5.2.1.4. A heading; novas==3.1.1.3; <ip>"),
        ("nets 93.184.216.0/24, 2606:2800::/32", "nets 93.184.216.0/24, 2606:2800::/32"),
        ("See Section 9.1.5.3 and version 8.1.2.3.", "See Section 9.1.5.3 and version 8.1.2.3."),
        ("@decorator, a@b, 2024-01-15 10:20:30, 3.14159265", "@decorator, a@b, 2024-01-15 10:20:30, 3.14159265"),
        ("std::vector<a::b::c> x[1:2:3], 256.1.1.1", "std::vector<a::b::c> x[1:2:3], 256.1.1.1"),
    ],
)
def test_personal_data_is_replaced_in_place(text: str, expected: str) -> None:
    replaced, counts = redact(pa.array([text, None, "nothing"]), PersonalData())
    assert replaced.to_pylist() == [expected, None, "nothing"]
    first, *others = counts.to_pylist()
    assert first == {kind: expected.count(f"<{kind}>") for kind in KINDS}
    assert not any(value for other in others for value in other.values())


def test_kinds_of_personal_data_can_be_switched_off() -> None:
    replaced, counts = redact(pa.array(["a@b.org 93.184.216.34"]), PersonalData(email=False))
    assert replaced.to_pylist() == ["a@b.org <ip>"]
    assert counts.to_pylist()[0] == dict.fromkeys(KINDS, 0) | {"ip": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tel: 030 / 1234 5678, 030 1234 5679", "Tel: <phone>, <phone>"),
        ("Tél. 01 23 45 67 89 ou +33 (0)1 23 45 67 89.", "Tél. <phone> ou <phone>."),
        ("Звоните: +7 (495) 123-45-67, тел. 8 812 123 45 67", "Звоните: <phone>, тел. <phone>"),
        ("090-1234-5678 と 03-3456-7890", "<phone> と <phone>"),
        ("电话１３８００１３８０００或021-62345678转8", "电话<phone>或<phone>转8"),
        ("call us at 844-411-2487 (866) 761-6071!", "call us at <phone> <phone>!"),
        ("T (+1) 650 534-0325 now", "T <phone> now"),
        ("WhatsApp ٠١٢٣٤٥٦٧٨٩", "WhatsApp <phone>"),
    ],
)
def test_telephone_numbers_in_the_forms_of_many_countries(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Published 2019-03-14, pages 1021-1034, ISBN 978-3-16-148410-0, ISSN 0378-5955.",
        "arXiv:2301.12345 and doi 10.1000/182.12345678, commit 1234567890",
        "It costs $1,234,567.89 or 12 345 678 euros or €123-456-7890, up +12.5 % from +1 000 000.",
        "At 40.712776, -74.005974 in 2020-2021 with 100-200-3000 items, part 110-220-3300x.",
        "id 13812345678 of the row, timestamp 1700000000, order 2023 1015 8812",
        "https://example.com/212-555-0142/x?phone_id=13800138000",
        "pi is 3.141592653589793 and e is 2.718281828459045",
        "git@github.com:a/b.git, logo@2x.png, jane@example.com, getty@tty1.service, https://user@host.org/",
        "call 2019-2020 or dial 01.02.2003 or text 0000000000",
    ],
)
def test_what_looks_alike_stays(text: str) -> None:
    assert redacted(text) == text


# Numbers made for this test: the check digits are right, the persons are not.
VALID = [
    ("card", "Visa 4539 1488 0343 6467."),
    ("card", "card 4539148803436467"),
    ("card", "Amex 3782 822463 10013,"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB82WEST12345698765432."),
    ("iban", "IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFF"),
    ("national_id", "身份证11010519491231002X。"),
    ("national_id", "SSN 219-09-9998"),
    ("national_id", "DNI 12345678Z"),
    ("national_id", "NIE: X1234567L"),
    ("national_id", "CF RSSMRA85T10A562S"),
    ("national_id", "CPF 529.982.247-25"),
    ("national_id", "Aadhaar 2341 2341 2346"),
    ("national_id", "PESEL 44051401359"),
    ("national_id", "BSN 111222333"),
    ("national_id", "NIR 2 55 08 14 168 025 38"),
    ("national_id", "주민등록번호 900101-1234568"),
    ("national_id", "personnummer 811218-9876"),
    ("national_id", "National Insurance number AB 12 34 56 C"),
]
CHECK_DIGITS = [(kind, text) for kind, text in VALID if "219-09" not in text and "AB 12" not in text]


@pytest.mark.parametrize(("kind", "text"), VALID)
def test_numbers_with_right_check_digits_are_replaced(kind: str, text: str) -> None:
    _, counts = redact(pa.array([text]), PersonalData())
    assert counts.to_pylist()[0] == dict.fromkeys(KINDS, 0) | {kind: 1}


@pytest.mark.parametrize(("kind", "text"), CHECK_DIGITS)
def test_one_other_digit_makes_them_invalid(kind: str, text: str) -> None:
    places = [index for index, character in enumerate(text) if character.isdigit()]
    changed = [text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :] for place in places]
    _, counts = redact(pa.array(changed), PersonalData())
    assert sum(row[kind] for row in counts.to_pylist()) == 0


def test_ids_of_weak_form_need_their_word() -> None:
    for text in ("12345678Z", "529 98224725", "2341 2341 2346", "44051401359", "111222333", "AB123456C", "811218-9876"):
        assert redacted(f"item {text} of the list") == f"item {text} of the list"


def test_check_digits() -> None:
    assert luhn("79927398713") and not luhn("79927398710")
    assert verhoeff("2363") and not verhoeff("2364")
    assert mod_11_2("11010519491231002X") and not mod_11_2("110105194912310021")
    assert cpf("52998224725") and not cpf("52998224724") and not cpf("11111111111")
    assert is_iban("NO9386011117947") and not is_iban("NO938601111794")
    assert is_card("6011000990139424") and not is_card("9011000990139421")


RANDOM = "q7Rk2ZpX9vLw4TnB8sYc3MhD6fGj1KaE5uQx"


@pytest.mark.parametrize(
    "text",
    [
        f"key AKIA{RANDOM[:16].upper()} here",
        f"token ghp_{RANDOM}.",
        f"glpat-{RANDOM[:20]}",
        f"curl -H 'Authorization: Bearer sk-ant-{RANDOM}'",
        f"export HF_TOKEN=hf_{RANDOM[:34]}",
        f"password: {RANDOM[:14]}",
        f'"api_key": "{RANDOM[:32]}",',
        f"密码：{RANDOM[:14]}",
        f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3In0.{RANDOM}",
        "-----BEGIN RSA PRIVATE KEY-----\n" + f"{RANDOM}\n" * 4 + "-----END RSA PRIVATE KEY-----",
    ],
)
def test_keys_are_replaced(text: str) -> None:
    assert redacted(text).count("<key>") == 1
    assert RANDOM[:14] not in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx and AKIAIOSFODNN7EXAMPLE",
        "password: correct horse, token = get_token_v2(request), secret=os.environ.key1",
        "token: https://example.com/a1b2c3d4e5f6, password=your_password_123",
        f"sha256: {RANDOM}, task-{RANDOM[:20]}",
        "-----BEGIN PUBLIC KEY-----\n" + f"{RANDOM}\n" * 4 + "-----END PUBLIC KEY-----",
    ],
)
def test_samples_and_code_are_no_keys(text: str) -> None:
    assert redacted(text) == text


def test_sliced_and_chunked_columns_give_the_same() -> None:
    texts = ["x", "Grüße 𝔘 an a.b@c.org", None, "两个号码13812345678，", "end"]
    whole = pa.chunked_array([texts[:2], texts[2:]])
    expected = ["x", "Grüße 𝔘 an <email>", None, "两个号码<phone>，", "end"]
    assert redact(whole, PersonalData())[0].to_pylist() == expected
    assert redact(pa.array(["y", *texts]).slice(1), PersonalData())[0].to_pylist() == expected
    assert len(redact(pa.array([], pa.string()), PersonalData())[1]) == 0


@pytest.mark.parametrize(
    "piece",
    [
        "1", "1-", "+1 ", "(1) ", "1.1.", "a@", "a@b.", "@", "x.@x.", "::", "1:", "=", "a=b1", "eyJ", "eyJa.", "sk-",
        "AB12", "AB12 ", "-----BEGIN PRIVATE KEY-----", "+49 30 1234567 ", "tel 030 1234567 ", "password=a1",
    ],
)  # fmt: skip
def test_no_text_takes_long(piece: str) -> None:
    text = piece * (30_000 // len(piece))
    redact(pa.array(["warm"]), PersonalData())
    started = time.process_time()
    redact(pa.array([text]), PersonalData())
    # What grows with the square takes hours.
    assert time.process_time() - started < 2
