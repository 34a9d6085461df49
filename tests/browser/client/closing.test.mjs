import assert from 'node:assert/strict';
import { outcome, scene } from './world.mjs';

// What holds of each close() is looked for in `World.leave`: no socket, no timer, no listener, no request.

for (const [where, reach] of [
    ['before its first try', async () => {}],
    ['while connecting', async (world) => { await world.flush(); }],
    ['while it waits for the greeting', async (world) => { await world.flush(); world.socket.accept(); await world.flush(); }],
    ['open', async (world) => { await world.flush(); world.socket.greet(); await world.flush(); }],
    ['with a ping on its way', async (world) => { await world.flush(); world.socket.greet(); await world.pass(26_000); }],
    ['waiting', async (world) => { await world.flush(); world.socket.break(); await world.flush(); }],
    ['waiting, hidden', async (world) => {
        await world.flush();
        world.visible = false;
        world.socket.break();
        await world.pass(60_000);
    }],
    ['while it asks why', async (world) => {
        world.answer = () => new Promise(() => {});
        await world.flush();
        world.socket.break();
        await world.flush();
    }],
    ['disconnected for good', async (world) => { await world.flush(); world.socket.greet().break(3503); await world.flush(); }],
    ['in the cache', async (world) => { await world.flush(); world.happens('pagehide', { persisted: true }); await world.flush(); }],
]) {
    scene(`close() ${where} leaves nothing`, async (world) => {
        const live = world.connect({ load: () => {} });
        await reach(world);
        const { listeners } = world;
        assert.ok(listeners.length > 0);
        live.close();
        assert.equal(live.state, 'closed');
        assert.equal(world.timers, 0);
        assert.equal(world.live.length, 0);
        assert.deepEqual(world.listeners, []);
        assert.ok(world.fetched.every(({ signal }) => signal.aborted) || !where.includes('why'));
    });
}

scene('close() with questions, messages, a load and a resend on their way leaves nothing', async (world) => {
    const live = world.connect({ filters: {}, load: () => { throw new Error('no'); } });
    for (let n = 0; n < 50; n++) live.send('m');
    live.presence({ board_id: 'b1' });
    const asked = outcome(live.subscribe({ board_id: 'b2' }, { since: 'e.0' })), loaded = outcome(live.reload());
    await world.flush();
    world.socket.greet().emit('error', { data: { code: 'RATE_LIMITED', message: 'x' } }).event(1);
    await world.flush();
    assert.ok(world.timers > 2);
    live.close();
    await world.flush();
    assert.equal(world.timers, 0);
    assert.ok(asked.now instanceof Error);
    assert.ok(loaded.now instanceof Error);
});

scene('the server gets 1000', async (world) => {
    const { live, socket } = await world.open();
    live.close();
    assert.equal(socket.closedWith, 1000);
});

scene('the page is notified once, with a reason, and without a warning', async (world) => {
    const { live } = await world.open();
    const notified = [];
    live.onState((status) => notified.push(status));
    live.close();
    live.close();
    assert.equal(notified.length, 2);
    assert.equal(notified[1].state, 'closed');
    assert.ok(notified[1].reason);
    assert.deepEqual(world.console, []);
});

scene('close() after a final close keeps why it was closed', async (world) => {
    const { live, socket } = await world.open();
    const notified = [];
    socket.break(3503, 'banned');
    await world.flush();
    live.onState(({ code }) => notified.push(code));
    live.close();
    assert.deepEqual(notified, [3503], 'it is notified of closed a second time');
    assert.equal(live.status.code, 3503);
});

scene('afterwards nothing does anything', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: 'b1' } });
    const presence = live.presence({ board_id: 'b1' });
    live.close();
    live.retry();
    live.close();
    presence.update({});
    presence.leave();
    live.presence({ board_id: 'b2' });
    live.on('x', () => {});
    live.onReload(() => {});
    const asked = [live.subscribe({ board_id: 'b' }), live.unsubscribe({ board_id: 'b' }), live.reload()].map(outcome);
    assert.equal(live.send('x'), false);
    world.happens('online');
    world.visible = true;
    world.happens('pageshow', { persisted: true });
    world.happens('pagehide', { persisted: true });
    await world.pass(60_000);
    assert.equal(world.sockets.length, 1);
    assert.equal(socket.of('unsubscribe').length, 0);
    assert.ok(asked.every(({ now }) => now instanceof Error));
    assert.equal(live.state, 'closed');
});

scene('a listener that closes when it is notified of closed is notified once', async (world) => {
    const { live, socket } = await world.open();
    let notified = 0;
    live.onState(({ state }) => {
        if (state === 'closed') {
            notified += 1;
            live.close();
        }
    });
    socket.break(3503);
    await world.flush();
    assert.ok(notified <= 2, `notified ${notified} times: close() in its own listener goes round until the stack is full`);
    assert.deepEqual(world.reported, []);
});

scene('a listener that calls close() while close() tells it goes round once', async (world) => {
    const { live } = await world.open();
    let notified = 0;
    live.onState(({ state }) => {
        if (state === 'closed') {
            notified += 1;
            live.close();
        }
    });
    live.close();
    assert.equal(notified, 1);
});

scene('a listener that calls retry() while close() notifies it does not reconnect', async (world) => {
    const { live } = await world.open();
    live.onState(({ state }) => { if (state === 'closed') live.retry(); });
    live.close();
    await world.flush();
    assert.equal(live.state, 'closed', 'close() left a connection that nothing can end');
    assert.equal(world.live.length, 0);
});

