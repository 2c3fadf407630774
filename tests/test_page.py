"""The page of a server, in a browser: it is clicked, typed at and looked at. Skipped where there is no browser."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import unmask
from served import letters, pictures, running, small
from unmask.model import MaskedDiffusion
from unmask.randomness import generators
from unmask.serving import Trajectory, export_page, record

playwright = pytest.importorskip("playwright.sync_api", reason="playwright, which drives a browser, is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium to look at the page with")

MODELS = {"letters": letters(), "pictures": pictures(), "numbers": small(unmask.Symbols(5), (6,))}
KEY = "a-key-of-16-bytes"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield one
        one.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(MODELS) as (host, port):
        yield f"http://{host}:{port}/"


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that was opened, in which nothing may go wrong that is not shown."""
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    found = opened(context, address)
    yield found
    assert found.wrong == []
    context.close()


def opened(context: Any, address: str) -> Any:
    page = context.new_page()
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda said: page.wrong.append(said.text) if "Content Security" in said.text else None)
    page.goto(address)
    playwright.expect(page.locator("fieldset.column")).to_have_count(1)
    return page


def finish(page: Any) -> None:
    playwright.expect(page.locator("#status")).to_have_text(re.compile("^Done"), timeout=60_000)
    page.get_by_role("button", name="To the end").click()


def draw(page: Any, **settings: Any) -> None:
    for name, value in settings.items():
        page.fill(f"#{name}", str(value))
    page.get_by_role("button", name="Draw", exact=True).click()
    finish(page)


def tokens(page: Any, view: int = 0, column: int = 0) -> list[int]:
    return page.evaluate(f"columns[{column}].views[{view}].film.tokens")


def shown(page: Any, sample: int = 0) -> str:
    return "".join(page.locator(".tokens").nth(sample).locator(".token").all_text_contents())


def choose(page: Any, model: str, column: int = 0) -> None:
    page.locator("fieldset.column").nth(column).get_by_label("Model").select_option(model)


def library(model: MaskedDiffusion, n: int, seed: int, **settings: Any) -> torch.Tensor:
    return model.sample(n, generator=generators(seed, n), **settings)


def test_samples_appear_and_can_be_rewound(page: Any) -> None:
    model = MODELS["letters"]
    draw(page, seed=3, count=2)
    x = library(model, 2, 3)
    assert [shown(page, 0), shown(page, 1)] == model.decode(x)
    page.get_by_role("button", name="To the start").click()
    assert shown(page) == "░" * 24
    canvas = model.empty_canvas(2)
    states = [state.x for state in unmask.FirstHitting().trajectory(model.network, canvas, generator=generators(3, 2))]
    for k in (1, 2, 3):
        page.get_by_role("button", name="One step on").click()
        assert shown(page) == model.decode(states[k])[0]
    page.get_by_role("button", name="One step back").click()
    assert (
        shown(page) == model.decode(states[2])[0]
        and "step 2 of 24 · 2 calls" in page.locator(".caption").first.text_content()
    )
    page.get_by_label("Step", exact=True).fill("20")
    assert shown(page, 1) == model.decode(states[20])[1]
    page.locator("#speed").select_option("2")
    page.get_by_role("button", name="Play", exact=True).click()
    playwright.expect(page.locator("output")).to_have_text("21 / 24")
    page.get_by_role("button", name="Pause").click()
    place = page.locator("output").text_content()
    page.wait_for_timeout(700)
    assert page.locator("output").text_content() == place != "24 / 24"


def test_tokens_are_masked_by_clicks_and_redrawn(page: Any) -> None:
    model = MODELS["letters"]
    draw(page, count=1)
    before = tokens(page)
    cells = page.locator(".token")
    for i in (3, 9):
        cells.nth(i).click()
        assert cells.nth(i).get_attribute("aria-pressed") == "true"
    cells.nth(12).click()
    cells.nth(12).click()
    page.get_by_role("button", name="Redraw").click()
    finish(page)
    canvas = torch.tensor([before])
    canvas[0, [3, 9]] = model.network.mask_id
    assert tokens(page) == model.infill(canvas, generator=generators(1, 1))[0].tolist()
    assert page.input_value("#seed") == "1"
    page.get_by_role("button", name="Redraw").click()
    playwright.expect(page.get_by_role("alert")).to_contain_text("nothing is marked")


def test_an_earlier_state_is_where_a_redraw_begins(page: Any) -> None:
    model = MODELS["letters"]
    draw(page, count=1)
    page.get_by_label("Step", exact=True).fill("10")
    before = tokens(page)
    page.get_by_role("button", name="Redraw").click()
    finish(page)
    canvas = torch.tensor([before])
    assert before.count(-1) == 14
    canvas = torch.where(canvas < 0, model.network.mask_id, canvas)
    assert tokens(page) == model.infill(canvas, generator=generators(1, 1))[0].tolist()


