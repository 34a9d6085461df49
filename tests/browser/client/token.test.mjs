import assert from 'node:assert/strict';
import { scene } from './world.mjs';

scene('a token goes as a subprotocol, beside one that the server can choose', async (world) => {
    const { socket } = await world.open({ token: 'abc.def-1_2' });
    assert.deepEqual(socket.protocols, ['cartows', 'bearer.abc.def-1_2']);
    assert.ok(!socket.url.includes('abc'));
});

scene('a function is called for it, and awaited', async (world) => {
    let calls = 0;
    const live = world.connect({ token: async () => { calls += 1; return 't1'; } });
    await world.flush();
    assert.deepEqual(world.socket.protocols, ['cartows', 'bearer.t1']);
    assert.equal(calls, 1);
    assert.equal(live.state, 'connecting');
});

scene('a function may answer at once', async (world) => {
    const { socket } = await world.open({ token: () => 't1' });
    assert.deepEqual(socket.protocols, ['cartows', 'bearer.t1']);
});

scene('a token that works is kept for the next connection', async (world) => {
    let calls = 0;
    await world.open({ token: () => `t${++calls}` });
    const again = await world.comeBack(0);
    assert.deepEqual(again.protocols, ['cartows', 'bearer.t1']);
});

scene('the function is called again when the token has expired', async (world) => {
    let calls = 0;
    const { live, socket } = await world.open({ token: () => `t${++calls}` });
    socket.break(3005, 'credentials expired');
    await world.flush();
    assert.equal(live.state, 'waiting');
    await world.pass(2000);
    assert.deepEqual(world.socket.protocols, ['cartows', 'bearer.t2']);
});

scene('the function is called again after a refusal', async (world) => {
    let calls = 0;
    world.connect({ token: () => `t${++calls}` });
    await world.flush();
    world.socket.break(1006);
    await world.pass(2000);
    assert.deepEqual(world.socket.protocols, ['cartows', 'bearer.t2']);
});

scene('a token that is only text and has expired ends it', async (world) => {
    const { live, socket } = await world.open({ token: 't' });
    socket.break(3005, 'credentials expired');
    await world.flush();
    assert.deepEqual(live.status, { state: 'closed', code: 3005, reason: 'credentials expired' });
});

scene('without a token 3005 is the session\'s, and it comes back', async (world) => {
    const { live, socket } = await world.open();
    socket.break(3005, 'logged out');
    await world.flush();
    assert.equal(live.state, 'waiting');
});

scene('advice before a 3005 does not keep it from coming back with a new token', async (world) => {
    let calls = 0;
    const { live, socket } = await world.open({ token: () => `t${++calls}` });
    socket.emit('disconnect', { data: { code: 3005, reason: 'credentials expired', reconnect: false } }).break(3005);
    await world.flush();
    assert.equal(live.state, 'waiting');
});

for (const [how, token] of [
    ['throws', () => { throw new Error('no session'); }],
    ['rejects', async () => { throw new Error('no session'); }],
    ['rejects with nothing', () => Promise.reject()],
    ['returns nothing', () => {}],
    ['returns empty text', () => ''],
    ['returns an object', () => ({ token: 't' })],
]) {
    scene(`a function that ${how} is called again later`, async (world) => {
        let calls = 0;
        const live = world.connect({ token: () => { calls += 1; return token(); } });
        await world.flush();
        assert.equal(live.state, 'waiting');
        assert.match(live.status.reason, /token/);
        assert.equal(world.sockets.length, 0);
        await world.pass(5000);
        assert.ok(calls > 1 && calls < 10, `${calls}`);
        assert.equal(world.sockets.length, 0);
        assert.equal(live.state, 'waiting');
    });
}

scene('after a function that fails once no request is made without a token', async (world) => {
    // It rejects a client without a token, and that is final.
    world.answers(403, { code: 'FORBIDDEN', message: 'You may not subscribe to this room.' });
    let calls = 0;
    const live = world.connect({
        token: () => {
            if (calls++ === 0) throw new Error('no network');
            return 't';
        },
    });
    await world.flush();
    assert.equal(live.state, 'waiting', `closed for good: ${live.status.reason}`);
    assert.match(live.status.reason, /token function failed: no network/);
});

scene('a function that hangs is given up after connectWait, and called again', async (world) => {
    let calls = 0;
    const live = world.connect({ token: () => { calls += 1; return new Promise(() => {}); } });
    await world.pass(15_000);
    assert.equal(live.state, 'waiting');
    await world.pass(2000);
    assert.equal(calls, 2);
    assert.equal(world.sockets.length, 0);
});

scene('a token that comes too late makes no second socket', async (world) => {
    const gives = [];
    world.connect({ token: () => new Promise((resolve) => gives.push(resolve)) });
    await world.pass(17_000);
    assert.equal(gives.length, 2);
    gives[1]('t2');
    await world.flush();
    assert.equal(world.sockets.length, 1);
    gives[0]('t1');
    await world.flush();
    assert.equal(world.sockets.length, 1);
    assert.deepEqual(world.socket.protocols, ['cartows', 'bearer.t2']);
});

scene('a token that comes too late does not take the place of a newer one', async (world) => {
    const gives = [];
    world.connect({ token: () => new Promise((resolve) => gives.push(resolve)) });
    await world.pass(17_000);
    gives[1]('t2');
    await world.flush();
    world.socket.greet();
    gives[0]('t1');
    await world.flush();
    const again = await world.comeBack(0);
    assert.deepEqual(again.protocols, ['cartows', 'bearer.t2']);
});

scene('a token that comes after close() makes no socket', async (world) => {
    let give;
    const live = world.connect({ token: () => new Promise((resolve) => { give = resolve; }) });
    await world.flush();
    live.close();
    give('t');
    await world.flush();
    assert.equal(world.sockets.length, 0);
});

scene('close() and retry() inside the function do no harm', async (world) => {
    const one = world.connect({ token: () => { one.close(); return 't'; } });
    const two = world.connect({ token: () => { two.retry(); return 't'; } });
    await world.flush();
    assert.equal(world.sockets.length, 1);
    assert.equal(one.state, 'closed');
    assert.equal(two.state, 'connecting');
});
