import assert from 'node:assert/strict';
import { scene } from './world.mjs';

async function lose(world, advice) {
    const opened = await world.open();
    if (advice) opened.socket.emit('disconnect', { data: { reconnect: true, ...advice } });
    opened.socket.break(1012);
    await world.flush();
    assert.equal(opened.live.state, 'waiting');
    return opened;
}

scene('goes at once when there is a network again', async (world) => {
    await lose(world);
    world.happens('online');
    await world.flush();
    assert.equal(world.sockets.length, 2);
});

scene('goes at once when the tab becomes visible', async (world) => {
    await lose(world);
    world.visible = false;
    await world.flush();
    world.visible = true;
    await world.flush();
    assert.equal(world.sockets.length, 2);
    await world.pass(10_000);
    assert.equal(world.sockets.length, 2);
});

scene('not before the time that the server advised, though', async (world) => {
    await lose(world, { retry_after_ms: 9000 });
    for (const _ of [1, 2, 3]) {
        world.happens('online');
        await world.pass(2999);
    }
    assert.equal(world.sockets.length, 1);
    await world.pass(3);
    assert.equal(world.sockets.length, 2);
});

scene('a wait longer than the server advised ends then when the page wakes', async (world) => {
    const { live } = await lose(world, { retry_after_ms: 9000 });
    world.happens('online');
    await world.flush();
    assert.equal(live.status.retryAt - Date.now(), 9000);
    assert.equal(live.status.reason, 'The connection broke.');
});

scene('retry() does not wait for the time that the server advised', async (world) => {
    const { live } = await lose(world, { retry_after_ms: 9000 });
    live.retry();
    await world.flush();
    assert.equal(world.sockets.length, 2);
});

scene('waits while hidden, and has no time for it', async (world) => {
    const { socket, live } = await world.open();
    world.visible = false;
    socket.break();
    await world.flush();
    assert.equal(live.status.retryAt, null);
    await world.pass(600_000);
    assert.equal(world.sockets.length, 1);
    assert.equal(live.state, 'waiting');
    assert.equal(world.timers, 0);
    world.visible = true;
    await world.flush();
    assert.equal(world.sockets.length, 2);
});

scene('hidden when its time comes, it waits on', async (world) => {
    const { live } = await lose(world);
    world.visible = false;
    await world.pass(60_000);
    assert.equal(world.sockets.length, 1);
    assert.equal(live.status.retryAt, null);
    assert.equal(live.status.code, 1012);
});

scene('a network that comes back in a hidden tab changes nothing', async (world) => {
    await lose(world);
    world.visible = false;
    world.happens('online');
    await world.pass(60_000);
    assert.equal(world.sockets.length, 1);
});

scene('retry() connects in a hidden tab, too', async (world) => {
    const { live } = await lose(world);
    world.visible = false;
    await world.pass(60_000);
    live.retry();
    await world.flush();
    assert.equal(world.sockets.length, 2);
});

scene('a tab that is hidden from the beginning connects', { hidden: true }, async (world) => {
    await world.open();
});

scene('an open connection of a hidden tab stays', async (world) => {
    const { live, socket } = await world.open();
    world.visible = false;
    for (let n = 0; n < 20; n++) {
        await world.pass(25_000);
        socket.emit('pong', { ref: 'ping', id: 'e.0' });
        await world.flush();
    }
    assert.equal(live.state, 'open');
    assert.equal(world.sockets.length, 1);
});

scene('a tab that becomes visible pings the server', async (world) => {
    const { live, socket } = await world.open();
    await world.pass(1000);
    world.visible = true;
    await world.flush();
    assert.equal(socket.of('ping').length, 1);
    await world.pass(10_000);
    assert.equal(live.state, 'waiting');
});

for (const type of ['online', 'offline']) {
    scene(`pings the server at ${type}`, async (world) => {
        const { live, socket } = await world.open();
        await world.pass(1000);
        world.happens(type);
        await world.flush();
        assert.equal(socket.of('ping').length, 1);
        socket.emit('pong', { ref: 'ping' });
        await world.pass(12_000);
        assert.equal(live.state, 'open');
    });
}

scene('pings again although it has just been answered', async (world) => {
    const { live, socket } = await world.open();
    await world.pass(1000);
    world.happens('online');
    await world.pass(100);
    socket.emit('pong', { ref: 'ping' });
    await world.pass(2000);
    // Now the network goes: it is to be noticed within pongWait.
    world.happens('offline');
    await world.flush();
    assert.equal(socket.of('ping').length, 2, 'no ping: the last one counts as unanswered for all of pongWait');
    await world.pass(10_000);
    assert.equal(live.state, 'waiting');
});

