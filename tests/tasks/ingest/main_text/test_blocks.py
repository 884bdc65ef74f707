import numpy as np
import pytest

from modelmill.tasks.ingest.main_text.blocks import found_blocks
from modelmill.tasks.ingest.main_text.joined import joined_text
from modelmill.tasks.ingest.main_text.parse import parsed
from modelmill.tasks.ingest.main_text.states import IN_HIDDEN
from modelmill.tasks.ingest.main_text.statistics import (
    CHARACTERS,
    COMMAS,
    ENDS_TERMINAL,
    LINK_CHARACTERS,
    LINKS,
    SINGLES,
    WORDS,
)


def text(html: str) -> str:
    page = parsed(html.encode())
    blocks = found_blocks(page)
    return joined_text(page, blocks, np.ones(len(blocks), bool))


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>  a \n b&nbsp; <b>c</b>d </p><p>e</p>", "a b cd\n\ne"),
        ("<p>a<br>b<br><br>c</p>", "a\nb\n\nc"),
        ("<p>a<br>&nbsp; b<br>\n&nbsp;&nbsp;c</p>", "a\nb\n  c"),
        ("<p>so <img alt='x &lt; y' src=a.png> holds</p><img alt=logo>", "so x < y holds"),
        ("<pre>def f():\n    return <b>1</b>\n\nf()</pre>", "def f():\n    return 1\n\nf()"),
        ("<table><tr><td>a<td>b<tr><td>c<td>d</table>", "a\tb\nc\td"),
        ("<ul><li>a<li>b</ul><p>c", "a\nb\n\nc"),
        ("<p>a<script>b</script><style>c</style><template>d</template>e", "ae"),
        ("<select><option>a</select><textarea>b</textarea>c", "c"),
        ("<p>x <math><mi>y</mi><annotation encoding='application/x-tex'>y^2</annotation></math> z", "x y^2 z"),
        ("<p>x <math><mi>y</mi></math> z", "x y z"),
        (
            "<p><span class=katex-mathml><math><mi>y</mi><annotation encoding='application/x-tex'>y_1</annotation>"
            "</math></span><span class='katex-html' aria-hidden=true>y1</span>",
            "y_1",
        ),
        ('<p>a <script type="math/tex">b+c</script> d', "a b+c d"),
    ],
)
def test_text_of_blocks(html: str, expected: str) -> None:
    assert text(html) == expected


@pytest.mark.parametrize(
    "attribute", ["hidden", "style='display: none'", "style=visibility:hidden", "aria-hidden=true"]
)
def test_hidden_elements_are_marked(attribute: str) -> None:
    page = parsed(f"<p>a</p><div {attribute}><p>b</p></div><p>c</p>".encode())
    blocks = found_blocks(page)
    assert [bool(state & IN_HIDDEN) for state in blocks.state[blocks.inner]] == [False, True, False]


def test_statistics() -> None:
    page = parsed("<p>One, <a href=x>two</a> three.</p><p>中文，字</p><p>it&rsquo;s &#65;</p>".encode())
    statistics = found_blocks(page).statistics
    columns = [WORDS, CHARACTERS, LINKS, LINK_CHARACTERS, COMMAS, ENDS_TERMINAL, SINGLES]
    assert statistics[:, columns].tolist() == [[3, 13, 1, 3, 1, 1, 0], [3, 4, 0, 0, 1, 0, 3], [2, 5, 0, 0, 0, 0, 0]]
