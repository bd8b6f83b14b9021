"""The page without a server, from a plain file server, used as a visitor would."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, FilePayload, Page, expect

from chromium import PHONE, browser, page_in
from sites import (
    FOUR,
    MODELS,
    NAMES,
    SEVEN,
    draw,
    field_of,
    file_server,
    findings,
    fingerprint,
    pause,
    set_up,
    stands,
    wait_for_steps,
)
from torchship.demo import names_of
from torchship.native.site.writer import write_site
from torchship.script.runtime.archive import open_archive

SEED = 7  # the page's
TURNS = {"ArrowUp": 0, "KeyS": 1, "ArrowLeft": 2, "KeyD": 3}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def archives(model_archive: Callable[[str], Path]) -> dict[str, Path]:
    return {name: model_archive(name) for name in MODELS}


@pytest.fixture(scope="module")
def site(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    opened = [open_archive(path) for path in archives.values()]
    return write_site(opened, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def home(site: Path) -> Iterator[str]:
    with file_server(site) as address:
        yield address


@pytest.mark.parametrize(("policy", "sample"), [("snake", False), ("snake-lstm", True)])
def test_64_snakes_make_the_moves_that_the_eager_policy_makes(
    chromium: Browser, home: str, policy: str, sample: bool
) -> None:
    with page_in(chromium, f"{home}#play") as page:
        set_up(page, policy=policy, snakes=64)
        if sample:
            page.get_by_label("Moves").select_option("sample")
        wait_for_steps(page, 100)
        found = pause(page)
        steps = int(found["steps"])
        assert steps >= 100
        assert int(found["longest"]) > 3  # they have grown
        expected = fingerprint(policy, snakes=64, steps=steps, seed=SEED, sample=sample)
        assert found["moves"] == expected
        command = page.locator("code", has_text="torchship play").inner_text()
        end = " --sample" if sample else ""
        assert command == f"torchship play {policy} --seed {SEED} --snakes 64{end}"


def test_a_snake_is_seen_moving(chromium: Browser, home: str) -> None:
    with page_in(chromium, f"{home}#play/snake") as page:
        wait_for_steps(page, 5)
        before = stands(page), field_of(page).screenshot()
        wait_for_steps(page, int(before[0]["steps"]) + 3)
        after = stands(page), field_of(page).screenshot()
        assert before[0]["head"] != after[0]["head"]
        assert before[1] != after[1]


@pytest.mark.parametrize("key", sorted(TURNS))
def test_a_snake_is_steered(chromium: Browser, home: str, key: str) -> None:
    with page_in(chromium, f"{home}#play/snake") as page:
        wait_for_steps(page, 1)
        pause(page)
        page.get_by_label("Steer one yourself").check()
        before = stands(page)
        field_of(page).press(key)
        page.get_by_role("button", name="One step").click()
        after = stands(page)
        wanted, heading = TURNS[key], int(before["heading"])
        assert int(after["steps"]) == int(before["steps"]) + 1
        # Nobody turns around at once: against its heading, a snake goes on.
        went = heading if wanted == heading ^ 1 else wanted
        assert int(after["heading"]) == went
        stride = round(18 * 9**0.5) + 10
        assert int(after["head"]) - int(before["head"]) == (-stride, stride, -1, 1)[went]


def test_on_a_phone_a_snake_is_steered_by_swipes_and_buttons(chromium: Browser, home: str) -> None:
    with page_in(chromium, f"{home}#play/snake", PHONE) as page:
        wait_for_steps(page, 1)
        pause(page)
        page.get_by_label("Steer one yourself").check()
        heading = int(stands(page)["heading"])
        turn = "right" if heading < 2 else "up"
        page.get_by_role("group", name="Steer").get_by_role("button", name=turn).click()
        page.get_by_role("button", name="One step").click()
        assert stands(page)["heading"] == ("3" if turn == "right" else "0")
        box = field_of(page).bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        away = (0, 60) if turn == "right" else (-60, 0)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + away[0], y + away[1], steps=4)
        page.mouse.up()
        page.get_by_role("button", name="One step").click()
        assert stands(page)["heading"] == ("1" if turn == "right" else "2")
        for tab in ("#play", "#draw", "#names"):
            page.goto(f"{home}{tab}")
            page.get_by_role("heading", level=1).wait_for()
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= PHONE["width"], tab


def test_a_steered_snake_does_not_change_what_the_model_is_asked(
    chromium: Browser, home: str
) -> None:
    """The game goes on with the visitor's moves; without a turn, the snake goes straight on."""
    with page_in(chromium, f"{home}#play/snake") as page:
        wait_for_steps(page, 1)
        pause(page)
        page.get_by_label("Steer one yourself").check()
        before = stands(page)
        for _ in range(3):
            page.get_by_role("button", name="One step").click()
        after = stands(page)
        heading = int(before["heading"])
        stride = round(18 * 9**0.5) + 10
        assert after["heading"] == before["heading"]
        step = (-stride, stride, -1, 1)[heading]
        assert int(after["head"]) - int(before["head"]) == 3 * step


