"""The console in a browser: what a person who runs campaigns does with it."""

from __future__ import annotations

import re
import uuid

import httpx
import pytest
from playwright.async_api import Locator, Page, expect
from runengine_client import RunEngineClient
from runengine_server.auth import development

from tests.e2e.console.browser import Console, faults_of
from tests.support.gates import Gates
from tests.support.patience import SECONDS
from tests.support.stack import Stack, free_address

expect.set_options(timeout=SECONDS * 1000)


def badge(page: Page, status: str) -> Locator:
    return page.locator(".heading .badge", has_text=status)


def node(page: Page, name: str) -> Locator:
    return page.locator(f'[data-node="{name}"]')


def tab(page: Page, name: str) -> Locator:
    return page.get_by_role("navigation", name="About the run").get_by_role("link", name=name)


async def test_a_run_that_is_triggered_goes_on_before_ones_eyes(
    console: Console, token: str, gates: Gates
) -> None:
    page = await console.open(token, "/trigger?workflow=gated")
    await page.evaluate("window.isTheSamePage = true")
    await page.get_by_label("gates").fill(gates.path)
    await page.get_by_role("button", name="Trigger", exact=True).click()
    await expect(page.get_by_role("heading", name="gated")).to_be_visible()
    gate = await gates.next()
    await expect(node(page, "first")).to_have_class(re.compile("is-completed"))
    await expect(node(page, "held")).to_have_class(re.compile("is-running"))
    await expect(page.locator(".bar.is-running")).to_have_count(1)
    gate.open()
    await expect(badge(page, "completed")).to_be_visible()
    await expect(node(page, "last")).to_have_class(re.compile("is-completed"))
    await tab(page, "Output").click()
    await expect(page.get_by_role("region", name="Output")).to_contain_text('"held"')
    assert await page.evaluate("window.isTheSamePage")


async def test_the_list_of_runs_is_live_and_its_filters_are_exact(
    console: Console, token: str, client: RunEngineClient
) -> None:
    page = await console.open(token)
    await expect(page.get_by_text("No runs yet")).to_be_visible()
    failed = await client.trigger_run("rejecting")
    queued = await client.trigger_run("unserved")
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(2)
    await expect(rows.nth(1)).to_contain_text("failed")
    await expect(rows.nth(1)).to_contain_text("The brief is empty.")
    await page.get_by_role("button", name="failed", exact=True).click()
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text(failed.id[-8:])
    assert page.url.endswith("#/runs?status=failed")
    await page.get_by_role("button", name="queued", exact=True).click()
    await expect(rows).to_have_count(2)
    await page.get_by_label("Error").select_option("WORKER_LOST")
    await expect(page.get_by_text("No run matches")).to_be_visible()
    await page.go_back()
    await page.get_by_label("Workflow").select_option("unserved")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text(queued.id[-8:])


async def test_pages_show_each_run_once(console: Console, token: str, client: RunEngineClient) -> None:
    expected = [(await client.trigger_run("unserved")).id[-8:] for _ in range(120)]
    page = await console.open(token)
    seen: list[str] = []
    for number in (1, 2, 3):
        await expect(page.get_by_text(f"Page {number}", exact=True)).to_be_visible()
        await expect(page.locator("tbody tr")).to_have_count(20 if number == 3 else 50)
        seen += await page.locator("td.id").all_inner_texts()
        if number < 3:
            await page.get_by_role("button", name="Older").click()
    assert seen == expected[::-1]
    await expect(page.get_by_role("button", name="Older")).to_be_disabled()
    await page.get_by_role("button", name="Newer").click()
    await expect(page.get_by_text("Page 2")).to_be_visible()
    await page.get_by_role("button", name="Newest").click()
    await expect(page.locator("td.id").first).to_have_text(expected[-1])


