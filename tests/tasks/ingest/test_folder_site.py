"""Folders of HTML as web sites: what they show, what enters the key, and what is said where a package is missing."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from modelmill.tasks.errors import InputError
from modelmill.tasks.ingest.config import Config, external_digests
from modelmill.tasks.ingest.folder_site import FolderSite, FolderSites
from tests.tasks.ingest.rows import digests_of, reasons_of, rows_of, urls_of

TEXT = "<html lang='{}'><head><meta charset=gb18030><title>{}</title></head><body><p>{}</p>{}</body></html>"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A guide with an index that links to what is there and what is not, and pages in Chinese without any index."""
    (tmp_path / "guide" / "deep").mkdir(parents=True)
    (tmp_path / "chinese" / "章").mkdir(parents=True)
    links = "".join(f"<a href='{path}'>x</a>" for path in ("deep", "deep/one.html#x", "style.css", "../../etc/passwd"))
    pages = {
        "guide/index.html": TEXT.format("en", "Guide", "How to use it, in some words.", links),
        "guide/deep/one.html": TEXT.format("en", "One", "The first chapter of the guide.", ""),
        "guide/deep/two.htm": TEXT.format("en", "Two", "Only the list of the folder names this one.", ""),
        "guide/style.css": "p {}",
        "guide/deep/.hidden.html": "never",
        "chinese/章/第一.html": TEXT.format("zh", "第一章", "这一章说明如何安装和使用这个系统。", ""),
    }
    for name, text in pages.items():
        (tmp_path / name).write_bytes(text.encode("gb18030"))
        os.utime(tmp_path / name, (1_600_000_000, 1_600_000_000))
    return tmp_path


def source(folders: Path, **fields: object) -> dict[str, object]:
    sites = [{"host": f"{name}.docs.test", "folder": str(folders / name)} for name in ("guide", "chinese")]
    return {"kind": "folders", "name": "docs", "pages": 50, "sites": sites} | fields


def test_folders_are_crawled_like_the_web(folders, run_ingest):
    _, output = run_ingest(source(folders), extractor="resiliparse")
    pages = {row["url"]: row for row in rows_of(output / "pages")}
    chinese = pages["http://chinese.docs.test/%E7%AB%A0/%E7%AC%AC%E4%B8%80.html"]
    assert (chinese["title"], chinese["text"]) == ("第一章", "这一章说明如何安装和使用这个系统。")
    assert chinese["date"] == "2020-09-13T12:26:40Z"
    assert {"http://guide.docs.test/", "http://guide.docs.test/deep/one.html"} <= set(pages)
    assert "Only the list" in pages["http://guide.docs.test/deep/two.htm"]["text"]
    lists = [f"http://{path}/" for path in ("guide.docs.test/deep", "chinese.docs.test", "chinese.docs.test/%E7%AB%A0")]
    assert reasons_of(output) == {
        "http://guide.docs.test/deep": "redirect",
        "http://guide.docs.test/style.css": "content_type",
        "http://guide.docs.test/etc/passwd": "http_status",
        **dict.fromkeys(lists, "empty_text"),
    }
    _, again = run_ingest(source(folders), name="again", workers=2, extractor="resiliparse")
    assert digests_of(again / "pages") == digests_of(output / "pages")
    _, fewer = run_ingest(source(folders, exclude=["/deep", "css$"]), name="fewer")
    assert not [url for url in urls_of(fewer) if "deep" in url]


@pytest.mark.parametrize("path", ["/../chinese/", "/%2e%2e/chinese/", "/deep/.hidden.html", "/deep/%00", "/none.html"])
def test_nothing_outside_the_folder_is_shown(folders, path):
    sites = FolderSites([FolderSite(host="guide.test", folder=str(folders / "guide"))], page_bytes=1_000)
    assert sites.page("guide.test", path) is None
    assert sites.page("other.test", "/") is None
    robots = sites.page("guide.test", "/robots.txt")
    assert robots is not None and robots.body.endswith(b"Disallow:\n")


def digest(folders: Path, **fields: object) -> dict[str, str]:
    return external_digests(Config.model_validate({"sources": [source(folders, **fields)]}))


def test_the_key_depends_on_pages_and_their_dates_not_on_the_place(folders, tmp_path):
    before = digest(folders)
    assert set(before) == {"docs/guide.docs.test", "docs/chinese.docs.test"}
    (folders / "guide" / "style.css").write_text("changed")
    (folders / "guide").rename(folders / "moved")
    (folders / "guide").symlink_to(folders / "moved")
    assert digest(folders) == before
    os.utime(folders / "moved" / "deep" / "one.html", (1, 1))
    assert digest(folders) != before


def test_a_missing_package_is_named(folders):
    missing = [{"host": "x.test", "folder": str(folders / "none"), "package": "postgresql-doc-15"}]
    with pytest.raises(InputError, match=r"there is no such folder\. Run `apt-get install postgresql-doc-15`"):
        digest(folders, sites=missing)
    (folders / "none").mkdir()
    with pytest.raises(InputError, match=r"it holds no HTML file\. Run"):
        digest(folders, sites=missing)


def test_hosts_are_distinct_and_nobodys(folders):
    with pytest.raises(ValidationError, match=r"two sites have the host x\.test"):
        digest(folders, sites=[{"host": "x.test", "folder": "a"}, {"host": "x.test", "folder": "b"}])
    with pytest.raises(ValidationError, match="pattern"):
        digest(folders, sites=[{"host": "example.com", "folder": "a"}])
