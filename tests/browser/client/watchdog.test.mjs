import assert from 'node:assert/strict';
import { scene } from './world.mjs';

scene('a server that is silent for pingInterval is pinged', async (world) => {
    const { socket } = await world.open();
    await world.pass(24_999);
    assert.equal(socket.of('ping').length, 0);
    await world.pass(1);
    assert.equal(socket.of('ping').length, 1);
});

scene('one that does not answer within pongWait is left', async (world) => {
    const { live } = await world.open();
    await world.pass(34_999);
    assert.equal(live.state, 'open');
    await world.pass(1);
    assert.equal(live.state, 'waiting');
    assert.match(live.status.reason, /silent/);
    assert.equal(live.status.code, undefined);
    assert.equal(world.live.length, 0);
});

scene('the times are options', async (world) => {
    const { live, socket } = await world.open({ pingInterval: 100, pongWait: 50 });
    await world.pass(100);
    assert.equal(socket.of('ping').length, 1);
    await world.pass(50);
    assert.equal(live.state, 'waiting');
});

scene('any message is a sign of life', async (world) => {
    for (const send of [
        (socket) => socket.event(1),
        (socket) => socket.emit('error', { data: { code: 'UNKNOWN_TYPE', message: 'x' } }),
        (socket) => socket.push('no JSON'),
    ]) {
        const { live, socket } = await world.open();
        for (let n = 0; n < 5; n++) {
            await world.pass(24_000);
            send(socket);
            await world.flush();
        }
        assert.equal(socket.of('ping').length, 0);
        assert.equal(live.state, 'open');
        live.close();
    }
});

scene('an event in place of a pong will do', async (world) => {
    const { live, socket } = await world.open();
    await world.pass(25_000);
    socket.event(1);
    await world.pass(10_000);
    assert.equal(live.state, 'open');
});

scene('a server that answers every ping is never left', async (world) => {
    const { live, socket } = await world.open();
    socket.onSent = ({ type, ref }) => { if (type === 'ping') socket.emit('pong', { ref, id: 'e.0' }); };
    await world.pass(600_000);
    assert.equal(live.state, 'open');
    const pings = socket.of('ping').length;
    assert.ok(pings >= 17 && pings <= 24, `${pings} pings in ten minutes`);
});

scene('one that falls silent after many answers is noticed in pingInterval and pongWait', async (world) => {
    const { live, socket } = await world.open();
    let there = true;
    socket.onSent = ({ type, ref }) => { if (type === 'ping' && there) socket.emit('pong', { ref }); };
    await world.pass(112_345);
    there = false;
    await world.pass(35_001);
    assert.notEqual(live.state, 'open');
});

scene('a machine that slept pings before it gives up', async (world) => {
    const { live, socket } = await world.open();
    await world.pass(10_000);
    // Time goes by, and no timer with it.
    world.clock.time += 3_600_000;
    await world.pass(0);
    assert.equal(live.state, 'open');
    assert.equal(socket.of('ping').length, 1);
    socket.emit('pong', { ref: 'ping' });
    await world.pass(10_000);
    assert.equal(live.state, 'open');
});

scene('the next connection is watched from its own beginning', async (world) => {
    const { live } = await world.open();
    await world.pass(25_000);
    const socket = await world.comeBack(0);
    await world.pass(24_000);
    assert.equal(live.state, 'open');
    assert.equal(socket.of('ping').length, 0);
});

scene('an incomplete pong without a ping loads', async (world) => {
    const reasons = [];
    const { socket } = await world.open({ onReload: (reason) => reasons.push(reason) });
    socket.emit('pong', { id: 'e.3', data: { incomplete: true } });
    await world.flush();
    assert.deepEqual(reasons, ['incomplete']);
});

scene('the same in answer to a ping does not load twice', async (world) => {
    const reasons = [];
    const { socket } = await world.open({ onReload: (reason) => reasons.push(reason) });
    await world.pass(25_000);
    socket.emit('pong', { id: 'e.3', data: { incomplete: true } });
    socket.emit('pong', { id: 'e.3', ref: 'ping', data: { incomplete: true } });
    await world.flush();
    assert.deepEqual(reasons, ['incomplete']);
});

scene('a pong moves the position of a quiet page', async (world) => {
    const { live, socket } = await world.open();
    await world.pass(25_000);
    socket.emit('pong', { ref: 'ping', id: 'e.99' });
    await world.flush();
    assert.equal(live.position, 'e.99');
});
