import assert from 'node:assert/strict';
import { deferred, ids, outcome, recorder, scene } from './world.mjs';

// A `load` whose calls stand in a list, each to be ended by the test.
function loader() {
    const calls = [];
    const load = (reason) => {
        const call = { reason, ...deferred() };
        calls.push(call);
        return call.promise;
    };
    return { calls, load, reasons: () => calls.map(({ reason }) => reason) };
}

function record(live, type = 'task.created') {
    const [received, add] = recorder(ids);
    live.on(type, add);
    return received;
}

scene('load is called once connected', async (world) => {
    const page = loader();
    world.connect({ load: page.load });
    await world.flush();
    assert.deepEqual(page.reasons(), []);
    world.socket.greet();
    await world.flush();
    assert.deepEqual(page.reasons(), ['first']);
});

scene('load is not called where the page has a position', async (world) => {
    const page = loader();
    await world.open({ load: page.load, since: 'e.3' }, { n: 3, recovered: true });
    assert.deepEqual(page.reasons(), []);
});

scene('load is called where that position is out of reach', async (world) => {
    const page = loader();
    await world.open({ load: page.load, since: 'e.3' }, { n: 9, recovered: false });
    assert.deepEqual(page.reasons(), ['history']);
});

scene('load is called for a page that cannot connect, and again once it has', async (world) => {
    const page = loader();
    world.connect({ load: page.load });
    await world.flush();
    world.socket.break();
    await world.flush();
    assert.deepEqual(page.reasons(), ['first']);
    page.calls[0].resolve();
    await world.pass(2000);
    world.socket.break();
    await world.flush();
    assert.equal(page.calls.length, 1);
    await world.pass(5000);
    world.socket.greet();
    await world.flush();
    assert.deepEqual(page.reasons(), ['first', 'first']);
});

scene('onReload is called when events were missed for good, and not at first', async (world) => {
    const [reasons, add] = recorder();
    const [more, addMore] = recorder();
    const { live } = await world.open({ onReload: add });
    live.onReload(addMore);
    assert.deepEqual(reasons, []);
    await world.comeBack(9, { recovered: false });
    assert.deepEqual(reasons, ['history']);
    assert.deepEqual(more, ['history']);
});

scene('a resume that recovered everything loads nothing', async (world) => {
    const [reasons, add] = recorder();
    await world.open({ load: add, onReload: add });
    await world.comeBack(0, { recovered: true, replayed: 3 });
    assert.deepEqual(reasons, ['first']);
});

scene('restored loads when something was lost', async (world) => {
    const [reasons, add] = recorder();
    const { socket } = await world.open({ onReload: add });
    socket.emit('degraded', { id: 'e.0' }).emit('restored', { id: 'e.1', data: { recovered: true } });
    await world.flush();
    assert.deepEqual(reasons, []);
    socket.emit('restored', { id: 'f.1', data: { recovered: false } });
    await world.flush();
    assert.deepEqual(reasons, ['restored']);
});

scene('events wait for load, and come in order after it', async (world) => {
    const page = loader();
    const { live, socket } = await world.open({ load: page.load });
    const received = record(live), all = record(live, '*');
    socket.event(1).event(2).event(3);
    await world.flush();
    assert.deepEqual(received, []);
    assert.deepEqual(all, []);
    page.calls[0].resolve();
    await world.flush();
    socket.event(4);
    await world.flush();
    assert.deepEqual(received, [1, 2, 3, 4]);
    assert.deepEqual(all, [1, 2, 3, 4]);
});

scene('events of the app\'s own types wait as well, those of the connection do not', async (world) => {
    const page = loader();
    const { live, socket } = await world.open({ load: page.load });
    const types = [];
    live.on('*', ({ type }) => types.push(type));
    socket.emit('comment.added', { id: 'e.1' }).emit('answer').emit('pong', { ref: 'ping', id: 'e.1' });
    await world.flush();
    assert.deepEqual(types, ['answer', 'pong']);
    page.calls[0].resolve();
    await world.flush();
    assert.deepEqual(types, ['answer', 'pong', 'comment.added']);
});

