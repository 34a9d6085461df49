"""Many events in a short time: a page stays alive to its user meanwhile."""

from __future__ import annotations

from tests.browser.conftest import OpenModel
from tests.browser.steps import await_step
from tests.support.harness import Server

RATE = 200
SECONDS = 5

# The longest that a page may show nothing new and answer no click, in milliseconds. Two cores are shared by Chromium, the
# server and whatever else runs here.
FROZEN = 1000

# Notes the longest time between two frames, and that of each task over 50 ms.
WATCH = """() => {
    window.frames_seen = 0;
    window.longest = 0;
    window.tasks_long = [];
    let before = performance.now();
    const frame = (now) => {
        frames_seen += 1;
        longest = Math.max(longest, now - before);
        before = now;
        requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    new PerformanceObserver((list) => tasks_long.push(...list.getEntries().map(({duration}) => duration)))
        .observe({type: 'longtask'});
}"""

# A page that does something with what it hears: a list of 500 lines, in which each event changes one.
SHOW = """() => {
    const list = document.body.appendChild(document.createElement('ol'));
    for (let n = 0; n < 500; n++) list.append(document.createElement('li'));
    model.connection.on('*', ({id, timestamp}) => {
        if (id) list.children[Number(id.split('.').at(-1)) % 500].textContent = `${id} ${timestamp}`;
    });
}"""


def test_two_hundred_events_a_second_do_not_freeze_a_page(server: Server, board: str, open_model: OpenModel) -> None:
    page = open_model(server.port)
    page.evaluate(SHOW)
    page.evaluate(WATCH)
    count = RATE * SECONDS
    assert server.post(f"/change/{board}?count={count}&rate={RATE}&size=500", None).status == 200
    page.await_true("(count) => model.ids.length === count", count)
    frames, longest, tasks = page.evaluate("[frames_seen, longest, tasks_long]")
    assert longest < FROZEN
    assert max(tasks, default=0) < FROZEN
    # the frames were those of these seconds, ten each of them at the least
    assert frames > 10 * SECONDS
    await_step(page, server, board)


def test_a_replay_of_all_that_the_history_keeps_does_not_freeze_a_page(
    server: Server, board: str, open_model: OpenModel
) -> None:
    page = open_model(server.port)
    since = page.evaluate("model.connection.position")
    page.evaluate("models.forEach(({connection}) => connection.close())")
    assert server.post(f"/change/{board}?count=1000&size=500", None).status == 200
    page.evaluate(WATCH)
    page.evaluate("(since) => { models = [window.model = new model.constructor({since})]; }", since)
    page.evaluate(SHOW)
    page.await_true("model.ids.length === 1000")
    longest, tasks = page.evaluate("[longest, tasks_long]")
    assert longest < FROZEN
    assert max(tasks, default=0) < FROZEN
    await_step(page, server, board)