async def test_many_runs_are_acted_on_by_one_operation(
    console: Console, token: str, client: RunEngineClient
) -> None:
    for _ in range(60):
        await client.trigger_run("unserved")
    done = await client.trigger_run("two-artifacts")
    await client.wait(done.id, timeout_seconds=SECONDS)
    page = await console.open(token)
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(50)
    # A range, by Shift; the first is the completed one.
    await rows.nth(0).get_by_role("checkbox").check()
    await rows.nth(3).get_by_role("checkbox").click(modifiers=["Shift"])
    await expect(page.get_by_text("4 selected")).to_be_visible()
    await page.get_by_role("region", name="Selected runs").get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("3 runs can be cancelled; refused will be: 1 RUN_TERMINAL")
    assert await faults_of(page) == []
    await dialog.get_by_label("Reason").fill("not wanted any more")
    await dialog.get_by_role("button", name="Cancel 3 runs").click()
    await expect(dialog).to_contain_text("3 cancelled; refused: 1 RUN_TERMINAL")
    await expect(dialog.get_by_role("link")).to_have_text(done.id[-8:])
    await dialog.get_by_role("button", name="Close").click()
    await expect(page.locator("tbody .is-cancelled")).to_have_count(3)
    await page.locator("tbody .is-cancelled").first.click()
    await expect(page.get_by_role("region", name="History")).to_contain_text("CANCELLED with others")
    await page.go_back()

    await page.get_by_role("button", name="queued", exact=True).click()
    await expect(page.locator("tbody .is-queued")).to_have_count(50)
    await page.get_by_label("Select all of this page").check()
    await page.get_by_role("button", name="Select all that match").click()
    await page.get_by_role("region", name="Selected runs").get_by_role("button", name="Cancel").click()
    await dialog.get_by_role("button", name="Cancel 57 runs").click()
    await expect(dialog).to_contain_text("57 cancelled")
    await dialog.get_by_role("button", name="Close").click()
    await expect(page.get_by_text("No run matches")).to_be_visible()


async def test_a_run_that_waits_is_approved(console: Console, token: str, client: RunEngineClient) -> None:
    run = await client.trigger_run("asking")
    page = await console.open(token, f"/runs/{run.id}")
    await expect(page.get_by_role("region", name="Waits at ask")).to_contain_text("Which colour?")
    await page.get_by_label("Another answer").fill('{"colour": "blue"}')
    await page.get_by_label("Kind of answer").select_option("as JSON")
    await page.get_by_role("button", name="Send").click()
    await expect(badge(page, "completed")).to_be_visible()
    output = await client.get_run_output(run.id)
    assert output.value["seen"] == [{"colour": "blue"}]
    await expect(page.get_by_role("region", name="History")).to_contain_text("RESUMED")


async def test_a_run_is_cancelled_and_retried_and_a_refusal_explains_itself(
    console: Console, token: str, client: RunEngineClient, gates: Gates
) -> None:
    run = await client.trigger_run("gated", trigger_payload={"gates": gates.path})
    page = await console.open(token, f"/runs/{run.id}")
    await gates.next()
    await expect(node(page, "held")).to_have_class(re.compile("is-running"))
    await page.get_by_role("button", name="Cancel").click()
    await expect(badge(page, "cancelled")).to_be_visible()
    await page.get_by_role("button", name="Retry").click()
    (await gates.next()).open("fail")
    await expect(badge(page, "failed")).to_be_visible()
    await expect(page.get_by_role("region", name="Error")).to_contain_text("The gate said so.")
    await expect(page.locator(".bar")).to_have_count(3)  # first, and two attempts of held

    # Somebody else retries it, and this page does not hear of it.
    await page.context.route(
        "**/runs/*", lambda route: route.abort() if route.request.method == "GET" else route.continue_()
    )
    await client.retry_run(run.id)
    await page.get_by_role("button", name="Retry").click()
    await expect(page.locator(".notice.is-bad")).to_contain_text(re.compile("Possible now: cancel"))
    await page.context.unroute("**/runs/*")
    (await gates.next()).open()
    await expect(badge(page, "completed")).to_be_visible()
    await node(page, "held").click()
    panel = page.get_by_role("complementary", name="Step")
    await expect(panel.get_by_role("button", name="Attempt 1")).to_be_visible()
    await panel.get_by_role("button", name="Attempt 2").click()
    await expect(panel).to_contain_text("The gate said so.")


async def test_a_run_is_triggered_again_with_another_payload(
    console: Console, token: str, client: RunEngineClient, rest: httpx.AsyncClient
) -> None:
    campaign = await client.create_campaign()
    run = await client.trigger_run(
        "cached", trigger_payload={"count": 1, "extra": [1]}, context={"campaignId": campaign.id}, priority=7
    )
    page = await console.open(token, f"/runs/{run.id}")
    await page.get_by_role("link", name="Trigger again").click()
    await page.get_by_label("count").fill("x")
    await page.get_by_role("button", name="Trigger", exact=True).click()
    await expect(page.get_by_role("alert").filter(has_text="count is not JSON.")).to_be_visible()
    await page.get_by_label("count").fill("41")
    await page.get_by_role("button", name="Trigger", exact=True).click()
    await expect(page).to_have_url(re.compile("#/runs/"))
    await expect(page.get_by_role("heading", name="cached")).to_be_visible()
    again = (await rest.get(f"/runs/{page.url.rpartition('/')[2]}")).json()
    assert again["id"] != run.id
    assert again["triggerPayload"] == {"count": 41, "extra": [1]}
    assert (again["context"], again["priority"]) == ({"campaignId": campaign.id}, 7)