def test_alternatives_are_listed_and_can_be_put_in_place(page: Any) -> None:
    model = MODELS["letters"]
    draw(page, count=1)
    now = tokens(page)
    page.locator(".token").nth(5).click()
    choices = page.locator("#choices button")
    playwright.expect(choices.first).to_be_visible()
    canvas = torch.tensor([now])
    canvas[0, 5] = model.network.mask_id
    p = model.network(canvas, torch.ones(1))[0, 5].detach().softmax(-1)
    best = p.argsort(descending=True)
    first, third = choices.nth(0).text_content(), choices.nth(2)
    assert first.split() == [model.codec.symbol(int(best[0])).replace(" ", "␣"), f"{100 * p[best[0]]:.0f}", "%"]
    third.click()
    playwright.expect(page.locator("#status")).to_contain_text("at position 6")
    assert tokens(page) == [*now[:5], int(best[2]), *now[6:]]


def test_pixels_are_painted_and_redrawn(page: Any) -> None:
    model = MODELS["pictures"]
    choose(page, "pictures")
    page.get_by_label("Class").select_option("dot")
    draw(page, count=1)
    label = torch.tensor([2])
    x = library(model, 1, 0, label=label)
    before = tokens(page)
    assert before == x.flatten().tolist()
    box = page.locator("canvas").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 8, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 5, steps=8)
    page.mouse.up()
    assert sorted(page.evaluate("[...columns[0].views[0].film.marks]")) == [0, 1, 2, 3]
    page.get_by_role("button", name="Redraw").click()
    finish(page)
    canvas = x.clone()
    canvas[0, 0] = model.network.mask_id
    assert tokens(page) == model.infill(canvas, label, generator=generators(1, 1)).flatten().tolist()


def test_the_bound_is_a_map(page: Any) -> None:
    draw(page, count=2)
    page.get_by_label("Coloured by").select_option("bits")
    playwright.expect(page.locator(".caption").nth(1)).to_contain_text(re.compile(r"at most [\d.]+ ± [\d.]+ bits"))
    colours = page.locator(".token").evaluate_all("all => all.map(one => one.style.backgroundColor)")
    assert len(set(colours)) > 10 and all(colours)
    assert "bits" in page.locator(".token").first.get_attribute("aria-label")
    for mode in ("step", "probability"):
        page.get_by_label("Coloured by").select_option(mode)
        other = page.locator(".token").evaluate_all("all => all.map(one => one.style.backgroundColor)")
        assert all(other) and other != colours


def test_samplers_and_models_are_side_by_side(page: Any) -> None:
    model = MODELS["letters"]
    page.get_by_role("button", name="Add a column").click()
    second = page.locator("fieldset.column").nth(1)
    second.get_by_label("Sampler").select_option("Ancestral")
    second.get_by_text("Settings").click()
    second.get_by_label("steps", exact=True).fill("4")
    page.get_by_role("button", name="Add a column").click()
    choose(page, "numbers", 2)
    playwright.expect(page.get_by_text("neither texts nor images")).to_be_visible()
    draw(page, seed=5, count=1)
    assert tokens(page, column=0) == library(model, 1, 5)[0].tolist()
    assert tokens(page, column=1) == library(model, 1, 5, sampler=unmask.Ancestral(steps=4))[0].tolist()
    assert tokens(page, column=2) == library(MODELS["numbers"], 1, 5)[0].tolist()
    assert page.evaluate("columns[1].views[0].film.frames.length") <= 4
    second.get_by_role("button", name="Remove the column").click()
    assert page.locator("fieldset.column").count() == 2


def test_texts_are_completed_and_errors_are_shown(page: Any) -> None:
    alert = page.get_by_role("alert")
    draw(page, text="abc[3]d", count=1)
    assert re.fullmatch("abc.{3}d", shown(page))
    draw(page, text="head", count=1)
    assert re.fullmatch("head.{20}", shown(page))
    for text, said in (("a" * 30 + "[2]", "shorten it"), ("xyz[2]", "character 'x'"), ("abc[1-6]", "unknown length")):
        page.fill("#text", text)
        page.get_by_role("button", name="Draw", exact=True).click()
        playwright.expect(alert).to_contain_text(said)
    draw(page, text="", count=1)
    assert alert.text_content() == ""
    page.route("**/sample", lambda route: route.abort())
    page.get_by_role("button", name="Draw", exact=True).click()
    playwright.expect(alert).to_contain_text("is it still running?")