// close() inside every kind of callback ----------------------------------------------------------------------------------

const inside = {
    'load, at first': { options: (close) => ({ load: close }) },
    'load, while it cannot connect': {
        options: (close) => ({ load: close }),
        act: (socket) => socket.break(1006),
    },
    'onReload': { options: (close) => ({ onReload: close, since: 'e.1' }), act: (socket) => socket.greet(5, { recovered: false }) },
    'an async load': { options: (close) => ({ load: async () => { await null; close(); } }) },
    'onState connecting': { listen: (live, close) => live.onState(({ state }) => state === 'connecting' && close()) },
    'onState open': { listen: (live, close) => live.onState(({ state }) => state === 'open' && close()) },
    'onState waiting': {
        listen: (live, close) => live.onState(({ state }) => state === 'waiting' && close()),
        act: (socket) => socket.break(1006),
    },
    'onState waiting, once it was open': {
        listen: (live, close) => live.onState(({ state }) => state === 'waiting' && close()),
        act: (socket) => socket.greet().break(1006),
    },
    'on connected': { listen: (live, close) => live.on('connected', close) },
    'on an event': { listen: (live, close) => live.on('task.created', close), act: (socket) => socket.greet().event(1).event(2) },
    'on *': { listen: (live, close) => live.on('*', close), act: (socket) => socket.greet().event(1) },
    'on an event that was held': {
        options: () => ({ load: async () => {} }),
        listen: (live, close) => live.on('task.created', close),
        act: (socket) => socket.greet().event(1).event(2),
    },
    'onJoin': { listen: (live, close) => live.presence({ board_id: 'b1' }).onJoin(close) },
    'onLeave': { listen: (live, close) => live.presence({ board_id: 'b1' }).onLeave(close) },
    'onChange': { listen: (live, close) => live.presence({ board_id: 'b1' }).onChange(close) },
    'on disconnect': {
        listen: (live, close) => live.on('disconnect', close),
        act: (socket) => socket.greet().emit('disconnect', { data: { reconnect: true } }).break(1012),
    },
    'on error': { listen: (live, close) => live.on('error', close), act: (socket) => socket.greet().emit('error', { data: { code: 'RATE_LIMITED' } }) },
    'on pong': { listen: (live, close) => live.on('pong', close), act: (socket) => socket.greet().emit('pong', { data: { incomplete: true } }) },
    'what follows a subscribe': {
        listen: (live, close) => live.subscribe({ board_id: 'b1' }).then(close),
    },
    'the token function': { options: (close) => ({ token: () => { close(); return 't'; } }) },
};

for (const [where, { options = () => ({}), listen = () => {}, act = (socket) => socket.greet() }] of Object.entries(inside)) {
    scene(`close() inside ${where} ends it there and then`, async (world) => {
        let closed = false, after = 0;
        const live = world.connect({
            filters: {},
            ...options(() => {
                closed = true;
                live.close();
            }),
        });
        listen(live, () => {
            closed = true;
            live.close();
        });
        live.on('*', () => { if (closed) after += 1; });
        await world.flush();
        if (world.socket) {
            act(world.socket);
            await world.flush();
            if (!closed && world.socket.of('subscribe').length) {
                world.socket.confirm('subscribe', { board_id: ['b1'] }, 0);
                for (const present of [{ ann: [{ ref: '1', meta: {} }], bob: [{ ref: '2', meta: {} }] }, {}]) {
                    world.socket.emit('presence.state', { data: { key: 'board_id', value: 'b1', count: 2, present } });
                }
                await world.flush();
            }
        }
        assert.ok(closed, 'the test did not come to it');
        assert.equal(live.state, 'closed');
        assert.equal(world.live.length, 0, 'a socket');
        assert.equal(world.timers, 0, 'a timer');
        assert.deepEqual(world.listeners, [], 'a listener');
        assert.ok(world.fetched.every(({ signal }) => signal.aborted), 'a request');
        // The listeners of * still get the message in which another one closed; see listeners.test.mjs.
        assert.ok(after <= 1, 'it received something afterwards');
    });
}

scene('joins and leaves are not delivered after close()', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    const presence = live.presence({ board_id: 'b1' });
    socket.confirm('subscribe', { board_id: ['b1'] }, 0);
    const notified = [];
    presence.onJoin(({ who }) => { notified.push(who); live.close(); });
    presence.onJoin(() => notified.push('another'));
    presence.onChange(() => notified.push('change'));
    socket.emit('presence.state', { data: { key: 'board_id', value: 'b1', count: 2, present: { a: [{ ref: '1' }], b: [{ ref: '2' }] } } });
    await world.flush();
    assert.deepEqual(notified, ['a']);
});

scene('close() when notified of a later attempt makes no socket', async (world) => {
    const { live, socket } = await world.open();
    live.onState(({ state }) => { if (state === 'connecting') live.close(); });
    socket.break();
    await world.pass(20_000);
    assert.equal(world.sockets.length, 1);
    assert.equal(world.timers, 0);
});

scene('a load that fails after close() is not tried again', async (world) => {
    const calls = [];
    const { live } = await world.open({ load: () => new Promise((resolve, reject) => { calls.push(reject); }) });
    live.close();
    calls[0](new Error('no network'));
    await world.pass(60_000);
    assert.equal(calls.length, 1);
});
