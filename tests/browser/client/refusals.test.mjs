import assert from 'node:assert/strict';
import { scene } from './world.mjs';

// Is rejected before the upgrade; a browser tells only that it failed.
async function refused(world, options = {}, times = 1) {
    const live = world.connect(options);
    await world.flush();
    for (let n = 1; n < times; n++) {
        world.socket.break(1006);
        await world.flush();
        if (live.state !== 'waiting') return live;
        live.retry();
        await world.flush();
    }
    world.socket.break(1006);
    await world.flush();
    return live;
}

scene('the reason of a rejection is requested by HTTP at the same URL', async (world) => {
    world.answers(503, { code: 'FULL', message: 'x' });
    await refused(world, { filters: { board_id: 'b1' }, since: 'e.1' });
    assert.equal(world.fetched.length, 1);
    const [{ url, headers, cache }] = world.fetched;
    assert.equal(url, 'https://app.example.com/ws?board_id=b1&since=e.1');
    assert.equal(cache, 'no-store');
    assert.equal(headers.Authorization, undefined);
});

scene('the token goes along', async (world) => {
    world.answers(401, { message: 'x' });
    await refused(world, { token: () => 't1' });
    assert.equal(world.fetched[0].headers.Authorization, 'Bearer t1');
});

// A page on another port than its server, as with a development server.
const OTHER = 'wss://other.example.com/ws';

async function refusedElsewhere(world, options = {}) {
    const live = world.connect(options, OTHER);
    await world.flush();
    world.socket.break(1006);
    await world.flush();
    return live;
}

scene('nothing is said of the server before it has been asked', async (world) => {
    let give;
    world.answer = () => new Promise((resolve) => { give = resolve; });
    const reasons = [];
    const live = world.connect({ onState: ({ reason }) => reasons.push(reason) });
    await world.flush();
    world.socket.break(1006);
    await world.flush();
    assert.equal(live.status.reason, 'The connection failed.');
    give(new Response('{"code": "ORIGIN_REFUSED", "message": "Pages of this origin may not connect."}', { status: 403 }));
    await world.flush();
    assert.equal(live.status.reason, 'Pages of this origin may not connect.');
    assert.ok(!reasons.some((reason) => reason?.includes('cannot be reached')));
});

scene('what was found out is said until it connects, also where it is not asked again', async (world) => {
    const live = await refused(world, {}, 4);
    assert.equal(world.fetched.length, 2);
    assert.equal(live.status.reason, 'The server cannot be reached.');
    live.retry();
    await world.flush();
    world.socket.greet();
    await world.flush();
    world.socket.break(1006);
    await world.flush();
    assert.equal(live.status.reason, 'The connection broke.');
    live.retry();
    await world.flush();
    world.answers(503, { code: 'FULL', message: 'Full.' });
    world.socket.break(1006);
    await world.flush();
    assert.deepEqual([live.status.code, live.status.reason], [503, 'Full.']);
});

scene('another host is asked with cookies, as the handshake was', async (world) => {
    world.answers(403, { code: 'ORIGIN_REFUSED', message: 'Pages of that origin may not connect.' });
    const live = await refusedElsewhere(world);
    assert.equal(world.fetched.length, 1);
    const [{ url, credentials, headers }] = world.fetched;
    assert.deepEqual([url, credentials, headers['X-Cartows-Explain']], ['https://other.example.com/ws', 'include', '1']);
    assert.deepEqual(live.status, { state: 'closed', code: 403, reason: 'Pages of that origin may not connect.' });
});

scene('where the answer of another host cannot be read, what it may be is said', async (world) => {
    world.answer = async (asked) => {
        if (asked.mode !== 'no-cors') throw new TypeError('Failed to fetch');
        return { type: 'opaque', status: 0 };
    };
    const live = await refusedElsewhere(world, { token: 't1' });
    const { reason } = live.status;
    assert.match(reason, /may not allow pages of https:\/\/app\.example\.com/);
    assert.match(reason, /allowed_origins/);
    assert.equal(live.state, 'waiting');
    // The token is not sent with a request whose answer says nothing.
    assert.deepEqual(world.fetched.map(({ mode, headers }) => [mode, headers?.Authorization]), [
        [undefined, 'Bearer t1'], ['no-cors', undefined],
    ]);
    assert.ok(world.console.some((line) => line.includes(reason)));
});

scene('another host that does not answer cannot be reached', async (world) => {
    const live = await refusedElsewhere(world);
    assert.equal(world.fetched.length, 2);
    assert.equal(live.status.reason, 'The server cannot be reached.');
});

scene('another host is not asked a second time when it is trying again', async (world) => {
    let fail;
    world.answer = () => new Promise((resolve, reject) => { fail = reject; });
    const live = await refusedElsewhere(world);
    live.retry();
    await world.flush();
    fail(new TypeError('Failed to fetch'));
    await world.flush();
    assert.equal(world.fetched.length, 1);
    assert.equal(live.state, 'connecting');
});

scene('no reason is requested after a connection', async (world) => {
    const { socket } = await world.open();
    socket.break(1006);
    await world.flush();
    assert.equal(world.fetched.length, 0);
});

for (const [status, options] of [[403, {}], [403, { token: () => 't' }], [501, {}], [401, {}], [401, { token: 't' }]]) {
    scene(`${status} is final${options.token ? `, with ${typeof options.token} for a token` : ''}`, async (world) => {
        world.answers(status, { code: 'X', message: 'You may not.' });
        const live = await refused(world, options);
        assert.deepEqual(live.status, { state: 'closed', code: status, reason: 'You may not.' });
        assert.ok(world.console.some((line) => line.includes('You may not.')));
        await world.pass(60_000);
        assert.equal(world.sockets.length, 1);
    });
}

