import assert from 'node:assert/strict';
import { scene } from './world.mjs';

// Lets a number of attempts fail, and returns the waits between them.
async function failing(world, live, tries) {
    const pauses = [];
    for (let n = 0; n < tries; n++) {
        world.socket.break(1006);
        await world.flush();
        assert.equal(live.state, 'waiting');
        const pause = live.status.retryAt - Date.now();
        pauses.push(pause);
        await world.pass(Math.ceil(pause));
    }
    return pauses;
}

scene('the longest pauses grow to 20 s', async (world) => {
    world.chance = () => 1;
    const live = world.connect();
    await world.flush();
    const pauses = await failing(world, live, 9);
    assert.equal(pauses.at(-1), 20_000);
    assert.ok(pauses.every((pause, n) => n === 0 || pause >= pauses[n - 1]));
    assert.ok(pauses[0] <= 2000);
    // After six tries, some eight seconds, a server that has come back is still found within five and a half.
    assert.ok(pauses[3] <= 5500, String(pauses));
    assert.equal(new Set(pauses.slice(0, 4)).size, 4);
});

scene('the shortest pause is 0.5 s, however many tries there were', async (world) => {
    world.chance = () => 0;
    const live = world.connect();
    await world.flush();
    assert.deepEqual(await failing(world, live, 8), Array(8).fill(500));
});

scene('all between the two is by chance', async (world) => {
    const live = world.connect();
    await world.flush();
    world.chance = () => 1;
    await failing(world, live, 8);
    for (const part of [0, 0.25, 0.5, 1]) {
        world.chance = () => part;
        assert.deepEqual(await failing(world, live, 1), [500 + part * 19_500]);
    }
});

scene('a thousand failures do not overflow', async (world) => {
    world.chance = () => 1;
    const live = world.connect({ backoff: [1, 10] });
    await world.flush();
    const pauses = await failing(world, live, 1100);
    assert.equal(pauses.at(-1), 10);
});

scene('the bounds are an option', async (world) => {
    const live = world.connect({ backoff: [10, 40] });
    await world.flush();
    world.chance = () => 1;
    const pauses = await failing(world, live, 4);
    assert.equal(pauses.at(-1), 40);
    world.chance = () => 0;
    assert.deepEqual(await failing(world, live, 1), [10]);
});

scene('a connection that has lasted makes the next pause short again', async (world) => {
    world.chance = () => 1;
    const live = world.connect();
    await world.flush();
    await failing(world, live, 7);
    world.socket.greet();
    await world.pass(5000);
    const [pause] = await failing(world, live, 1);
    assert.ok(pause <= 1000, `${pause}`);
});

scene('one that breaks at once, again and again, does not', async (world) => {
    world.chance = () => 1;
    const live = world.connect();
    await world.flush();
    let pause;
    for (let n = 0; n < 8; n++) {
        world.socket.greet(0, { recovered: true });
        await world.pass(1000);
        [pause] = await failing(world, live, 1);
    }
    assert.equal(pause, 20_000);
});

scene('retry_after_ms is waited for, no less', async (world) => {
    const { live, socket } = await world.open();
    world.chance = () => 0;
    socket.emit('disconnect', { data: { code: 1012, reason: 'restart', reconnect: true, retry_after_ms: 7000 } }).break(1012);
    await world.pass(6999);
    assert.equal(world.sockets.length, 1);
    await world.pass(1);
    assert.equal(world.sockets.length, 2);
});

scene('a retry_after_ms that is no sensible number does not stop it, nor make it spin', async (world) => {
    for (const odd of [-1, 0, null, 'soon', {}, 1e999]) {
        const { live, socket } = await world.open();
        socket.push(JSON.stringify({ type: 'disconnect', data: { reconnect: true, retry_after_ms: odd } })).break(1012);
        await world.flush();
        const before = world.sockets.length;
        await world.pass(20_000);
        assert.ok(world.sockets.length > before, `it never came back after ${odd}`);
        assert.ok(world.sockets.length < before + 5, `it spun after ${odd}`);
        live.close();
    }
});

scene('a very long retry_after_ms does not overflow a timer', async (world) => {
    const { socket } = await world.open();
    socket.emit('disconnect', { data: { code: 1012, reconnect: true, retry_after_ms: 2 ** 31 } }).break(1012);
    await world.pass(60_000);
    assert.equal(world.sockets.length, 1, 'setTimeout fires at once beyond 2**31 - 1 ms');
});

scene('advice that comes before the connection is open counts', async (world) => {
    const live = world.connect();
    await world.flush();
    world.socket.accept().emit('disconnect', { data: { reason: 'full', reconnect: true, retry_after_ms: 8000 } }).break(1012);
    await world.flush();
    assert.equal(live.status.reason, 'full');
    await world.pass(7999);
    assert.equal(world.sockets.length, 1);
    await world.pass(1);
    assert.equal(world.sockets.length, 2);
});

scene('a disconnect whose close never comes is found out by the watchdog', async (world) => {
    const { live, socket } = await world.open();
    socket.emit('disconnect', { data: { reconnect: true, retry_after_ms: 1000 } });
    await world.pass(35_000);
    assert.equal(live.state, 'waiting');
    await world.pass(1000);
    assert.equal(world.sockets.length, 2);
});