scene('an event without an id waits, too, when it is a hub\'s own', async (world) => {
    const page = loader();
    const { live, socket } = await world.open({ load: page.load });
    const received = [];
    live.on('task.updated', () => received.push(1));
    socket.emit('task.updated', { data: { task_id: 't1' } });
    await world.flush();
    assert.deepEqual(received, []);
    page.calls[0].resolve();
    await world.flush();
    assert.deepEqual(received, [1]);
});

scene('the replay of a resume waits for the load as well', async (world) => {
    const page = loader();
    const { live, socket } = await world.open({ load: page.load });
    const received = record(live);
    socket.event(1);
    await world.flush();
    await world.comeBack(1, { replayed: 1 });
    world.socket.event(2);
    await world.flush();
    assert.deepEqual(received, []);
    page.calls[0].resolve();
    await world.flush();
    assert.deepEqual(received, [1, 2]);
});

scene('loads never run beside each other', async (world) => {
    const page = loader();
    const { live, socket } = await world.open({ load: page.load });
    live.reload();
    live.reload();
    socket.emit('pong', { data: { incomplete: true } });
    await world.flush();
    assert.equal(page.calls.length, 1);
    page.calls[0].resolve();
    await world.flush();
    assert.deepEqual(page.reasons(), ['first', 'incomplete']);
    page.calls[1].resolve();
    await world.pass(60_000);
    assert.equal(page.calls.length, 2);
});

scene('what was held before events were missed does not come after the second load', async (world) => {
    const page = loader();
    const { live, socket } = await world.open({ load: page.load });
    const received = record(live);
    socket.event(1).emit('pong', { id: 'e.5', data: { incomplete: true } }).event(6);
    await world.flush();
    page.calls[0].resolve();
    await world.flush();
    assert.deepEqual(received, []);
    page.calls[1].resolve();
    await world.flush();
    assert.deepEqual(received, [6]);
});

scene('more than can be held is loaded instead', async (world) => {
    const page = loader();
    const { live, socket } = await world.open({ load: page.load });
    const received = record(live);
    for (let n = 1; n <= 5001; n++) socket.onmessage({ data: JSON.stringify({ type: 'task.created', id: `e.${n}`, data: {} }) });
    socket.event(5002);
    await world.flush();
    page.calls[0].resolve();
    await world.flush();
    assert.equal(page.calls.length, 2);
    page.calls[1].resolve();
    await world.flush();
    assert.deepEqual(received, [5002]);
});

for (const [how, fail] of [['rejects', async () => { throw new Error('no network'); }], ['throws', () => { throw new Error('no network'); }]]) {
    scene(`a load that ${how} is tried again, later and later, and events wait`, async (world) => {
        let calls = 0, broken = true;
        const { live, socket } = await world.open({ load: () => { calls += 1; if (broken) return fail(); } });
        world.socket.onSent = ({ type, ref }) => { if (type === 'ping') socket.emit('pong', { ref }); };
        const received = record(live);
        socket.event(1);
        const gaps = [];
        for (let n = 1, at = world.clock.time; n < 8; n++) {
            while (calls === n) await world.pass(100);
            gaps.push(world.clock.time - at);
            at = world.clock.time;
        }
        assert.ok(gaps[0] >= 500 && gaps[0] <= 2000);
        assert.ok(gaps.at(-1) > gaps[0]);
        assert.deepEqual(received, []);
        assert.equal(world.reported.length, 8);
        assert.equal(live.state, 'open');
        broken = false;
        await world.pass(25_000);
        assert.deepEqual(received, [1]);
    });
}

scene('a load that fails never waits longer than the most', async (world) => {
    world.chance = () => 1;
    let calls = 0, last = 0, longest = 0;
    const { socket } = await world.open({
        load: () => {
            calls += 1;
            longest = Math.max(longest, world.clock.time - last);
            last = world.clock.time;
            throw new Error('no');
        },
    });
    socket.onSent = ({ type, ref }) => { if (type === 'ping') socket.emit('pong', { ref }); };
    await world.pass(200_000);
    assert.ok(calls > 8);
    assert.ok(longest <= 20_500, `${longest}`);
});

