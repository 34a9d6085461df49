"""Many events in a short time: the page stays responsive."""

from __future__ import annotations

from tests.browser.conftest import OpenModel
from tests.browser.sync import await_synced
from tests.support.harness import Server

RATE = 200
SECONDS = 5

# How long a page may show nothing new and answer no click, in milliseconds. Chromium, the server and everything else share
# two cores here.
MAX_FREEZE = 1000

# Records the maximum time between two frames, and that of each task over 50 ms.
WATCH = """() => {
    window.frames_seen = 0;
    window.maxGap = 0;
    window.tasks_long = [];
    let before = performance.now();
    const frame = (now) => {
        frames_seen += 1;
        maxGap = Math.max(maxGap, now - before);
        before = now;
        requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    new PerformanceObserver((list) => tasks_long.push(...list.getEntries().map(({duration}) => duration)))
        .observe({type: 'longtask'});
}"""

# A page that renders what it receives: a list of 500 lines, in which each event changes one.
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
    frames, max_gap, tasks = page.evaluate("[frames_seen, maxGap, tasks_long]")
    assert max_gap < MAX_FREEZE
    assert max(tasks, default=0) < MAX_FREEZE
    # at least ten frames in each of these seconds
    assert frames > 10 * SECONDS
    await_synced(page, server, board)


def test_a_replay_of_the_whole_history_does_not_freeze_a_page(server: Server, board: str, open_model: OpenModel) -> None:
    page = open_model(server.port)
    since = page.evaluate("model.connection.position")
    page.evaluate("models.forEach(({connection}) => connection.close())")
    assert server.post(f"/change/{board}?count=1000&size=500", None).status == 200
    page.evaluate(WATCH)
    page.evaluate("(since) => { models = [window.model = new model.constructor({since})]; }", since)
    page.evaluate(SHOW)
    page.await_true("model.ids.length === 1000")
    max_gap, tasks = page.evaluate("[maxGap, tasks_long]")
    assert max_gap < MAX_FREEZE
    assert max(tasks, default=0) < MAX_FREEZE
    await_synced(page, server, board)
