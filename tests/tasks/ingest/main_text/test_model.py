import numpy as np
import pytest

from modelmill.tasks.ingest.main_text.extract import main_text
from modelmill.tasks.ingest.main_text.model import likely_main, shipped_model

ENGLISH = (
    ("Home", "Products", "Pricing", "Contact"),
    "Why rivers bend",
    (
        "Water on the outside of a curve runs faster than on the inside, so it carries soil away from one bank, and "
        "lays it down on the other. Over decades the curve grows until the river meets itself.",
        "Surveys of the lower valley, made in three summers, found that the bends moved two metres a year where the "
        "banks were sand, and hardly at all where tree roots held the clay together.",
        "Once a loop is cut off, it stays behind as a lake. Reeds fill it from the edges, and after a century only a "
        "band of darker grass shows where the river used to flow.",
    ),
    "We use cookies to improve your visit. Accept all",
    ("Ten lakes to see", "How dams are built", "A short history of bridges"),
    "Share on Facebook",
    "© 2024 River Journal. All rights reserved.",
)
CHINESE = (
    ("首页", "产品", "价格", "联系我们"),
    "河流为什么弯曲",
    (
        "弯道外侧的水流比内侧更快，因此它把一侧岸边的泥土带走，又在另一侧慢慢堆积下来。几十年之后，弯道越来越大，"
        "直到河流与自己相遇。",
        "在下游河谷进行的三个夏天的测量发现，沙质河岸的弯道每年移动大约两米，而树根固定着黏土的地方，河岸几乎没有变化。",
        "一旦河湾被切断，它就会作为湖泊留在原处。芦苇从边缘向中间生长，一百年以后，只有一条颜色较深的草地说明河水曾经流过这里。",
    ),
    "我们使用网络存储技术来改善您的访问。全部接受",
    ("值得一看的十个湖泊", "水坝是怎样建成的", "桥梁简史"),
    "分享到微博",
    "版权所有 2024 河流杂志",
)


def page(menu, title, paragraphs, cookies, related, share, footer) -> str:
    links = "".join(f"<li><a href=/{number}>{name}</a></li>" for number, name in enumerate(menu))
    cards = "".join(f"<li class=card><a href=/r{number}>{name}</a></li>" for number, name in enumerate(related))
    text = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return (
        f"<html><head><title>{title}</title></head><body><div class=cookie-banner><p>{cookies}</p></div>"
        f"<header><nav class=menu><ul>{links}</ul></nav></header><main><article class=post><h1>{title}</h1>"
        f"<div class=entry-content>{text}</div><div class=social-share><a href=/s>{share}</a></div></article>"
        f"<aside class=related-posts><ul>{cards}</ul></aside></main><footer class=site-footer><p>{footer}</p></footer>"
    )


@pytest.mark.parametrize("parts", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_article_stays_and_clutter_goes(parts) -> None:
    menu, title, paragraphs, cookies, related, share, footer = parts
    found = main_text(page(*parts).encode(), shipped_model())
    assert found.title == title
    assert found.page_type == "article"
    assert all(paragraph in found.text for paragraph in paragraphs)
    assert [part for part in (*menu, cookies, *related, share, footer) if part in found.text] == []


def test_what_another_extractor_keeps_is_added() -> None:
    html = page(*ENGLISH).encode()
    footer = ENGLISH[-1]
    assert footer not in main_text(html, shipped_model()).text
    assert footer in main_text(html, shipped_model(), (f"Something\n{footer}\n",)).text


@pytest.mark.parametrize("html", [b"", b"<p>", b"\xff\xfe<b>\x00"])
def test_pages_with_next_to_nothing(html: bytes) -> None:
    assert len(main_text(html, shipped_model()).text) <= 3


def test_likely_main_has_the_best_expected_f1() -> None:
    generator = np.random.default_rng(1)
    scores = generator.random(40).astype(np.float32)
    num_words = generator.integers(1, 60, 40).astype(np.float32)

    def expected(cut: float) -> float:
        of = scores >= cut
        mass = scores * num_words
        return 2 * mass[of].sum() / (num_words[of].sum() + mass.sum())

    best = max(scores.tolist(), key=expected)
    assert likely_main(scores, num_words).tolist() == (scores >= np.float32(0.85) * np.float32(best)).tolist()
    assert likely_main(scores[:0], num_words[:0]).tolist() == []
