"""Links of the documentation point at files and headings that exist."""

import json
import re

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)


def pages(repo):
    return [*sorted(repo.glob("*.md")), *sorted((repo / "docs").rglob("*.md")), repo / "docs" / "tour.ipynb"]


def text_of(page):
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return FENCE.sub("", page.read_text())


def anchors(page):
    """The anchors that a Markdown viewer gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)", text_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_point_at_something(repo):
    missing, seen = [], 0
    for page in pages(repo):
        for link in LINK.findall(text_of(page)):
            if "://" in link:
                continue
            seen += 1
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                missing.append(f"{page.relative_to(repo)}: {link}")
    assert seen > 30
    assert not missing, "\n".join(missing)


def test_every_page_can_be_reached_from_the_index(repo):
    todo, reached = [repo / "README.md", repo / "docs" / "index.md"], set()
    while todo:
        page = todo.pop().resolve()
        if page in reached or not page.exists():
            continue
        reached.add(page)
        if page.suffix in (".md", ".ipynb"):
            names = [link.partition("#")[0] for link in LINK.findall(text_of(page)) if "://" not in link]
            todo += [page.parent / name for name in names if name]
    unreached = [str(page.relative_to(repo)) for page in pages(repo) if page.resolve() not in reached]
    assert unreached == []


def test_pictures_are_small(repo):
    pictures = list((repo / "docs" / "images").iterdir())
    assert pictures
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
