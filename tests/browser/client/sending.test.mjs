import assert from 'node:assert/strict';
import { scene } from './world.mjs';

const types = (socket) => socket.sent.map(({ type }) => type);

scene('a message is sent at once', async (world) => {
    const { live, socket } = await world.open();
    assert.equal(live.send('cursor.moved', { x: 1 }), true);
    assert.deepEqual(socket.sent, [{ type: 'cursor.moved', data: { x: 1 } }]);
});

scene('data may be left out', async (world) => {
    const { live, socket } = await world.open();
    live.send('hello');
    assert.deepEqual(socket.sent, [{ type: 'hello' }]);
});

scene('without a connection it waits for one, in order', async (world) => {
    const live = world.connect();
    for (let n = 0; n < 5; n++) assert.equal(live.send(`m${n}`), true);
    await world.flush();
    world.socket.accept();
    await world.flush();
    live.send('m5');
    assert.deepEqual(world.socket.sent, []);
    world.socket.emit('connected', { id: 'e.0', data: {} });
    await world.flush();
    assert.deepEqual(types(world.socket), ['m0', 'm1', 'm2', 'm3', 'm4', 'm5']);
});

scene('what is sent when it is sent counts, not what becomes of it', async (world) => {
    const live = world.connect();
    const data = { x: 1 };
    live.send('m', data);
    data.x = 2;
    await world.flush();
    world.socket.greet();
    await world.flush();
    assert.deepEqual(world.socket.sent[0].data, { x: 1 });
});

scene('more than sendQueue is refused', async (world) => {
    const live = world.connect();
    const taken = Array.from({ length: 105 }, (_, n) => live.send(`m${n}`));
    assert.deepEqual(taken, [...Array(100).fill(true), ...Array(5).fill(false)]);
    await world.flush();
    world.socket.greet();
    await world.pass(20_000);
    assert.equal(world.socket.sent.filter(({ type }) => type !== 'ping').length, 100);
});

scene('sendQueue is an option, and may be none', async (world) => {
    const live = world.connect({ sendQueue: 0 });
    assert.equal(live.send('m'), false);
    await world.flush();
    world.socket.greet();
    await world.flush();
    assert.equal(live.send('m'), true);
});

scene('messages that waited are sent within the rate limit of servers, and later ones after them', async (world) => {
    const live = world.connect();
    for (let n = 0; n < 60; n++) live.send(`m${n}`);
    await world.flush();
    const { socket } = world;
    socket.greet();
    await world.flush();
    assert.ok(socket.sent.length <= 40, `${socket.sent.length}`);
    live.send('last');
    for (let second = 1; second <= 6; second++) {
        const before = socket.sent.length;
        await world.pass(1000);
        assert.ok(socket.sent.length - before <= 20);
    }
    assert.deepEqual(types(socket), [...Array.from({ length: 60 }, (_, n) => `m${n}`), 'last']);
});

scene('what still waits when the connection breaks goes with the next', async (world) => {
    const live = world.connect();
    for (let n = 0; n < 30; n++) live.send(`m${n}`);
    await world.flush();
    const first = world.socket.greet();
    await world.flush();
    const before = types(first);
    const again = await world.comeBack(0);
    await world.pass(5000);
    assert.deepEqual([...before, ...types(again)], Array.from({ length: 30 }, (_, n) => `m${n}`));
});

scene('a socket that takes nothing makes messages wait, counted', async (world) => {
    const { live, socket } = await world.open({ sendQueue: 3 });
    world.stuck = true;
    live.send('big', 'x'.repeat(1 << 20));
    assert.equal(socket.sent.length, 1);
    assert.deepEqual([1, 2, 3, 4].map((n) => live.send(`m${n}`)), [true, true, true, false]);
    assert.equal(socket.sent.length, 1);
    world.stuck = false;
    socket.bufferedAmount = 0;
    await world.pass(1000);
    assert.deepEqual(types(socket), ['big', 'm1', 'm2', 'm3']);
    live.send('m5');
    assert.equal(socket.sent.length, 5);
});

scene('a socket that is closing is sent nothing', async (world) => {
    const { live, socket } = await world.open();
    socket.readyState = 2;
    assert.equal(live.send('m'), true);
    assert.equal(socket.sent.length, 0);
    socket.readyState = 1;
    const again = await world.comeBack(0);
    assert.deepEqual(types(again), ['m']);
});

scene('what cannot be written as JSON throws, and changes nothing', async (world) => {
    const { live, socket } = await world.open();
    const round = {};
    round.round = round;
    assert.throws(() => live.send('m', round), TypeError);
    assert.throws(() => live.send('m', 1n), TypeError);
    live.send('n');
    assert.deepEqual(types(socket), ['n']);
});

scene('sending from inside handlers is in order, and breaks nothing', async (world) => {
    const live = world.connect();
    live.onState(({ state }) => { if (state === 'open') live.send('open'); });
    live.on('*', ({ type }) => live.send(`received ${type}`));
    live.send('before');
    await world.flush();
    world.socket.greet().event(1);
    await world.pass(2000);
    assert.deepEqual(types(world.socket), ['before', 'open', 'received connected', 'received task.created']);
});

scene('after the end nothing is taken', async (world) => {
    const { live, socket } = await world.open();
    socket.break(3503);
    await world.flush();
    assert.equal(live.send('m'), false);
    live.retry();
    await world.flush();
    world.socket.greet(0, { recovered: true });
    await world.flush();
    assert.deepEqual(types(world.socket), []);
    live.close();
    assert.equal(live.send('m'), false);
});

scene('a message that is sent when notified of open does not delay those that waited', async (world) => {
    const live = world.connect();
    live.onState(({ state }) => { if (state === 'open') live.send('open'); });
    for (let n = 0; n < 10; n++) live.send(`m${n}`);
    await world.flush();
    world.socket.greet();
    await world.flush();
    assert.equal(world.socket.sent.length, 11, 'one is sent, the others a second later');
});

scene('a request to a blocked socket is sent once it is free', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    world.stuck = true;
    live.send('big', 'x'.repeat(1 << 20));
    live.subscribe({ board_id: 'b1' });
    await world.flush();
    assert.deepEqual(types(socket), ['big']);
    world.stuck = false;
    socket.bufferedAmount = 0;
    await world.pass(1000);
    assert.deepEqual(types(socket), ['big', 'subscribe']);
});

scene('a page that sends without end gets its questions out all the same', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    for (let n = 0; n < 300; n++) {
        live.send('cursor', n);
        await world.pass(66);
        if (n === 150) live.subscribe({ board_id: 'b1' });
    }
    assert.equal(socket.of('subscribe').length, 1);
});