scene('one of several that fails keeps no other from it', async (world) => {
    const [reasons, add] = recorder();
    const { live } = await world.open({ load: () => {} });
    live.onReload(() => { throw new Error('no'); });
    live.onReload(add);
    await world.comeBack(5, { recovered: false });
    assert.deepEqual(reasons, ['history']);
});

scene('a load that hangs holds events, and no message of the connection', async (world) => {
    const { live, socket } = await world.open({ load: () => new Promise(() => {}) });
    const received = record(live);
    socket.event(1);
    const asked = outcome(live.subscribe({ board_id: 'b2' }));
    await world.flush();
    socket.confirm('subscribe', { board_id: ['b2'] }, 1);
    await world.pass(20_000);
    assert.equal(asked.now, 'resolved');
    assert.deepEqual(received, []);
});

scene('a load may await subscribe()', async (world) => {
    let loaded = false;
    const live = world.connect({ filters: {}, load: async () => { await live.subscribe({ board_id: 'b1' }); loaded = true; } });
    await world.flush();
    world.socket.greet();
    await world.flush();
    world.socket.confirm('subscribe', { board_id: ['b1'] }, 0).event(1);
    const received = record(live);
    await world.flush();
    assert.ok(loaded);
    assert.deepEqual(received, [1]);
});

scene('a load may call reload() once', async (world) => {
    let calls = 0;
    const live = world.connect({ load: () => { if (calls++ === 0) live.reload(); } });
    await world.flush();
    const socket = world.socket.greet();
    const received = record(live);
    await world.flush();
    assert.equal(calls, 2);
    socket.event(1);
    await world.flush();
    assert.deepEqual(received, [1]);
});

scene('reload() resolves when its load is done', async (world) => {
    const page = loader();
    const { live } = await world.open({ load: page.load });
    page.calls[0].resolve();
    await world.flush();
    const asked = outcome(live.reload());
    await world.flush();
    assert.deepEqual(page.reasons(), ['first', 'asked']);
    assert.equal(asked.now, 'pending');
    page.calls[1].resolve();
    await world.flush();
    assert.equal(asked.now, 'resolved');
});

scene('reload() during a load resolves after the next one', async (world) => {
    const page = loader();
    const { live } = await world.open({ load: page.load });
    const asked = outcome(live.reload());
    page.calls[0].resolve();
    await world.flush();
    assert.equal(asked.now, 'pending');
    page.calls[1].resolve();
    await world.flush();
    assert.equal(asked.now, 'resolved');
});

scene('reload() from a listener that is handed held events resolves after its own load', async (world) => {
    const page = loader();
    const { live, socket } = await world.open({ load: page.load });
    let asked;
    live.on('task.created', () => { asked ??= outcome(live.reload()); });
    socket.event(1);
    await world.flush();
    page.calls[0].resolve();
    await world.flush();
    assert.equal(page.calls.length, 2);
    assert.equal(asked.now, 'pending', 'it resolved before its load was done');
    page.calls[1].resolve();
    await world.flush();
    assert.equal(asked.now, 'resolved');
});

scene('reload() from a listener makes the rest of the held events wait', async (world) => {
    const page = loader();
    const { live, socket } = await world.open({ load: page.load });
    const during = [];
    live.on('task.created', (message) => {
        if (page.calls.length === 2) during.push(ids(message));
        else live.reload();
    });
    socket.event(1).event(2);
    await world.flush();
    page.calls[0].resolve();
    await world.flush();
    assert.equal(page.calls.length, 2);
    assert.deepEqual(during, [], 'events were handed out while the page loads');
    page.calls[1].resolve();
    await world.flush();
});

scene('reload() without a load resolves, and loses nothing', async (world) => {
    const { live, socket } = await world.open();
    const asked = outcome(live.reload());
    const received = record(live);
    socket.event(1);
    await world.flush();
    assert.equal(asked.now, 'resolved');
    assert.deepEqual(received, [1]);
});

