import assert from 'node:assert/strict';
import { scene } from './world.mjs';

// Records the states, without those that only repeat the last.
function follow(live) {
    const states = [];
    live.onState(({ state }) => { if (states.at(-1) !== state) states.push(state); });
    return states;
}

scene('a connection is connecting, open, waiting, connecting, open, closed', async (world) => {
    const { live } = await world.open();
    const before = live.state;
    const states = follow(live);
    await world.comeBack(0);
    live.close();
    assert.equal(before, 'open');
    assert.deepEqual(states, ['open', 'waiting', 'connecting', 'open', 'closed']);
});

scene('an accepted socket is not open before the server has spoken', async (world) => {
    const live = world.connect();
    await world.flush();
    world.socket.accept();
    await world.flush();
    assert.equal(live.state, 'connecting');
});

scene('onState calls at once with the present status', async (world) => {
    const { live } = await world.open();
    const notified = [];
    live.onState((status) => notified.push(status));
    assert.deepEqual(notified, [{ state: 'open' }]);
    assert.equal(live.status.state, live.state);
});

scene('options.onState is notified from the beginning, before those that are added', async (world) => {
    const notified = [];
    const live = world.connect({ onState: ({ state }) => notified.push(`option ${state}`) });
    await world.flush();
    live.onState(({ state }) => notified.push(state));
    notified.length = 0;
    world.socket.greet();
    await world.flush();
    assert.deepEqual(notified, ['option open', 'open']);
});

scene('options.onState gets connecting first', async (world) => {
    const notified = [];
    world.connect({ onState: ({ state }) => notified.push(state) });
    await world.flush();
    assert.deepEqual([...new Set(notified)], ['connecting']);
});

scene('each change is notified once', async (world) => {
    const notified = [];
    const live = world.connect();
    live.onState((status) => notified.push(status.state));
    await world.flush();
    assert.deepEqual(notified, ['connecting'], 'the first state is notified twice');
});

scene('a waiting status has the reason, and the time of the next attempt', async (world) => {
    const { live, socket } = await world.open();
    socket.break(3008, 'slow consumer');
    await world.flush();
    const { state, code, reason, retryAt } = live.status;
    assert.deepEqual([state, code, reason], ['waiting', 3008, 'slow consumer']);
    const wait = retryAt - Date.now();
    assert.ok(wait >= 500 && wait <= 20_000);
    await world.pass(wait - 1);
    assert.equal(world.sockets.length, 1);
    await world.pass(1);
    assert.equal(world.sockets.length, 2);
});

scene('while connecting again the last reason stands, without a time', async (world) => {
    const { live, socket } = await world.open();
    socket.break(3008, 'slow consumer');
    await world.pass(1250);
    assert.equal(live.state, 'connecting');
    assert.deepEqual(live.status, { state: 'connecting', code: 3008, reason: 'slow consumer' });
});

scene('an open status has no earlier reason', async (world) => {
    const { live } = await world.open();
    await world.comeBack(0);
    assert.deepEqual(live.status, { state: 'open' });
});

scene('a reason is always given', async (world) => {
    const { live, socket } = await world.open();
    socket.break(1006);
    await world.flush();
    assert.match(live.status.reason, /broke/);
    await world.pass(2000);
    world.socket.break(1006);
    await world.flush();
    assert.match(live.status.reason, /cannot be reached/);
});

scene('a final close code closes, with the reason', async (world) => {
    for (const code of [1000, 1002, 1007, 1008, 1009, 3500, 3503, 3504, 3507, 3999, 4500, 4999]) {
        const { live, socket } = await world.open();
        socket.break(code, 'because');
        await world.flush();
        assert.deepEqual(live.status, { state: 'closed', code, reason: 'because' });
        live.close();
    }
    await world.pass(60_000);
    assert.equal(world.sockets.length, 12);
});

scene('another close code waits', async (world) => {
    for (const code of [1001, 1005, 1006, 1011, 1012, 1013, 3000, 3005, 3008, 3012, 3013, 3499, 4000, 4499]) {
        const { live, socket } = await world.open();
        socket.break(code, 'because');
        await world.flush();
        assert.equal(live.state, 'waiting', `${code}`);
        live.close();
    }
});

scene('retry() after the server has closed for good connects', async (world) => {
    const { live, socket } = await world.open();
    socket.break(3503);
    await world.flush();
    live.retry();
    assert.equal(live.state, 'connecting');
    world.socket.greet(0, { recovered: true });
    await world.flush();
    assert.equal(live.state, 'open');
});

scene('retry() does nothing while connecting or open', async (world) => {
    const live = world.connect();
    live.retry();
    await world.flush();
    live.retry();
    await world.flush();
    assert.equal(world.sockets.length, 1);
    world.socket.greet();
    await world.flush();
    live.retry();
    await world.flush();
    assert.equal(world.sockets.length, 1);
    assert.equal(live.state, 'open');
});

scene('retry() while waiting connects at once, and only once', async (world) => {
    const { live, socket } = await world.open();
    socket.break();
    await world.flush();
    live.retry();
    live.retry();
    await world.flush();
    assert.equal(world.sockets.length, 2);
    await world.pass(10_000);
    assert.equal(world.sockets.length, 2);
});

scene('retry() in a listener of each state does no harm', async (world) => {
    for (const at of ['connecting', 'open', 'waiting', 'closed']) {
        const live = world.connect();
        let once = true;
        live.onState(({ state }) => {
            if (state === at && once) {
                once = false;
                live.retry();
            }
        });
        await world.flush();
        world.socket.greet();
        await world.flush();
        world.socket.break(at === 'closed' ? 3503 : 1006);
        await world.flush();
        live.close();
        await world.flush();
        assert.equal(world.live.length, 0, `a socket after retry() at ${at}`);
    }
    // Listeners were notified in another order than it happened: see listeners.test.mjs.
    world.illegal.length = 0;
});

scene('a close code of advice that has reconnect: false is final', async (world) => {
    const { live, socket } = await world.open();
    socket.emit('disconnect', { data: { code: 4001, reason: 'banned', reconnect: false } }).break(4001);
    await world.flush();
    assert.deepEqual(live.status, { state: 'closed', code: 4001, reason: 'banned' });
});

scene('advice counts for its own connection only', async (world) => {
    const { live, socket } = await world.open();
    socket.emit('disconnect', { data: { code: 1012, reason: 'restart', reconnect: true, retry_after_ms: 9000 } }).break(1012);
    await world.flush();
    assert.equal(live.status.retryAt - Date.now(), 9000);
    await world.pass(9000);
    world.socket.greet(0, { recovered: true }).break(1006);
    await world.flush();
    assert.ok(live.status.retryAt - Date.now() < 4000);
    assert.doesNotMatch(live.status.reason, /restart/);
});
