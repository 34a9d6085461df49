import assert from 'node:assert/strict';
import { ids, recorder, scene } from './world.mjs';

scene('a type\'s listeners get that type, those of * get all', async (world) => {
    const { live, socket } = await world.open();
    const one = [], all = [];
    live.on('task.created', ({ type }) => one.push(type));
    live.on('*', ({ type }) => all.push(type));
    socket.event(1).emit('pong').emit('comment.added', { id: 'e.2' });
    await world.flush();
    assert.deepEqual(one, ['task.created']);
    assert.deepEqual(all, ['task.created', 'pong', 'comment.added']);
});

scene('a message is handed over as it came', async (world) => {
    const { live, socket } = await world.open();
    const received = [];
    live.on('comment.added', (message) => received.push(message));
    socket.push('{"type":"comment.added","timestamp":"T","id":"e.1","data":{"a":[1,null]}}');
    await world.flush();
    assert.deepEqual(received, [{ type: 'comment.added', timestamp: 'T', id: 'e.1', data: { a: [1, null] } }]);
});

scene('types may be called as those of Object.prototype', async (world) => {
    const { live, socket } = await world.open();
    const received = [];
    for (const type of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) live.on(type, (message) => received.push(message.type));
    socket.emit('valueOf');
    for (const type of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) socket.emit(type);
    await world.flush();
    assert.deepEqual(received, ['__proto__', 'constructor', 'toString', 'hasOwnProperty']);
});

scene('a message of the type * reaches the listeners of * once', async (world) => {
    const { live, socket } = await world.open();
    let count = 0;
    live.on('*', () => { count += 1; });
    socket.emit('*');
    await world.flush();
    assert.equal(count, 1);
});

scene('a listener is removed by what on() returned, and only itself', async (world) => {
    const { live, socket } = await world.open();
    let count = 0;
    const fn = () => { count += 1; };
    const end = live.on('x', fn);
    live.on('x', fn);
    socket.emit('x');
    await world.flush();
    assert.equal(count, 2);
    end();
    end();
    socket.emit('x');
    await world.flush();
    assert.equal(count, 3);
});

scene('onState and onReload are ended likewise', async (world) => {
    const { live } = await world.open();
    const [states, addState] = recorder(), [reasons, addReason] = recorder();
    live.onState(addState)();
    live.onReload(addReason)();
    await world.comeBack(5, { recovered: false });
    assert.equal(states.length, 1);
    assert.deepEqual(reasons, []);
});

scene('what is no function is refused', async (world) => {
    const { live } = await world.open();
    for (const fn of [undefined, null, 'x', {}]) {
        assert.throws(() => live.on('x', fn), TypeError);
        assert.throws(() => live.onState(fn), TypeError);
        assert.throws(() => live.onReload(fn), TypeError);
    }
});

scene('a listener that throws is reported, and does not stop the others', async (world) => {
    const { live, socket } = await world.open();
    const received = [];
    live.on('task.created', () => { throw new Error('mine'); });
    live.on('task.created', (message) => received.push(ids(message)));
    live.on('*', () => { throw new Error('mine too'); });
    live.on('*', () => received.push('*'));
    socket.event(1).event(2);
    await world.flush();
    assert.deepEqual(received, [1, '*', 2, '*']);
    assert.equal(world.reported.length, 4);
    assert.equal(live.state, 'open');
});

scene('a state listener that throws does not stop the connection', async (world) => {
    const live = world.connect({ onState: () => { throw new Error('mine'); } });
    live.onState(() => { throw new Error('mine too'); });
    await world.flush();
    world.socket.greet();
    await world.flush();
    await world.comeBack(0);
    assert.equal(live.state, 'open');
    assert.ok(world.reported.length >= 8);
});

scene('a listener that is added during a message gets the next one', async (world) => {
    const { live, socket } = await world.open();
    const received = [];
    let once = true;
    live.on('task.created', () => {
        if (once) live.on('task.created', (message) => received.push(ids(message)));
        once = false;
    });
    socket.event(1).event(2);
    await world.flush();
    assert.deepEqual(received, [2]);
});

scene('a listener that is removed by another during a message does not get it', async (world) => {
    const { live, socket } = await world.open();
    const received = [];
    live.on('task.created', () => end());
    const end = live.on('task.created', (message) => received.push(ids(message)));
    socket.event(1);
    await world.flush();
    assert.deepEqual(received, []);
});

scene('one may end itself', async (world) => {
    const { live, socket } = await world.open();
    const received = [];
    const end = live.on('task.created', (message) => {
        end();
        received.push(ids(message));
    });
    live.on('task.created', () => received.push('other'));
    socket.event(1).event(2);
    await world.flush();
    assert.deepEqual(received, [1, 'other', 'other']);
});