scene('several occasions at once make one ping', async (world) => {
    const { socket } = await world.open();
    await world.pass(1000);
    world.happens('online');
    world.visible = true;
    world.happens('pageshow');
    await world.flush();
    assert.equal(socket.of('ping').length, 1);
});

scene('several occasions at once make one socket', async (world) => {
    await lose(world);
    world.happens('online');
    world.visible = true;
    world.happens('pageshow', { persisted: true });
    await world.flush();
    assert.equal(world.sockets.length, 2);
    assert.equal(world.live.length, 1);
});

scene('a page that goes into the back/forward cache holds no socket', async (world) => {
    const { live } = await world.open();
    world.happens('pagehide', { persisted: true });
    await world.flush();
    assert.equal(world.live.length, 0);
    assert.equal(live.state, 'waiting');
    assert.equal(live.status.retryAt, null);
    assert.equal(world.timers, 0);
    world.happens('pageshow', { persisted: true });
    await world.flush();
    assert.equal(world.sockets.length, 2);
    assert.equal(world.socket.params.get('since'), 'e.0');
});

scene('a page that is left for good is left alone', async (world) => {
    const { live } = await world.open();
    world.happens('pagehide', { persisted: false });
    await world.flush();
    assert.equal(live.state, 'open');
});

scene('a page that is cached while it connects comes back', async (world) => {
    const live = world.connect();
    await world.flush();
    world.happens('pagehide', { persisted: true });
    await world.flush();
    assert.equal(live.state, 'waiting');
    world.happens('pageshow', { persisted: true });
    await world.flush();
    world.socket.greet();
    await world.flush();
    assert.equal(live.state, 'open');
});

scene('a page that is cached while its token function runs makes no socket', async (world) => {
    let give;
    world.connect({ token: () => new Promise((resolve) => { give = resolve; }) });
    await world.flush();
    world.happens('pagehide', { persisted: true });
    await world.flush();
    give('t');
    await world.flush();
    assert.equal(world.sockets.length, 0);
});

scene('a page that is cached before its first try comes back', async (world) => {
    const live = world.connect();
    world.window.dispatchEvent(Object.assign(new Event('pagehide'), { persisted: true }));
    await world.flush();
    assert.equal(world.sockets.length, 0);
    assert.equal(live.state, 'waiting');
    world.happens('pageshow', { persisted: true });
    await world.flush();
    assert.equal(world.sockets.length, 1);
});

scene('a page that is cached while it loads loads on', async (world) => {
    let done;
    const loads = [];
    const { live } = await world.open({ load: (reason) => { loads.push(reason); return new Promise((resolve) => { done = resolve; }); } });
    const received = [];
    live.on('task.created', ({ id }) => received.push(id));
    world.socket.event(1);
    await world.flush();
    world.happens('pagehide', { persisted: true });
    world.happens('pageshow', { persisted: true });
    await world.flush();
    world.socket.greet(1, { recovered: true }).event(2);
    await world.flush();
    assert.deepEqual(received, []);
    done();
    await world.flush();
    assert.deepEqual(received, ['e.1', 'e.2']);
    assert.deepEqual(loads, ['first']);
});

scene('what has been closed for good is not woken', async (world) => {
    const { live, socket } = await world.open();
    socket.break(3503);
    await world.flush();
    world.happens('online');
    world.visible = true;
    world.happens('pagehide', { persisted: true });
    world.happens('pageshow', { persisted: true });
    await world.pass(60_000);
    assert.equal(world.sockets.length, 1);
    assert.equal(live.state, 'closed');
});

scene('requests of a page that was cached are sent again', async (world) => {
    const { live } = await world.open({ filters: {} });
    live.subscribe({ board_id: 'b1' });
    world.happens('pagehide', { persisted: true });
    world.happens('pageshow', { persisted: true });
    await world.flush();
    world.socket.greet(0, { recovered: true });
    await world.flush();
    assert.equal(world.socket.of('subscribe').length, 1);
});

scene('a page that comes out of the cache connects at once, whatever an earlier server advised', async (world) => {
    const { live } = await lose(world, { retry_after_ms: 60_000 });
    live.retry();
    await world.flush();
    world.socket.greet(0, { recovered: true });
    await world.flush();
    world.happens('pagehide', { persisted: true });
    world.happens('pageshow', { persisted: true });
    await world.flush();
    assert.equal(live.state, 'connecting');
});