def test_what_takes_long_can_be_stopped(page: Any) -> None:
    page.locator("summary", has_text="Settings").click()
    page.get_by_label("corrections").fill("4000")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_role("button", name="Stop").click()
    playwright.expect(page.locator("#status")).to_have_text("Stopped.")
    page.get_by_label("corrections").fill("")
    draw(page, count=1)


def test_two_users_at_once(browser: Any, address: str) -> None:
    contexts = [browser.new_context() for _ in range(2)]
    pages = [opened(context, address) for context in contexts]
    for seed, page in enumerate(pages, 20):
        page.fill("#seed", str(seed))
        page.get_by_role("button", name="Draw", exact=True).click()
    for seed, page in enumerate(pages, 20):
        finish(page)
        assert [tokens(page, i) for i in range(2)] == library(MODELS["letters"], 2, seed).tolist()
    for context in contexts:
        context.close()


def test_the_keyboard_is_enough(page: Any) -> None:
    def go(reached: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches({reached!r})"):
                outline = page.evaluate("getComputedStyle(document.activeElement).outline")
                assert "3px" in outline and "none" not in outline, outline
                return
        raise AssertionError(f"{reached} is not reached")

    go("#count")
    page.keyboard.press("Control+a")
    page.keyboard.type("1")
    go("#draw")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    go("input[type=range]")
    page.keyboard.press("End")
    before = tokens(page)
    go(".token")
    for key in ("ArrowRight", "ArrowRight", "Space", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert page.evaluate("[...columns[0].views[0].film.marks]") == [2]
    playwright.expect(page.locator("#choices p")).to_contain_text("position 4")
    go("fieldset.column button")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    after = tokens(page)
    assert [i for i in range(24) if before[i] != after[i]] in ([], [2]) and page.input_value("#seed") == "1"
    choose(page, "pictures")
    draw(page, count=1)
    go("canvas")
    for key in ("ArrowDown", "ArrowRight", "Space"):
        page.keyboard.press(key)
    assert page.evaluate("[...columns[0].views[0].film.marks]") == [5]
    assert "row 2, column 2" in page.locator("span[role=status]").text_content()
    names = (
        "[...document.querySelectorAll('button, input, select, canvas, [tabindex]')].filter(one => one.offsetParent)"
    )
    nameless = f"{names}.filter(one => !(one.labels?.length || one.ariaLabel || one.textContent.trim())).length"
    assert page.evaluate(nameless) == 0


def test_a_narrow_screen_shows_everything(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("button", name="Add a column").click()
    choose(page, "pictures", 1)
    draw(page, count=2)
    page.get_by_label("Coloured by").select_option("step")
    page.locator(".token").nth(3).click()
    playwright.expect(page.locator("#choices button").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    wide = "[...document.querySelectorAll('main *')].filter(one => one.getBoundingClientRect().right > 361).length"
    assert page.evaluate(wide) == 0


def test_what_was_drawn_is_saved_and_exported(page: Any, tmp_path: Path) -> None:
    draw(page, seed=8, count=2)
    page.get_by_label("Coloured by").select_option("step")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").click()
    download.value.save_as(tmp_path / "saved.ndjson")
    (saved,) = Trajectory.read(tmp_path / "saved.ndjson")
    assert torch.equal(saved.states(), record(MODELS["letters"], n=2, seed=8).states())
    export_page([saved, record(MODELS["pictures"], n=1, draws=4)], tmp_path / "saved.html")
    page.goto((tmp_path / "saved.html").as_uri())
    assert [shown(page, 0), shown(page, 1)] == MODELS["letters"].decode(saved.states()[-1])
    page.get_by_role("button", name="To the start").click()
    assert shown(page) == "░" * 24
    page.get_by_label("Coloured by").select_option("bits")
    playwright.expect(page.locator(".caption").nth(2)).to_contain_text("at most")


def test_a_key_is_asked_for(browser: Any) -> None:
    with running(MODELS["letters"], keys=[KEY]) as (host, port):
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://{host}:{port}/")
        playwright.expect(page.get_by_role("alert")).to_contain_text("a key is needed")
        page.get_by_label("Key").fill(KEY)
        page.get_by_role("button", name="Draw", exact=True).click()
        playwright.expect(page.locator("fieldset.column")).to_have_count(1)
        draw(page, count=1)
        assert tokens(page) == library(MODELS["letters"], 1, 0)[0].tolist()
        context.close()


def test_the_api_is_explained_and_tried(browser: Any, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{address}docs")
    section = page.locator("section", has_text="POST /sample")
    section.get_by_role("button", name="Try it").click()
    playwright.expect(section.locator("pre")).to_contain_text('"tokens"')
    assert section.get_by_role("cell", name="example i depends on (seed, i) alone").count() == 1
    context.close()