scene('each listener gets the states in the order in which they came', async (world) => {
    const live = world.connect();
    const states = [];
    live.onState(({ state }) => { if (state === 'open') live.close(); });
    live.onState(({ state }) => { if (states.at(-1) !== state) states.push(state); });
    await world.flush();
    world.socket.greet();
    await world.flush();
    const notified = [...states];
    world.illegal.length = 0;   // the same, seen by the world's own listener
    assert.equal(notified.at(-1), 'closed', `${notified}`);
});

scene('a retry() by one listener of waiting does not notify others of waiting last', async (world) => {
    const { live, socket } = await world.open();
    const states = [];
    const first = live.onState(({ state }) => { if (state === 'waiting') live.retry(); });
    live.onState(({ state }) => states.push(state));
    socket.break();
    await world.flush();
    world.illegal.length = 0;
    first();
    assert.equal(states.at(-1), live.state, `${states}`);
});

// Odd messages -----------------------------------------------------------------------------------------------------------

const odd = [
    'null', '1', '"text"', '[]', '[1,2]', 'true', '{}', '{"type":null}', '{"type":1}', '{"type":{}}', '', 'no JSON', '{"type":"x"',
    '{"type":"task.created","data":null}', '{"type":"task.created","id":null,"data":[]}', '{"type":"task.created","id":5}',
    '{"type":"connected"}', '{"type":"connected","data":null}', '{"type":"connected","data":[1]}',
    '{"type":"pong","data":null}', '{"type":"pong","data":7}', '{"type":"restored"}', '{"type":"restored","data":null}',
    '{"type":"disconnect"}', '{"type":"disconnect","data":null}', '{"type":"disconnect","data":"soon"}',
    '{"type":"error"}', '{"type":"error","data":null}', '{"type":"error","ref":{}}',
    '{"type":"subscribed"}', '{"type":"subscribed","data":null}', '{"type":"subscribed","data":{"board_id":null}}',
    '{"type":"subscribed","data":{"board_id":{"a":1}}}', '{"type":"subscribed","data":7}', '{"type":"unsubscribed","data":[[]]}',
    '{"type":"presence.state"}', '{"type":"presence.state","data":null}', '{"type":"presence.state","data":{"key":"board_id","value":"b1"}}',
    '{"type":"presence.state","data":{"key":"board_id","value":"b1","present":{"ann":null}}}',
    '{"type":"presence.state","data":{"key":"board_id","value":"b1","present":[[{"ref":1}]]}}',
    '{"type":"presence.diff"}', '{"type":"presence.diff","data":null}', '{"type":"presence.diff","data":{"key":"board_id","value":"b1","joins":{"ann":5}}}',
    '{"type":"presence.diff","data":{"key":"board_id","value":"b1","joins":null,"leaves":null}}',
    '{"type":"auth.refreshed"}', '{"type":"__proto__","__proto__":{"type":"x"}}',
];

// They break no connection, but what they throw is for the page's own error handlers.

for (const text of odd) {
    scene(`${text || 'an empty message'} breaks nothing`, async (world) => {
        const { live, socket } = await world.open({ filters: { board_id: 'b1' } });
        const presence = live.presence({ board_id: 'b1' });
        socket.confirm('subscribe', { board_id: ['b1'] }, 0);
        await world.flush();
        const [received, add] = recorder(ids);
        socket.push(text);
        await world.flush();
        live.on('task.updated', add);
        socket.emit('task.updated', { id: 'e.9', data: {} });
        await world.flush();
        assert.equal(live.state, 'open');
        assert.deepEqual(received, [9]);
        assert.equal(live.position, 'e.9');
        assert.ok(presence.size >= 0);
        const threw = world.uncaught.splice(0);
        assert.deepEqual(threw.map(String), [], 'it threw into the browser');
    });
}

scene('binary messages break nothing', async (world) => {
    const { live, socket } = await world.open();
    socket.push(new ArrayBuffer(4)).push(new Blob(['{}'])).push(undefined).event(1);
    const [received, add] = recorder(ids);
    live.on('task.created', add);
    await world.flush();
    assert.deepEqual(received, [1]);
});

scene('a refusal without data still rejects its request', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    let rejected = false;
    live.subscribe({ board_id: 'b1' }).catch(() => { rejected = true; });
    socket.push(JSON.stringify({ type: 'error', ref: socket.sent.at(-1).ref, error: 'No.' }));
    await world.flush();
    world.uncaught.length = 0;
    assert.ok(rejected);
});
