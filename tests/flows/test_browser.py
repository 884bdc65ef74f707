"""What a person does in the browser: fill in Prefect's form, start a run, look at its page and at MLflow's.

With MILL_SCREENSHOTS=docs/images the pages are kept as pictures there.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.chromium import needs_chromium, open_browser
from tests.flows.test_deployments import ended
from tests.flows.tiny import Stack, Tiny

SLOW = 60_000.0  # milliseconds; two cores run the servers and the browser at the same time

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page(stack: Stack) -> Iterator[Page]:
    with open_browser() as browser:
        user, password = stack.login
        login: Any = {"username": user, "password": password, "origin": stack.parts["mlflow"]}
        opened = browser.new_page(viewport={"width": 1280, "height": 860}, http_credentials=login)
        opened.set_default_timeout(SLOW)
        expect.set_options(timeout=SLOW)
        yield opened


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny recipe under a name that looks well on a picture."""
    folder = tmp_path_factory.mktemp("pages") / "notes"
    folder.mkdir()
    made = Tiny(folder)
    made.write_recipe()
    made.write_pages()
    return made


def picture(page: Page, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("MILL_SCREENSHOTS", tmp_path))
    page.screenshot(path=folder / f"{name}.png")
    assert (folder / f"{name}.png").stat().st_size > 10_000


def deployment(api: httpx.Client, name: str) -> str:
    return api.get(f"/deployments/name/{name}").raise_for_status().json()["id"]


@pytest.fixture(scope="module")
def logged_in(page: Page, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prefect's page asks for the login that `mill up` prints, and keeps it."""
    page.goto(stack.parts["prefect"])
    page.get_by_role("textbox").fill(stack.parts["login"])
    picture(page, "prefect-login", tmp_path_factory.mktemp("pictures"))
    page.get_by_role("button", name="Login").click()
    expect(page.get_by_role("button", name="Deployments")).to_be_visible()


@pytest.fixture(scope="module")
def finished(
    page: Page, logged_in: None, stack: Stack, recipe: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """A run that was started by filling in the form of the line's deployment."""
    with stack.client() as api:
        page.goto(f"{stack.parts['prefect']}/deployments/deployment/{deployment(api, 'line/line')}/run")
        page.get_by_role("button", name="The path of a recipe file").click()
        boxes = page.get_by_role("textbox")
        name = boxes.nth(0).input_value()
        boxes.nth(1).fill(str(recipe.recipe))
        picture(page, "prefect-form", tmp_path_factory.mktemp("pictures"))
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_text(f"{name} scheduled to start now").first).to_be_visible()
        (run,) = api.post("/flow_runs/filter", json={"flow_runs": {"name": {"any_": [name]}}}).json()
        yield ended(api, run["id"])


def test_the_form_starts_a_run(finished: dict[str, Any], recipe: Tiny) -> None:
    assert finished["state_type"] == "COMPLETED", finished["state"]["message"]
    assert finished["parameters"]["request"]["recipe"] == str(recipe.recipe)


def test_the_page_of_the_run_shows_stages_and_summaries(
    page: Page, stack: Stack, finished: dict[str, Any], tmp_path: Path
) -> None:
    page.goto(f"{stack.parts['prefect']}/runs/flow-run/{finished['id']}")
    page.get_by_text("Artifacts", exact=True).click()
    expect(page.get_by_text("line-summary")).to_be_visible()
    page.wait_for_timeout(2000)  # the graph draws itself on a canvas
    picture(page, "prefect-run", tmp_path)
    page.get_by_text("Subflow Runs", exact=True).click()
    for stage in ("ingest", "clean"):
        expect(page.get_by_role("link", name=stage, exact=True).first).to_be_visible()


def test_the_page_of_a_stage_has_its_own_form_with_help(
    page: Page, logged_in: None, stack: Stack, tmp_path: Path
) -> None:
    with stack.client() as api:
        page.goto(f"{stack.parts['prefect']}/deployments/deployment/{deployment(api, 'dedup/dedup')}/run")
    expect(page.get_by_text("Settings that differ from the recipe; leave the rest empty.")).to_be_visible()
    expect(page.get_by_text("Keep the newest page of each address. Default: yes.")).to_be_visible()
    page.get_by_text("Settings that differ from the recipe; leave the rest empty.").scroll_into_view_if_needed()
    picture(page, "prefect-stage-form", tmp_path)
    with page.expect_request(lambda request: request.url.endswith("/create_flow_run")) as sent:
        page.route("**/create_flow_run", lambda route: route.abort())
        page.get_by_role("button", name="Submit").click()
    # What nobody filled in is the recipe's.
    posted: Any = sent.value.post_data_json
    assert posted["parameters"]["request"].get("settings", {}) == {}
    page.unroute_all()


def test_mlflow_shows_the_line_and_its_stages(
    page: Page, stack: Stack, finished: dict[str, Any], tmp_path: Path
) -> None:
    with stack.mlflow() as mlflow:
        found = mlflow.get("/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": "notes"}).json()
        experiment = found["experiment"]["experiment_id"]
        runs = mlflow.post("/api/2.0/mlflow/runs/search", json={"experiment_ids": [experiment]}).json()["runs"]
    clean = next(run["info"]["run_id"] for run in runs if run["info"]["run_name"] == "clean")
    page.goto(f"{stack.parts['mlflow']}/#/experiments/{experiment}/runs/{clean}")
    expect(page.get_by_text("modelmill.digest").first).to_be_visible()
    page.get_by_role("button", name="Close", exact=True).click()  # its assistant
    page.wait_for_timeout(1000)
    picture(page, "mlflow-run", tmp_path)
    page.get_by_role("tab", name="Model metrics").click()
    expect(page.get_by_role("heading", name="out", exact=True)).to_be_visible()  # under "rows"