def test_a_seed_that_is_no_number_is_marked(chromium: Browser, home: str) -> None:
    with page_in(chromium, f"{home}#play/snake") as page:
        seed = page.get_by_label("Seed")
        seed.fill("many")
        seed.press("Tab")
        assert seed.get_attribute("aria-invalid") == "true"
        assert "expected a whole number" in page.locator("#said").inner_text()


def test_digits_drawn_with_the_mouse_are_recognised(chromium: Browser, home: str) -> None:
    with page_in(chromium, f"{home}#draw") as page:
        for lines, digit in ((SEVEN, "7"), (FOUR, "4")):
            draw(page, lines)
            page.locator(f".seen[data-digit='{digit}']").wait_for()
            assert page.locator(".bars .value").count() == 10
            page.get_by_role("button", name="Clear").click()
            assert page.locator(".seen[data-digit]").count() == 0


def test_digits_are_recognised_without_a_pointer(chromium: Browser, home: str) -> None:
    with page_in(chromium, f"{home}#draw") as page:
        choice = page.get_by_label("Without a pointer")
        for digit in range(10):
            choice.select_option(f"draw a {digit}")
            page.locator(f".seen[data-digit='{digit}']").wait_for()


def picture(kind: str) -> bytes:
    """A dark 7 on light paper, off the middle."""
    image = Image.new("RGB", (420, 300), (222, 214, 200))
    points = [(220 + x * 1.4, 90 + y * 1.4) for x, y in SEVEN[0]]
    ImageDraw.Draw(image).line(points, fill=(40, 45, 80), width=16, joint="curve")
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


DROP = """([target, bytes, type]) => {
  const files = new DataTransfer();
  files.items.add(new File([new Uint8Array(bytes)], "seven", { type }));
  const drop = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
  document.querySelector(target).dispatchEvent(drop);
}"""


def test_pictures_are_recognised_and_others_refused(chromium: Browser, home: str) -> None:
    with page_in(chromium, f"{home}#draw") as page:
        page.locator("canvas.pad").wait_for()
        page.evaluate(DROP, ["canvas.pad", [*picture("PNG")], "image/png"])
        page.locator(".seen[data-digit='7']").wait_for()
        page.get_by_role("button", name="Clear").click()
        file = page.get_by_label("A photo or a picture")
        photo: FilePayload = {"name": "7.jpg", "mimeType": "image/jpeg", "buffer": picture("JPEG")}
        file.set_input_files(photo)
        page.locator(".seen[data-digit='7']").wait_for()
        text: FilePayload = {"name": "x.txt", "mimeType": "text/plain", "buffer": b"7"}
        file.set_input_files(text)
        said = page.get_by_role("alert")
        said.wait_for()
        assert (
            said.inner_text() == "'x.txt': expected a picture, such as PNG or JPEG, got text/plain"
        )


def names_on(page: Page, count: int) -> list[str]:
    page.locator(f".names li:nth-child({count})").wait_for()
    return [name.lower() for name in page.locator(".names li").all_inner_texts()]


