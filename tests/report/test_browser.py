"""The page in a real browser: it runs without a complaint, asks for nothing, and sorts."""

import pytest
from chromium import Browser, installed
from records import NASTY, hostile, large, small

from lorank.report.page import render

PROGRAM = installed()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"
)

NAMES = "[...document.querySelectorAll('#rows tbody tr:not([hidden])')].map(r => r.dataset.layer)"
HEADS = "[...document.querySelectorAll('#rows thead th')]"
STATES = f"{HEADS}.map(h => h.getAttribute('aria-sort'))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def shown(browser, tmp_path):
    """Open the page of a record."""

    def show(record, **look):
        page = tmp_path / "page.html"
        page.write_text(render(record), encoding="utf-8")
        browser.look(**look)
        browser.open(page)
        return browser

    return show


def column(name):
    return f"{HEADS}.find(h => h.textContent === '{name}')"


def click(browser, name):
    browser.run(f"{column(name)}.querySelector('button').click()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("record", [small(), hostile()], ids=["small", "hostile"])
def test_a_page_is_quiet_and_alone(shown, tmp_path, record, width, scheme):
    page = shown(record, width=width, scheme=scheme)
    assert page.complaints == [] and page.failed == []
    assert page.requests == [(tmp_path / "page.html").as_uri()]
    assert page.run("document.documentElement.scrollWidth") <= width  # nothing hangs out
    assert page.run("window.harmed") is None


def test_a_complaint_would_be_heard(browser, tmp_path):
    """Negative control of the test above."""
    page = tmp_path / "bad.html"
    scripts = (
        "<script>console.error('no'); setTimeout(() => { throw new Error('thrown') })</script>"
    )
    page.write_text(f"<img src='http://localhost:9/a.png'>{scripts}", encoding="utf-8")
    browser.open(page)
    assert any("no" in told for told in browser.complaints)
    assert any("thrown" in told for told in browser.complaints)
    assert browser.failed and browser.requests[-1] == "http://localhost:9/a.png"


def test_a_name_is_shown_as_it_is(shown):
    page = shown(hostile())
    assert page.run("document.title").startswith(NASTY[:20])
    assert page.run(NAMES)[0] == NASTY
    assert page.run("document.querySelectorAll('img').length") == 0


def test_numbers_sort_as_numbers_both_ways(shown):
    page, record = shown(small()), small()
    own = [layer.layer for layer in record.layers]
    assert page.run(NAMES) == own
    by_rank = [layer.layer for layer in sorted(record.layers, key=lambda layer: layer.rank)]
    assert by_rank != own
    click(page, "Rank")
    assert page.run(NAMES) == by_rank
    click(page, "Rank")
    ranks = {layer.layer: layer.rank for layer in record.layers}
    found = page.run(NAMES)
    assert [ranks[n] for n in found] == sorted(ranks.values(), reverse=True)
    click(page, "Layer")
    assert page.run(NAMES) == sorted(own)


def test_what_is_missing_stands_last_in_both_orders(shown):
    page = shown(small())
    for _ in range(2):
        click(page, "MACs")
        assert page.run(NAMES)[-1] == "head"


def test_the_order_is_told_to_those_who_do_not_see_it(shown):
    page = shown(small())
    assert set(page.run(STATES)) == {None}
    click(page, "Energy kept")
    states = page.run(STATES)
    assert states.count("ascending") == 1
    assert page.run(f"{column('Energy kept')}.getAttribute('aria-sort')") == "ascending"
    click(page, "Energy kept")
    assert page.run(STATES).count("descending") == 1
    click(page, "Rank")
    assert page.run(STATES).count("ascending") == 1 and "descending" not in page.run(STATES)


@pytest.mark.parametrize(("key", "code"), [("Enter", 13), (" ", 32)])
def test_the_keyboard_sorts(shown, key, code):
    page = shown(small())
    page.run(f"{column('Rank')}.querySelector('button').focus()")
    page.press(key, code)
    assert page.run(f"{column('Rank')}.getAttribute('aria-sort')") == "ascending"


def test_tab_reaches_every_header(shown):
    page = shown(small())
    page.run("document.getElementById('state').focus()")
    reached = []
    for _ in range(40):
        page.press("Tab", 9)
        reached.append(page.run("document.activeElement.closest('th')?.textContent"))
    assert set(page.run(f"{HEADS}.map(h => h.textContent)")) <= set(reached)


def test_a_filter_leaves_rows_and_pictures(shown):
    page = shown(small())
    pictures = "document.querySelectorAll('.small:not([hidden])').length"
    typing = (
        "f = document.getElementById('filter'); f.value = '{}'; f.dispatchEvent(new Event('input'))"
    )
    page.run(typing.format("DEPTH"))
    assert page.run(NAMES) == ["depthwise"] and page.run(pictures) == 1
    assert page.run("document.getElementById('count').value") == "1 of 7 layers"
    page.run(typing.format("<nothing>"))
    assert page.run(NAMES) == [] and page.run(pictures) == 0
    page.run(typing.format(""))
    page.run("s = document.getElementById('state'); s.value = 'dense'")
    page.run("s.dispatchEvent(new Event('change'))")
    assert page.run(NAMES) == ["head"]
    click(page, "Rank")  # what is filtered out stays out
    assert page.run(NAMES) == ["head"]


CONTRAST = """
(() => {
  const light = c => { const [r, g, b] = c.map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const parse = s => s.match(/[\\d.]+/g).map(Number);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c.slice(0, 3) } };
  const worst = [21, ''];
  for (const e of document.querySelectorAll('main *, header *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    if (!e.getClientRects().length) continue;
    const style = getComputedStyle(e);
    const ink = parse(e.closest('svg') ? style.fill : style.color).slice(0, 3);
    const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst[0]) { worst[0] = ratio; worst[1] = e.outerHTML.slice(0, 99) }
  }
  return worst;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(shown, scheme):
    """WCAG 2.2, 1.4.3: text stands out from its ground by 4.5 to 1."""
    ratio, where = shown(small(), scheme=scheme).run(CONTRAST)
    assert 4.5 <= ratio < 21, where


def test_dark_is_dark(shown):
    ground = "getComputedStyle(document.body).backgroundColor"
    assert shown(small(), scheme="light").run(ground) != shown(small(), scheme="dark").run(ground)


def test_pictures_say_what_they_show(shown):
    page = shown(small())
    named = "[...document.querySelectorAll('svg')].map(s => s.role + s.getAttribute('aria-label'))"
    labels = page.run(named)
    assert len(labels) == 12 and all(label.startswith("img") for label in labels)
    assert any("loss: 2 in epoch 1" in label for label in labels)
    assert any("layer5.conv" in label and "rank 6 of 64" in label for label in labels)


def test_on_paper_the_folds_are_open(shown):
    page = shown(small())
    folds = "document.querySelectorAll('details:not([open])').length"
    assert page.run(folds) == 3
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run(folds) == 0
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run(folds) == 3
    assert len(page.call("Page.printToPDF")["data"]) > 10_000


def test_two_hundred_layers_are_quick(shown):
    page = shown(large())
    took = page.run(
        f"(() => {{ const t = performance.now(); {column('Rank')}.querySelector('button').click();"
        "document.body.offsetHeight; return performance.now() - t })()"
    )
    assert took < 1000  # tens of milliseconds
    assert page.complaints == [] and len(page.run(NAMES)) == 200