scene('reload() while onReload runs loses none of the events held', async (world) => {
    const page = loader();
    const { live } = await world.open({ onReload: page.load });
    const socket = await world.comeBack(5, { recovered: false });
    const received = record(live);
    socket.event(6);
    await world.flush();
    live.reload();
    page.calls[0].resolve();
    await world.flush();
    for (const call of page.calls) call.resolve();
    await world.flush();
    // Loaded again for what was missed, or handed out: either will do.
    assert.ok(page.calls.length > 1 || received.includes(6), 'event 6 was thrown away, and nothing was loaded in its place');
});

scene('an onReload that fails is tried again for the same reason, whatever else is requested', async (world) => {
    const page = loader();
    const { live } = await world.open({ onReload: page.load });
    await world.comeBack(5, { recovered: false });
    assert.deepEqual(page.reasons(), ['history']);
    live.reload();
    page.calls[0].reject(new Error('no network'));
    await world.pass(20_000);
    assert.equal(page.calls.length, 2, 'the reason of reload() replaced the one that had failed');
});

scene('a retry() after a final close loads what had not been loaded, or hands out what was held', async (world) => {
    const page = loader();
    const { live, socket } = await world.open({ load: page.load });
    const received = record(live);
    socket.event(1);
    await world.flush();
    socket.break(3503);
    await world.flush();
    live.retry();
    await world.flush();
    world.socket.greet(1, { recovered: true, replayed: 0 });
    await world.flush();
    for (const call of page.calls) call.resolve();
    await world.flush();
    assert.ok(page.calls.length > 1 || received.includes(1), 'event 1 is lost: nothing was loaded, and the position is after it');
});

scene('onReload alone is called when there never was a first position', async (world) => {
    const [reasons, add] = recorder();
    const live = world.connect({ filters: { board_id: 'b1' }, onReload: add });
    live.subscribe({ board_id: 'b2' }, { since: 'e.1' });
    await world.flush();
    world.socket.greet(5);
    await world.flush();
    assert.equal(live.state, 'open');
    // Its question is not answered; meanwhile event 6 of b1 happens, and is missed.
    world.socket.break();
    await world.pass(2000);
    const { socket } = world;
    const since = socket.params.get('since');
    socket.greet(6, since === null ? {} : { recovered: true, replayed: 1 });
    await world.flush();
    assert.ok(since !== null || reasons.length > 0, 'it came back without a position, and did not reload');
});

scene('load is called where a server sends no greeting, too', async (world) => {
    const page = loader();
    world.connect({ load: page.load });
    await world.flush();
    world.socket.accept().event(1);
    await world.flush();
    assert.deepEqual(page.reasons(), ['first']);
});

scene('reload() does not hide that events were missed', async (world) => {
    const page = loader();
    const [reasons, add] = recorder();
    const { live, socket } = await world.open({ load: page.load, onReload: add });
    socket.emit('pong', { id: 'e.5', data: { incomplete: true } });
    await world.flush();
    live.reload();
    page.calls[0].resolve();
    await world.flush();
    assert.deepEqual(page.reasons(), ['first', 'incomplete']);
    assert.deepEqual(reasons, ['incomplete']);
});

scene('a page that reloads at each event is handed them all, and loads no oftener than it can', async (world) => {
    const page = loader();
    const live = world.connect({ load: page.load });
    const received = record(live);
    live.on('task.created', () => { live.reload(); });
    await world.flush();
    world.socket.greet();
    for (let n = 1; n <= 30; n++) world.socket.event(n);
    await world.flush();
    for (let n = 0; n < page.calls.length; n++) {
        page.calls[n].resolve();
        await world.flush();
    }
    assert.deepEqual(received, Array.from({ length: 30 }, (_, n) => n + 1));
    assert.equal(page.calls.length, 2);
});

scene('events are handed out although reload() is called again and again', async (world) => {
    const page = loader();
    const { live, socket } = await world.open({ load: page.load });
    const received = record(live);
    for (let n = 1; n <= 5; n++) {
        socket.event(n);
        live.reload();
        await world.flush();
        page.calls.at(-1).resolve();
        await world.flush();
        assert.ok(received.includes(n));
    }
    page.calls.at(-1).resolve();
    await world.flush();
});