async def test_a_campaign_has_exact_counts_and_shows_its_bundle(
    console: Console, token: str, client: RunEngineClient
) -> None:
    campaign = await client.create_campaign()
    context = {"campaignId": campaign.id}
    for workflow in ("unserved", "unserved", "rejecting", "bundling"):
        run = await client.trigger_run(workflow, context=context)
    await client.wait(run.id, timeout_seconds=SECONDS)
    page = await console.open(token, f"/campaigns/{campaign.id}")
    await expect(badge(page, "live")).to_be_visible()
    await expect(page.get_by_role("region", name="Bundle")).to_contain_text("bundle.txt")
    for name, count in (("All", 4), ("queued", 2), ("failed", 1), ("completed", 1), ("cancelled", 0)):
        await expect(page.get_by_role("button", name=re.compile(rf"{name}\s*{count}$"))).to_be_visible()
    await page.get_by_role("button", name=re.compile(r"failed\s*1$")).click()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await client.trigger_run("rejecting", context=context)
    await expect(page.get_by_role("button", name=re.compile(r"failed\s*2$"))).to_be_visible()
    await expect(page.locator("tbody tr")).to_have_count(2)
    await expect(badge(page, "failed")).to_be_visible()


async def test_a_link_leads_to_its_view_and_the_token_stays_out_of_the_address(
    console: Console, token: str, client: RunEngineClient
) -> None:
    run = await client.trigger_run("two-artifacts")
    await client.wait(run.id, timeout_seconds=SECONDS)
    page = await console.open(token, f"/runs/{run.id}?step=save_two&tab=Payload")
    await expect(page.get_by_role("complementary", name="Step")).to_contain_text("save_two")
    await expect(tab(page, "Payload")).to_have_attribute("aria-current", "page")
    assert token not in page.url
    assert token not in str(
        await page.evaluate("[localStorage, sessionStorage, document.cookie, history.state]")
    )
    # Loaded again it has no token, and asks for one.
    await page.reload()
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="Continue").click()
    await expect(page.get_by_role("complementary", name="Step")).to_contain_text("save_two")


async def test_a_second_page_of_the_browser_needs_no_token_of_its_own(
    console: Console, token: str, client: RunEngineClient
) -> None:
    run = await client.trigger_run("unserved")
    page = await console.open(token)
    second = await page.context.new_page()
    await second.goto(f"{console.url}#/runs/{run.id}")
    await expect(second.get_by_role("heading", name="unserved")).to_be_visible()


async def test_a_lost_server_is_said_and_found_again(
    console: Console, stack: Stack, token: str, client: RunEngineClient
) -> None:
    address = free_address()
    (gateway,) = await stack.start("gateway", REST_ADDRESS=address)
    console.url = f"http://{address}/console"
    run = await client.trigger_run("unserved")
    page = await console.open(token, f"/runs/{run.id}")
    await expect(badge(page, "queued")).to_be_visible()
    await gateway.stop()
    await expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    await expect(badge(page, "queued")).to_be_visible()
    await client.cancel_run(run.id)
    (gateway,) = await stack.start("gateway", REST_ADDRESS=address)
    await expect(badge(page, "cancelled")).to_be_visible()
    await expect(page.get_by_text("cannot be reached")).not_to_be_visible()
    await gateway.stop()


async def test_a_token_that_is_not_good_any_more_is_asked_for_again(
    console: Console, stack: Stack, organisation: str, token: str, client: RunEngineClient
) -> None:
    run = await client.trigger_run("unserved")
    expired = development.sign(stack.state_dir, organisation, "user_test", ttl_seconds=-3600)
    page = await console.open(expired, f"/runs/{run.id}")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("The token has expired")
    assert await faults_of(page) == []
    await page.keyboard.press("Escape")
    await dialog.get_by_label("Token").fill("no token")
    await dialog.get_by_role("button", name="Continue").click()
    await expect(dialog).to_be_visible()
    await dialog.get_by_label("Token").fill(token)
    await dialog.get_by_role("button", name="Continue").click()
    await expect(badge(page, "queued")).to_be_visible()
    await expect(dialog).not_to_be_visible()