def test_names_are_those_of_the_command_line(
    chromium: Browser, home: str, archives: dict[str, Path]
) -> None:
    with page_in(chromium, f"{home}#names") as page:
        assert names_on(page, 12) == names_of(archives[NAMES], 12, 1)
        page.get_by_label("How many").fill("30")
        page.get_by_label("Seed").fill("-12345678901234567")
        page.get_by_label("Seed").press("Enter")
        expected = names_of(archives[NAMES], 30, -12345678901234567)
        assert names_on(page, 30) == expected
        assert '"seed": -12345678901234567' in page.locator("pre").inner_text()
        page.get_by_label("How many").fill("20000")
        page.get_by_label("How many").press("Enter")
        said = page.get_by_role("alert")
        said.wait_for()
        assert said.inner_text() == "count: expected 1 to 10000, got 20000"  # the model's own words


CHECK = """async (name) => {
  const { BrowserEngine } = await import(new URL("ui/engine/browser.mjs", document.baseURI));
  const site = await (await fetch("site.json")).json();
  const engine = new BrowserEngine(site);
  const { text, differing } = (await engine.browserModel(name)).selftest();
  const archive = await engine.archive(name);
  const answers = [];
  for (const { method, steps } of await archive.cases()) {
    const session = await engine.session(name, method);
    for (const { inputs, outputs } of steps) {
      const found = (await session.step(inputs)).outputs;
      for (const [output, golden] of Object.entries(outputs)) {
        const { atol, rtol } = archive.methods[method].tolerances[output];
        const others = found[output].numbers();
        const near = (value, at) => Math.abs(value - others[at]) <= atol + rtol * Math.abs(value);
        answers.push(golden.kind === found[output].kind && golden.numbers().every(near));
      }
    }
  }
  return { text, differing, answers };
}"""


@pytest.mark.parametrize("name", sorted(MODELS))
def test_golden_cases_agree_in_the_browser(
    chromium: Browser, home: str, archives: dict[str, Path], name: str
) -> None:
    golden = open_archive(archives[name]).golden
    count = sum(len(step.outputs) for case in golden for step in case.steps)
    with page_in(chromium, home) as page:
        found = page.evaluate(CHECK, name)
    assert found["differing"] == 0
    assert found["text"].startswith(f"{count} outputs of {len(golden)} golden cases agree")
    assert len(found["answers"]) == count
    assert all(found["answers"])


def outputs_of(path: Path) -> tuple[int, int]:
    """Return how many outputs the golden cases of an archive have, and how many cases there are."""
    golden = open_archive(path).golden
    return sum(len(step.outputs) for case in golden for step in case.steps), len(golden)


def test_models_are_checked_when_the_visitor_asks(
    chromium: Browser, home: str, archives: dict[str, Path]
) -> None:
    with page_in(chromium, home) as page:
        button = page.get_by_role("button", name="Check it in this browser")
        button.last.wait_for()
        assert button.count() == len(MODELS)  # nobody has asked, and none is small
        page.get_by_role("button", name="Check all in this browser").click()
        for name in MODELS:
            outputs, cases = outputs_of(archives[name])
            card = page.locator(f"[data-model={name}]")
            card.get_by_text(f"✓ {outputs} outputs of {cases} golden cases agree").wait_for()
            assert "per step" in card.inner_text()


def test_a_visitor_tries_a_model_and_sees_that_it_agrees(
    chromium: Browser, home: str, archives: dict[str, Path]
) -> None:
    golden = open_archive(archives["bobnet"]).golden[0].steps[0].outputs["log_probs"]
    with page_in(chromium, f"{home}#try/bobnet") as page:
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("agree with the golden case").or_(
            page.get_by_text("agrees with the golden case")
        ).first.wait_for()
        shown = page.locator("#panel").inner_text()
        assert f"float32[{', '.join(map(str, golden.shape))}]" in shown
        assert "curl" not in shown  # there is no server
        page.goto(f"{home}#agreement/bobnet")
        page.get_by_role("button", name="Run it in this browser").click()
        page.get_by_role("rowheader", name="log_probs").wait_for()
        page.locator("#panel .badge.good").first.wait_for()
        assert page.locator("#panel .badge.bad").count() == 0
        assert findings(page) == []


