import assert from 'node:assert/strict';
import { connect, Connection, scene, World } from './world.mjs';

scene('a path is one of this page\'s host, by wss: where the page came by https:', async (world) => {
    world.connect({}, '/ws');
    await world.flush();
    assert.equal(world.socket.url, 'wss://app.example.com/ws');
});

scene('a page that came by http: connects by ws:', { href: 'http://localhost:8000/' }, async (world) => {
    world.connect({}, '/ws');
    await world.flush();
    assert.equal(world.socket.url, 'ws://localhost:8000/ws');
});

scene('whole URLs are taken, as text or as URL, and lose their fragment', async (world) => {
    for (const [url, expected] of [
        ['ws://other.example.com/ws', 'ws://other.example.com/ws'],
        [new URL('wss://other.example.com/ws#x'), 'wss://other.example.com/ws'],
        ['https://other.example.com/ws?a=1', 'wss://other.example.com/ws?a=1'],
    ]) {
        world.connect({}, url).close;
        await world.flush();
        assert.equal(world.socket.url, expected);
    }
});

scene('the page\'s own URL is not changed by what is added to it', async (world) => {
    const url = new URL('wss://app.example.com/ws');
    world.connect({ filters: { board_id: 'b1' }, since: 'e.7' }, url);
    await world.flush();
    assert.equal(url.href, 'wss://app.example.com/ws');
});

scene('another scheme is refused at once', async () => {
    assert.throws(() => connect('ftp://app.example.com/ws'), TypeError);
    assert.throws(() => connect('javascript:alert(1)'), TypeError);
});

scene('what is not a function is rejected at once, and leaves nothing', async (world) => {
    for (const name of ['load', 'onReload', 'onState']) assert.throws(() => connect('/ws', { [name]: 'x' }), TypeError);
    assert.throws(() => connect('/ws', { filters: { board_id: [true] } }), TypeError);
    assert.deepEqual(world.listeners, []);
    await world.flush();
    assert.equal(world.sockets.length, 0);
});

scene('options that are undefined count as left out', async (world) => {
    const { live } = await world.open({
        filters: undefined, token: undefined, since: undefined, load: undefined, pingInterval: undefined, backoff: undefined,
    });
    assert.equal(live.filters, null);
    assert.deepEqual(world.socket.protocols, []);
    await world.comeBack(0);
});

scene('connect returns a Connection, and nothing has happened yet', async (world) => {
    const live = world.connect();
    assert.ok(live instanceof Connection);
    assert.equal(live.state, 'connecting');
    assert.equal(world.sockets.length, 0);
});

scene('listeners added in the same task get the first message', async (world) => {
    const live = world.connect();
    const received = [];
    live.on('connected', ({ type }) => received.push(type));
    await world.flush();
    world.socket.greet();
    await world.flush();
    assert.deepEqual(received, ['connected']);
});

scene('a close in the same task makes no socket', async (world) => {
    world.connect().close();
    await world.flush();
    assert.equal(world.sockets.length, 0);
});

scene('without filters it requests no rooms, and receives everything', async (world) => {
    const { live, socket } = await world.open();
    assert.equal(new URL(socket.url).search, '');
    assert.equal(live.filters, null);
});

scene('filters stand in the query, one by one', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: ['b 1', 'b&2', 7], project_id: 'p=1' } });
    assert.deepEqual(socket.params.getAll('board_id'), ['b 1', 'b&2', '7']);
    assert.deepEqual(socket.params.getAll('project_id'), ['p=1']);
    assert.deepEqual(live.filters, { board_id: ['b 1', 'b&2', '7'], project_id: ['p=1'] });
});

scene('empty filters ask for no room', async (world) => {
    for (const filters of [{}, { board_id: [] }]) {
        world.connect({ filters });
        await world.flush();
        assert.equal(world.socket.params.get('rooms'), 'none');
        assert.deepEqual([...world.socket.params.keys()], ['rooms']);
    }
});

scene('what the page wrote into the query stays there', async (world) => {
    await world.open({ filters: { board_id: 'b1' } }, { url: '/ws?tenant=t1' });
    assert.equal(world.socket.params.get('tenant'), 't1');
    assert.equal(world.socket.params.get('board_id'), 'b1');
});

scene('since stands in the query', async (world) => {
    const { live } = await world.open({ since: 'e.7' }, { n: 7, recovered: true, replayed: 0 });
    assert.equal(world.sockets[0].params.get('since'), 'e.7');
    assert.equal(live.position, 'e.7');
});

scene('since: null is none', async (world) => {
    await world.open({ since: null });
    assert.equal(world.socket.params.has('since'), false);
});

scene('a server that never answers is given up after connectWait', async (world) => {
    const live = world.connect({ connectWait: 3000 });
    await world.flush();
    await world.pass(2999);
    assert.equal(live.state, 'connecting');
    await world.pass(1);
    assert.equal(live.state, 'waiting');
    assert.equal(world.live.length, 0);
    assert.match(live.status.reason, /did not answer in time/);
});

scene('a server that accepts and sends nothing is given up after connectWait', async (world) => {
    const live = world.connect({ connectWait: 3000 });
    await world.flush();
    world.socket.accept();
    await world.pass(3000);
    assert.equal(live.state, 'waiting');
});

scene('a server without a greeting is open with its first message', async (world) => {
    const live = world.connect();
    await world.flush();
    world.socket.accept().event(1);
    await world.flush();
    assert.equal(live.state, 'open');
});

scene('a URL that WebSocket does not accept closes for good, with the reason', async (world) => {
    const live = world.connect({ token: 'has space' });
    await world.flush();
    assert.equal(live.state, 'closed');
    assert.match(live.status.reason, /token/i);
});

scene('a page without document, window events and fetch connects as well', async (world) => {
    for (const name of ['document', 'addEventListener', 'removeEventListener', 'fetch', 'reportError', 'location']) {
        Object.defineProperty(globalThis, name, { configurable: true, writable: true, value: undefined });
    }
    const { live } = await world.open({}, { url: 'ws://127.0.0.1:8000/ws' });
    live.on('x', () => { throw new Error('a listener failed'); });
    world.socket.emit('x');
    await world.comeBack(0);
    live.close();
    assert.ok(world.console.some((line) => line.includes('a listener failed')));
});

scene('two connections have nothing in common', async (world) => {
    const one = await world.open({ filters: { board_id: 'b1' } });
    const two = await world.open({ filters: { board_id: 'b2' } });
    one.socket.break();
    await world.flush();
    assert.equal(one.live.state, 'waiting');
    assert.equal(two.live.state, 'open');
    one.live.close();
    assert.equal(two.live.state, 'open');
    assert.ok(world.listeners.length > 0);
});