async def test_another_tenant_sees_nothing_of_a_run(
    console: Console, stack: Stack, token: str, client: RunEngineClient
) -> None:
    campaign = await client.create_campaign()
    run = await client.trigger_run("unserved", context={"campaignId": campaign.id})
    other = stack.token(f"org_{uuid.uuid4().hex}")
    page = await console.open(other, f"/runs/{run.id}")
    await expect(page.get_by_role("heading", name="There is no such run")).to_be_visible()
    await page.evaluate("location.hash = '/runs'")
    await expect(page.get_by_text("No runs yet")).to_be_visible()
    await page.evaluate(f"location.hash = '/campaigns/{campaign.id}'")
    await expect(page.get_by_text("No campaign has this id")).to_be_visible()
    # With the token of the run's tenant in the same page, nothing of the other is left.
    await page.evaluate(f"location.hash = 'token={token}&to=/runs'")
    await expect(page.locator("tbody tr")).to_have_count(1)


async def test_everything_is_reached_by_the_keyboard(
    console: Console, token: str, client: RunEngineClient
) -> None:
    runs = [await client.trigger_run("two-artifacts") for _ in range(3)]
    await client.trigger_run("fork")
    page = await console.open(token)
    await expect(page.locator("tbody tr")).to_have_count(4)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await page.get_by_label("Select all of this page").focus()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("x")
    await expect(page.get_by_text("2 selected")).to_be_visible()
    await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile(runs[1].id))
    await expect(page.locator("main")).to_be_focused()
    await page.evaluate("location.hash = '/runs?workflow=fork'")
    await page.get_by_role("link", name="fork").click()
    nodes = page.locator(".node")
    await expect(nodes).to_have_count(3)
    await nodes.first.focus()
    for number in (1, 2):
        await page.keyboard.press("Tab")
        await expect(nodes.nth(number)).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(nodes.nth(2)).to_have_attribute("aria-pressed", "true")
    await expect(page.get_by_role("complementary", name="Step")).to_be_visible()
    await tab(page, "History").focus()
    await page.keyboard.press("Tab")
    await expect(tab(page, "Output")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(tab(page, "Output")).to_have_attribute("aria-current", "page")


@pytest.fixture
async def hostile(stack: Stack, client: RunEngineClient) -> str:
    await stack.start("worker", WORKFLOWS="tests.e2e.console.graphs:WORKFLOWS")
    run = await client.trigger_run("hostile-artifacts")
    await client.wait(run.id, timeout_seconds=SECONDS)
    return run.id


async def test_a_graph_within_a_node_is_unfolded_there(
    console: Console, stack: Stack, token: str, client: RunEngineClient, gates: Gates
) -> None:
    await stack.start("worker", WORKFLOWS="tests.e2e.console.graphs:WORKFLOWS")
    run = await client.trigger_run("graphs-within", trigger_payload={"gates": gates.path})
    page = await console.open(token, f"/runs/{run.id}")
    drawing = page.get_by_role("group", name="Graph of graphs-within")
    gate = await gates.next()
    fold = drawing.get_by_role("button", name="1 of 3 steps")
    await node(page, "described").focus()
    await page.keyboard.press("Tab")
    await expect(fold).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(fold).to_have_attribute("aria-expanded", "true")
    await expect(node(page, "described:first")).to_have_class(re.compile("is-completed"))
    await expect(node(page, "described:held")).to_have_class(re.compile("is-running"))
    await expect(node(page, "described:last")).to_have_class(re.compile("is-idle"))
    assert await faults_of(page) == []
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("complementary", name="Step")).to_contain_text("described:first")
    gate.open()
    # What a node calls is in no description: it is known once it runs.
    await expect(drawing.get_by_role("button", name="3 of 3 steps")).to_be_visible()
    gate = await gates.next()
    await drawing.get_by_role("button", name="1 of 2 steps").click()
    await expect(node(page, "calling:held")).to_have_class(re.compile("is-running"))
    gate.open()
    await expect(node(page, "calling:last")).to_have_class(re.compile("is-completed"))


async def test_an_artifact_runs_nothing_and_reaches_nothing(
    console: Console, token: str, hostile: str
) -> None:
    page = await console.open(token, f"/runs/{hostile}?tab=Artifacts")
    loaded: list[str] = []
    page.on("response", lambda response: loaded.append(response.url))
    await page.get_by_text("page.html").click()
    frame = page.frame_locator("iframe")
    await expect(frame.get_by_role("heading")).to_have_text("Harmless words")
    assert await frame.locator("h1").evaluate("each => getComputedStyle(each).color") == "rgb(1, 2, 3)"
    assert await frame.locator("h1").evaluate("() => origin") == "null"
    await page.get_by_text("picture.svg").click()
    await expect(page.get_by_role("img", name="picture.svg")).to_be_visible()
    await expect(frame.get_by_text("a script has run")).to_have_count(0)
    assert "taken over" not in await page.title()
    assert not [url for url in loaded if "evil" in url or url.endswith("main.js")]
    # What the policy has stopped is said to whoever looks at the browser's log.
    assert console.faults
    console.faults.clear()