REFUSED = """async ([name, method, shape]) => {
  const { BrowserEngine } = await import(new URL("ui/engine/browser.mjs", document.baseURI));
  const { Tensor } = await import(new URL("ui/engine/tensors.mjs", document.baseURI));
  const engine = new BrowserEngine(await (await fetch("site.json")).json());
  const size = shape.reduce((a, b) => a * b, 1);
  try {
    await engine.call(name, method, { x: new Tensor("uint8", shape, new Uint8Array(size)) });
  } catch (error) {
    return error.message;
  }
}"""


@pytest.mark.parametrize(
    ("name", "method", "shape", "words"),
    [
        ("bobnet", "forward", [2, 783], "input 'x': expected [batch, 784], got [2, 783]"),
        ("bobnet", "forward", [1568], "input 'x': expected [batch, 784], got [1568]"),
        ("bobnet", "guess", [1, 784], "no method 'guess': expected one of forward"),
        ("bob", "forward", [1, 784], "no model 'bob': expected one of " + ", ".join(MODELS)),
        (NAMES, "forward", [1, 8], "input 'x': expected int64, got uint8"),
    ],
)
def test_what_does_not_fit_is_refused_with_words(
    chromium: Browser, home: str, name: str, method: str, shape: list[int], words: str
) -> None:
    with page_in(chromium, home) as page:
        assert page.evaluate(REFUSED, [name, method, shape]) == words


def test_archives_are_described_as_a_server_describes_them(
    chromium: Browser, home: str, archives: dict[str, Path]
) -> None:
    archive = open_archive(archives["snake"])
    with page_in(chromium, home) as page:
        found = page.evaluate("async () => (await fetch('models/snake/archive.json')).text()")
    facts = json.loads(found)
    assert facts["manifest"] == json.loads(archive.require_manifest().to_json())
    assert (facts["sha256"], facts["bytes"]) == (archive.digest, archive.size)
    script, wasm = facts["proof"]["runtimes"]
    assert script["runtime"] == "script, on the machine that wrote this site"
    assert wasm["runtime"] == "wasm in node, on the machine that wrote this site"
    assert (script["cases"], script["outputs"]) == (wasm["cases"], wasm["outputs"]) == (12, 60)
    assert script["worst"] == 0.0 < wasm["worst"] < 1e-4


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(chromium: Browser, home: str, dark: bool) -> None:
    with page_in(chromium, f"{home}#play", dark=dark) as page:
        wait_for_steps(page, 2)
        page.get_by_label("Steer one yourself").check()
        assert findings(page) == []
        page.goto(f"{home}#draw")
        draw(page, SEVEN)
        page.locator(".seen[data-digit='7']").wait_for()
        assert findings(page) == []
        page.goto(f"{home}#names")
        names_on(page, 12)
        assert findings(page) == []


def test_the_site_works_below_a_path_with_other_models(
    chromium: Browser, site: Path, tmp_path: Path
) -> None:
    shutil.copytree(site, tmp_path / "below" / "here")
    facts = json.loads((site / "site.json").read_text())
    facts["models"] = [model for model in facts["models"] if model["name"] == "bobnet"]
    (tmp_path / "below" / "here" / "site.json").write_text(json.dumps(facts))
    with (
        file_server(tmp_path) as address,
        page_in(chromium, f"{address}below/here/#draw") as page,
    ):
        draw(page, SEVEN)
        page.locator(".seen[data-digit='7']").wait_for()
        expect(page.get_by_role("tablist")).not_to_have_attribute("aria-busy", "true")
        tabs = page.get_by_role("tab").all_inner_texts()
        assert "Play" not in tabs  # no model for them
        assert "Names" not in tabs