scene('401 with a token function is tried again with another token', async (world) => {
    world.answers(401, { message: 'It has expired.' });
    let calls = 0;
    const live = await refused(world, { token: () => `t${++calls}` });
    assert.equal(live.state, 'waiting');
    assert.deepEqual([live.status.code, live.status.reason], [401, 'It has expired.']);
    await world.pass(2000);
    assert.deepEqual(world.socket.protocols, ['cartows', 'bearer.t2']);
});

scene('Retry-After is waited for, and somewhat longer', async (world) => {
    world.answers(503, { code: 'FULL', message: 'Full.' }, { 'Retry-After': '10' });
    for (const part of [0, 1]) {
        world.chance = () => part;
        const live = await refused(world);
        const { code, reason, retryAt } = live.status;
        assert.deepEqual([code, reason, retryAt - Date.now()], [503, 'Full.', part ? 15_000 : 10_000]);
        const before = world.sockets.length;
        await world.pass(part ? 14_999 : 9_999);
        world.happens('online');
        await world.flush();
        assert.equal(world.sockets.length, before);
        await world.pass(1);
        assert.equal(world.sockets.length, before + 1);
        live.close();
    }
});

scene('a Retry-After of a month does not overflow a timer', async (world) => {
    world.answers(429, { message: 'x' }, { 'Retry-After': String(30 * 86400) });
    await refused(world);
    await world.pass(60_000);
    assert.equal(world.sockets.length, 1, 'setTimeout fires at once beyond 2**31 - 1 ms');
});

for (const value of ['Wed, 21 Oct 2026 07:28:00 GMT', '-1', '0', 'x', '']) {
    scene(`a Retry-After of ${JSON.stringify(value)} is left out`, async (world) => {
        world.answers(503, { message: 'Full.' }, { 'Retry-After': value });
        const live = await refused(world);
        assert.ok(live.status.retryAt - Date.now() <= 2000);
        assert.equal(live.status.reason, 'Full.');
    });
}

scene('a proxy that passes no upgrade is named, from the second time on', async (world) => {
    world.answers(400, { code: 'NOT_A_WEBSOCKET_REQUEST', message: 'x' });
    const live = await refused(world);
    assert.equal(live.status.reason, 'The connection failed.');
    live.retry();
    await world.flush();
    world.socket.break(1006);
    await world.flush();
    assert.match(live.status.reason, /proxy/);
    assert.equal(live.state, 'waiting');
});

scene('a redirect is taken for a missing login', async (world) => {
    world.answer = async () => ({ type: 'opaqueredirect', status: 0, headers: new Headers(), json: () => Promise.reject(new Error('x')) });
    const live = await refused(world);
    assert.match(live.status.reason, /login/);
    assert.equal(live.state, 'waiting');
});

for (const [what, answer] of [
    ['HTML', async () => new Response('<html>', { status: 200 })],
    ['null', async () => new Response('null', { status: 200 })],
    ['a list', async () => new Response('[1]', { status: 502 })],
    ['text', async () => new Response('"x"', { status: 404 })],
    ['a message that is none', async () => new Response('{"message": {"a": 1}, "code": 5}', { status: 500 })],
    ['an empty body', async () => new Response(null, { status: 204 })],
]) {
    scene(`an answer of ${what} does not stop it`, async (world) => {
        world.answer = answer;
        const live = await refused(world);
        assert.equal(live.state, 'waiting');
        assert.match(live.status.reason, /answered \d+ at \/ws/);
        await world.pass(2000);
        assert.equal(world.sockets.length, 2);
    });
}

scene('without a network nothing is explained', async (world) => {
    const live = await refused(world);
    assert.equal(world.fetched.length, 1);
    assert.match(live.status.reason, /cannot be reached/);
});

scene('an answer that comes when it is trying again changes nothing', async (world) => {
    let give;
    world.answer = () => new Promise((resolve) => { give = resolve; });
    const live = await refused(world);
    live.retry();
    await world.flush();
    assert.equal(world.fetched[0].signal.aborted, true);
    give(new Response('{}', { status: 403 }));
    await world.flush();
    assert.equal(live.state, 'connecting');
});

scene('a body that never ends does not keep it from trying again', async (world) => {
    world.answer = async () => ({ status: 403, headers: new Headers(), json: () => new Promise(() => {}) });
    await refused(world);
    await world.pass(2000);
    assert.equal(world.sockets.length, 2);
});

scene('the reason is requested now and then, not each time', async (world) => {
    const live = await refused(world, {}, 20);
    assert.ok(world.fetched.length >= 3 && world.fetched.length <= 8, `${world.fetched.length}`);
    assert.equal(live.state, 'waiting');
});

scene('the same reason is logged once', async (world) => {
    world.answers(404, { message: 'Not here.' });
    await refused(world, {}, 20);
    assert.equal(world.console.filter((line) => line.includes('Not here.')).length, 1);
});

scene('after a 403 retry() tries again', async (world) => {
    world.answers(403, { message: 'No.' });
    const live = await refused(world);
    assert.equal(live.state, 'closed');
    live.retry();
    await world.flush();
    world.socket.greet();
    await world.flush();
    assert.equal(live.state, 'open');
});

scene('a body that comes when it is trying again changes nothing', async (world) => {
    let give;
    world.answer = async () => ({ status: 403, headers: new Headers(), json: () => new Promise((resolve) => { give = resolve; }) });
    const live = await refused(world);
    live.retry();
    await world.flush();
    give({ message: 'No.' });
    await world.flush();
    assert.equal(live.state, 'connecting');
});
