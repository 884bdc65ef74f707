"""Languages beyond eldc's, Chinese in its variants, code, and texts with nothing to go by."""

import inspect
import textwrap

import pyarrow as pa
import pytest

from modelmill.tasks.clean.code import script
from modelmill.tasks.clean.language import CODE, UNKNOWN, identify, identify_lines, languages
from modelmill.tasks.text.flat import characters

# Written for this test, one sentence a language. The second half is of languages that eldc does not know.
SENTENCES = {
    "en": "The bridge over the river will be closed until the end of the month, because two beams must be changed.",
    "de": "Die Brücke über den Fluss bleibt bis zum Ende des Monats gesperrt, weil zwei Balken ersetzt werden müssen.",
    "fr": "Le pont sur la rivière restera fermé jusqu'à la fin du mois, parce qu'il faut remplacer deux poutres.",
    "es": "El puente sobre el río estará cerrado hasta el final del mes, porque hay que cambiar dos de sus vigas.",
    "pt": "A ponte sobre o rio ficará fechada até ao fim do mês, porque é preciso substituir duas das suas vigas.",
    "nl": "De brug over de rivier blijft tot het einde van de maand dicht, omdat twee balken vervangen moeten worden.",
    "ru": "Мост через реку будет закрыт до конца месяца, потому что нужно заменить две балки.",
    "sr": "Мост преко реке биће затворен до краја месеца, јер треба заменити две греде.",
    "hi": "नदी पर बना पुल महीने के अंत तक बंद रहेगा, क्योंकि उसके दो शहतीर बदलने हैं।",
    "ja": "川にかかる橋は、二本の梁を取り替えるため、月末まで通行止めになります。",
    "ko": "강 위의 다리는 들보 두 개를 바꿔야 하기 때문에 이달 말까지 닫혀 있습니다.",
    "tr": "Nehrin üzerindeki köprü, iki kirişi değiştirilmesi gerektiği için ay sonuna kadar kapalı kalacak.",
    "cy": "Bydd y bont dros yr afon ar gau tan ddiwedd y mis, oherwydd bod rhaid newid dau o'i thrawstiau.",
    "af": "Die brug oor die rivier sal tot aan die einde van die maand gesluit wees, omdat twee balke vervang word.",
    "id": "Jembatan di atas sungai itu akan ditutup sampai akhir bulan karena dua baloknya harus diganti.",
    "gl": "A ponte sobre o río estará pechada ata o final do mes, porque hai que cambiar dúas das súas trabes.",
    "ga": "Beidh an droichead thar an abhainn dúnta go dtí deireadh na míosa, mar caithfear dhá bhíoma a athrú.",
    "sw": "Daraja juu ya mto litafungwa hadi mwisho wa mwezi, kwa sababu mihimili yake miwili lazima ibadilishwe.",
    "eo": "La ponto super la rivero restos fermita ĝis la fino de la monato, ĉar oni devas anstataŭigi du trabojn.",
    "la": "Pons supra flumen usque ad finem mensis clausus erit, quia duae trabes mutandae sunt.",
    "mk": "Мостот преку реката ќе биде затворен до крајот на месецот, затоа што треба да се сменат две греди.",
    "ne": "नदीमाथिको पुल महिनाको अन्त्यसम्म बन्द हुनेछ, किनभने यसका दुईवटा दलिन फेर्नुपर्छ।",
}


def test_more_than_a_hundred_languages_are_told_apart() -> None:
    assert len(languages()) >= 150
    found, scores = identify(list(SENTENCES.values()))
    assert dict(zip(SENTENCES, found, strict=True)) == {language: language for language in SENTENCES}
    assert (scores >= 0.65).all()


@pytest.mark.parametrize(
    "text",
    [
        "由于需要更换两根横梁，河上的大桥将关闭到月底。",
        "由於需要更換兩根橫樑，河上的大橋將關閉到月底。",
        "因為要換兩條橫樑，所以條橋會封到月底先至開返，唔好意思。",
        "用 Python 写的 web framework，例如 Django 和 Flask，都支持 REST API 与 JSON schema。",
    ],
    ids=["simplified", "traditional", "Cantonese", "with English"],
)
def test_chinese_is_one_language(text: str) -> None:
    found, scores = identify([text])
    assert found == ["zh"]
    assert scores[0] >= 0.65


def test_code_is_no_language() -> None:
    in_c = '#include <stdio.h>\nint main(int argc, char **argv) {\n  printf("%d\\n", argc);\n  return 0;\n}\n'
    markup = '{"id": 7, "tags": ["red", "blue"], "next": null}\n' * 4
    found, scores = identify([in_c, markup])
    assert found == [CODE, CODE]
    assert (scores >= 0.75).all()


def test_a_page_with_code_has_the_language_of_the_rest() -> None:
    german = f"{SENTENCES['de']}\n    for (i = 0; i < n; i++) {{ sum += values[i]; }}\n    return sum;\n"
    assert identify([german, inspect.getsource(textwrap)])[0] == ["de", "en"]


def test_numbers_and_bare_markup_are_unknown() -> None:
    found, scores = identify(["12.5 % 2024-01-31 +48", '<div class="wide"><br/></div>', "~ * ~ — ¶", "", " \n"])
    assert found == [UNKNOWN] * 5
    assert not scores.any()


def test_control_characters_do_no_harm() -> None:
    found, _ = identify([SENTENCES["cy"].replace(" ", "\x1a \x00")])
    assert found == ["cy"]


def test_lines_have_languages_of_their_own() -> None:
    lines, found, scores = identify_lines("\n".join([SENTENCES["en"], "", SENTENCES["cy"], SENTENCES["ja"]]))
    assert lines[2] == SENTENCES["cy"]
    assert found == ["en", UNKNOWN, "cy", "ja"]
    assert (scores[[0, 2, 3]] > 0.65).all()


def test_the_script_is_counted() -> None:
    counted = script(characters(pa.array(["<b>ab</b> 漢字かな", "x = {\n    1,\n}\nplain words here"])))
    assert counted.letters.tolist() == [6, 15]
    assert (counted.han[0], counted.kana[0]) == (2, 2)
    assert counted.visible.tolist() == [13, 20]
    assert counted.code.tolist() == [0, 6]
    assert counted.code_share[1] == 6 / 20
