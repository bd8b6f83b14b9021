"""The tab Try it, as a visitor uses it; what it shows is compared with the golden record."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from playwright.sync_api import Page, expect

from chromium import browser
from served import Launch, MakeArchive
from torchship.script.format.golden import Case
from torchship.script.runtime.archive import open_archive
from visits import Visitor, golden, rows_of, table

NAMES = ("every", "exact", "half", "logarithm", "memory", "nested", "tiny")
INCLUDE = Path(__file__).resolve().parents[2] / "cpp_runner" / "include"


@pytest.fixture(scope="module")
def visitor(archives: dict[str, Path], launch: Launch) -> Iterator[Visitor]:
    with browser() as started, launch(*(archives[name] for name in NAMES)) as process:
        assert process.line().startswith("ready: ")
        yield Visitor(started, process.url)


def run(page: Page, name: str = "Run") -> None:
    page.get_by_role("button", name=name, exact=True).click()


def verdict(page: Page) -> str:
    """What the page says of the answer, once it is there."""
    found = page.locator(".verdict")
    found.wait_for()
    return found.inner_text()


def test_each_golden_case_is_shown_sent_and_agrees(
    visitor: Visitor, archives: dict[str, Path]
) -> None:
    with visitor.at("#try") as page:
        for name in NAMES:
            page.get_by_label("Model", exact=True).select_option(f"{name}/1")
            expect(page).to_have_url(f"{visitor.home}/#try/{name}/1")
            cases = open_archive(archives[name]).golden
            for method in dict.fromkeys(case.method for case in cases):
                page.get_by_label("Method").select_option(method)
                own = [case for case in cases if case.method == method]
                for number, case in enumerate(own):
                    page.get_by_label("Filled with").select_option(str(number))
                    check_case(page, case)


def check_case(page: Page, case: Case) -> None:
    """Run each step of a golden case, and compare what is shown."""
    for number, step in enumerate(case.steps):
        if len(case.steps) > 1:
            page.get_by_label("Step", exact=True).select_option(str(number))
        with page.expect_response("**/infer"):
            run(page)
        many = len(step.outputs)
        agrees = "1 output agrees" if many == 1 else f"{many} outputs agree"
        expect(page.locator(".verdict")).to_contain_text(f"✓ {agrees}")
        for output, tensor in step.outputs.items():
            shown = page.locator(f'[data-output="{output}"]')
            expect(shown.locator(".badge").first).to_contain_text("✓")
            actual = torch.tensor(table(shown), dtype=torch.float64)
            expected = torch.tensor(rows_of(tensor), dtype=torch.float64)
            torch.testing.assert_close(actual, expected)


def test_values_of_ones_own_are_answered_as_python_answers_them(
    visitor: Visitor, archives: dict[str, Path]
) -> None:
    with visitor.at("#try/logarithm") as page:
        page.get_by_label("x: float32[n]").fill("1, 2.5 0.125\n4")
        expect(page.locator("form .small").first).to_have_text("float32[4]")
        run(page)
        expect(page.locator("#outputs-title + *")).to_contain_text("s")  # a time
        shown = page.locator('[data-output="output"]')
        expect(shown).to_contain_text("float32[4]")
        flat = {"x": torch.tensor([1, 2.5, 0.125, 4])}
        expected = open_archive(archives["logarithm"]).program().call("forward", flat)["output"]
        assert torch.tensor(table(shown)[0]).tolist() == pytest.approx(expected.tolist())
        expect(page.locator(".verdict")).to_have_count(0)


def test_what_a_model_or_the_page_refuses_is_said(visitor: Visitor) -> None:
    with visitor.at("#try/logarithm", refused=[400]) as page:
        area = page.get_by_label("x: float32[n]")
        area.fill("99 2")
        run(page)
        expect(page.get_by_role("alert")).to_contain_text("the sum is over 100")
        area.fill("1, two")
        expect(area).to_have_attribute("aria-invalid", "true")
        run(page)
        expect(page.get_by_role("alert")).to_have_text("input 'x': expected numbers, got 'two'")


def test_rows_can_be_repeated(visitor: Visitor, archives: dict[str, Path]) -> None:
    [step] = golden(archives["tiny"]).steps
    with visitor.at("#try/tiny") as page:
        page.get_by_label("Rows, times").fill("3")
        run(page)
        assert "✓ 1 output agrees" in verdict(page)
        shown = page.locator('[data-output="logits"]')
        expect(shown).to_contain_text("float32[6, 3]")
        best = shown.locator(".bar-row.best .label")
        expect(best).to_have_text(str(int(step.outputs["logits"][0].argmax())))
        shown.get_by_label("Row of logits").select_option("4")
        expect(best).to_have_text(str(int(step.outputs["logits"][0].argmax())))
        shown.get_by_label("Row of logits").select_option("5")
        expect(best).to_have_text(str(int(step.outputs["logits"][1].argmax())))


def test_an_answer_that_differs_is_shown_beside_the_golden_one(
    visitor: Visitor, make_in: MakeArchive, tmp_path: Path, launch: Launch
) -> None:
    made = make_in(tmp_path, "tiny")
    with visitor.at("#try/tiny") as page:
        expected = golden(made).steps[0].outputs["logits"]

        def spoil(route: object, request: object) -> None:
            response = route.fetch()  # type: ignore[attr-defined]
            body = bytearray(response.body())
            body[-4:] = torch.tensor([7.5]).numpy().tobytes()
            route.fulfill(response=response, body=bytes(body))  # type: ignore[attr-defined]

        page.route("**/infer", spoil)
        run(page)
        assert "✗ 0 of 1 output agree" in verdict(page)
        shown = page.locator('[data-output="logits"]')
        expect(shown.locator(".failure")).to_contain_text(
            "the first at flat index 5: expected " + str(float(expected[1, 2]))[:9]
        )


def test_all_kinds_of_arguments(visitor: Visitor, archives: dict[str, Path]) -> None:
    with visitor.at("#try/nested") as page:
        page.get_by_label("text: str").fill("grüße")
        page.get_by_label("Another many.*").fill("many.1")
        page.get_by_role("button", name="Add", exact=True).click()
        page.get_by_label("many.1: float32[n]").fill("1 2 3")
        page.get_by_label("give flag").check()
        page.get_by_label("flag bool").check()
        page.get_by_label("times: int").fill("-2")
        run(page)
        shown = page.locator('[data-output="total"]')
        shown.wait_for()
        flat = dict(golden(archives["nested"]).steps[0].inputs)
        flat |= {"many.1": torch.tensor([1.0, 2, 3]), "flag": torch.tensor(True)}
        flat["times"] = torch.tensor(-2)
        expected = open_archive(archives["nested"]).program().call("forward", flat)
        assert table(shown)[0] == pytest.approx(expected["total"].tolist(), rel=1e-6)
        assert table(page.locator('[data-output="greets"]')) == [[1.0]]
        page.get_by_role("button", name="Remove many.1").click()
        expect(page.get_by_label("many.1: float32[n]")).to_have_count(0)


def test_a_sequence_keeps_its_state_which_can_be_saved(
    visitor: Visitor, archives: dict[str, Path]
) -> None:
    steps = golden(archives["memory"]).steps
    with visitor.at("#try/memory") as page:
        page.get_by_label("a sequence").check()
        names = ["Start, and run step 1", "Run step 2", "Run step 3"]
        for number, name in enumerate(names):
            run(page, name)
            expect(page.get_by_role("button", name=f"Run step {number + 2}")).to_be_visible()
            assert "✓ 2 outputs agree" in verdict(page)
            shown = torch.tensor(table(page.locator('[data-output="h"]')))
            torch.testing.assert_close(shown, steps[number].outputs["h"])
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save its state").click()
        assert saved.value.suggested_filename == "memory-step-3.safetensors"
        state = safetensors.torch.load_file(saved.value.path())
        assert torch.equal(state["h"], steps[-1].outputs["h"])
        page.get_by_role("button", name="End the sequence").click()
        expect(page.get_by_role("button", name="Start, and run step 1")).to_be_visible()
        count = page.evaluate("fetch('v2/sequences').then((answer) => answer.json())")
        assert count["live"] == 0


def snippet(page: Page, language: str) -> str:
    page.get_by_label("Language").select_option(language)
    return page.get_by_label("The request as a program").inner_text()


def test_the_request_as_curl_and_python_gives_the_same(
    visitor: Visitor, archives: dict[str, Path], tmp_path: Path
) -> None:
    with visitor.at("#try/nested") as page:
        page.get_by_label("text: str").fill("it's grüße")
        curl, python, cpp, c = (
            snippet(page, language) for language in ("curl", "Python", "C++", "C")
        )
        page.goto(f"{visitor.home}/#try/tiny")
        page.get_by_label("Rows, times").fill("4")
        page.get_by_label("Method").select_option("act")
        page.get_by_label("Rows, times").fill("4")
        large, large_python = snippet(page, "curl"), snippet(page, "Python")
        with page.expect_download() as inputs:
            page.get_by_role("button", name="Save inputs.safetensors").click()
        inputs.value.save_as(tmp_path / "inputs.safetensors")
        page.get_by_label("Language").select_option("curl")
        with page.expect_download() as request:
            page.get_by_role("button", name="Save request.json").click()
        request.value.save_as(tmp_path / "request.json")
    flat = dict(golden(archives["nested"]).steps[0].inputs)
    flat["text"] = torch.tensor([*"it's grüße".encode()], dtype=torch.uint8)
    expected = open_archive(archives["nested"]).program().call("forward", flat)
    answer = json.loads(shell(curl, tmp_path))["outputs"]
    found = {output["name"]: output["data"] for output in answer}
    assert found["total"] == expected["total"].tolist()
    assert found["greets"] == [False]
    program(python, tmp_path, expected["total"])
    actions = golden(archives["tiny"], 2).steps[0].outputs["action"].repeat(4)
    [output] = json.loads(shell(large, tmp_path))["outputs"]
    assert output["data"] == actions.tolist()
    program(large_python, tmp_path, actions)
    (tmp_path / "request.c").write_text(c)
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{INCLUDE}"]
    subprocess.run([*command, "request.c"], cwd=tmp_path, check=True)
    (tmp_path / "request.cpp").write_text(cpp)
    torch_headers = Path(torch.__file__).parent / "include"
    command = ["c++", "-std=c++20", "-fsyntax-only", f"-I{INCLUDE}", f"-isystem{torch_headers}"]
    subprocess.run([*command, "request.cpp"], cwd=tmp_path, check=True)


def shell(text: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", text], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def program(text: str, folder: Path, expected: torch.Tensor) -> None:
    """Run a Python program, which has to print a tensor."""
    (folder / "request.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "request.py"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert str(expected.numpy()) in done.stdout
