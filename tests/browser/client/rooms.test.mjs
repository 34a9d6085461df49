import assert from 'node:assert/strict';
import { ids, outcome, recorder, RefusedError, scene } from './world.mjs';

const many = (count, length) => Array.from({ length: count }, (_, n) => `${'x'.repeat(length)}${n}`);

// Answers everything like a server that accepts every room; without a rate limit.
function serve(socket, rooms = {}) {
    const held = new Map(Object.entries(rooms).map(([key, names]) => [key, new Set(names)]));
    socket.onSent = ({ type, data, ref }) => {
        if (type !== 'subscribe' && type !== 'unsubscribe') return;
        const { since, presence, ...named } = data;
        for (const [key, names] of Object.entries(named)) {
            if (!held.has(key)) held.set(key, new Set());
            for (const name of names) if (type === 'subscribe') held.get(key).add(name); else held.get(key).delete(name);
        }
        const now = Object.fromEntries([...held].filter(([, names]) => names.size).map(([key, names]) => [key, [...names]]));
        socket.emit(`${type}d`, { ref, id: 'e.0', data: since === undefined ? now : { ...now, recovered: true, replayed: 0 } });
    };
}

scene('subscribe sends a request, and resolves with the answer', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    const asked = outcome(live.subscribe({ board_id: ['b1', 2], project_id: 'p1' }));
    assert.deepEqual(socket.of('subscribe').map(({ data }) => data), [{ board_id: ['b1', '2'], project_id: ['p1'] }]);
    await world.flush();
    assert.equal(asked.now, 'pending');
    assert.deepEqual(live.filters, {});
    socket.confirm('subscribe', { board_id: ['b1', '2'], project_id: ['p1'] }, 0);
    await world.flush();
    assert.equal(asked.now, 'resolved');
    assert.deepEqual(live.filters, { board_id: ['b1', '2'], project_id: ['p1'] });
});

scene('each question has a ref of its own, and answers find theirs', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    const one = outcome(live.subscribe({ board_id: 'b1' })), two = outcome(live.subscribe({ board_id: 'b2' }));
    const [first, ...others] = socket.of('subscribe');
    assert.deepEqual(others, []);  // one at a time
    assert.ok(typeof first.ref === 'string' && first.ref.length <= 64);
    socket.emit('error', { ref: first.ref, data: { code: 'FORBIDDEN', message: 'No.', details: 'board_id=b1' } });
    await world.flush();
    const [, second] = socket.of('subscribe');
    assert.notEqual(first.ref, second.ref);
    socket.emit('subscribed', { ref: second.ref, data: { board_id: ['b2'] } });
    await world.flush();
    assert.ok(one.now instanceof RefusedError);
    assert.equal(two.now, 'resolved');
});

scene('a refusal is a RefusedError with the reason', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    const asked = outcome(live.subscribe({ board_id: 'b1' }));
    socket.emit('error', { ref: socket.sent.at(-1).ref, data: { code: 'FORBIDDEN', message: 'You may not.', details: 'board_id=b1' } });
    await world.flush();
    const { now } = asked;
    assert.ok(now instanceof RefusedError && now instanceof Error);
    assert.deepEqual([now.name, now.code, now.details], ['RefusedError', 'FORBIDDEN', 'board_id=b1']);
    assert.match(now.message, /You may not\./);
    assert.equal(live.state, 'open');
});

scene('a refused subscribe is not sent again, nor is it in the query', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: 'b1' } });
    live.subscribe({ board_id: 'b2' });
    socket.refuse('FORBIDDEN');
    await world.flush();
    const again = await world.comeBack(0);
    assert.deepEqual(again.params.getAll('board_id'), ['b1']);
    assert.deepEqual(again.of('subscribe'), []);
});

scene('an answer without an end does not make an unhandled rejection', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    live.subscribe({ board_id: 'b1' });
    socket.refuse('FORBIDDEN');
    live.unsubscribe({ board_id: 'b1' });
    live.reload();
    live.close();
    live.subscribe({ board_id: 'b1' });
    live.reload();
    await world.flush();
});

scene('what has been subscribed is in the query of the next connection', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: 'b1' } });
    live.subscribe({ board_id: 'b2' });
    socket.confirm('subscribe', { board_id: ['b1', 'b2'] }, 0);
    await world.flush();
    const again = await world.comeBack(0);
    assert.deepEqual(again.params.getAll('board_id'), ['b1', 'b2']);
    assert.deepEqual(again.of('subscribe'), []);
});

scene('what has been unsubscribed is not', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: ['b1', 'b2'] } });
    live.unsubscribe({ board_id: 'b1' });
    socket.confirm('unsubscribe', { board_id: ['b2'] }, 0);
    await world.flush();
    assert.deepEqual(live.filters, { board_id: ['b2'] });
    const again = await world.comeBack(0);
    assert.deepEqual(again.params.getAll('board_id'), ['b2']);
});

scene('without its last room it requests none, not everything', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: 'b1' } });
    live.unsubscribe({ board_id: 'b1' });
    socket.confirm('unsubscribe', {}, 0);
    await world.flush();
    assert.deepEqual(live.filters, {});
    const again = await world.comeBack(0);
    assert.equal(again.params.get('rooms'), 'none');
});

scene('after everything a subscribe holds that room alone', async (world) => {
    const { live, socket } = await world.open();
    live.subscribe({ board_id: 'b1' });
    socket.confirm('subscribe', { board_id: ['b1'] }, 0);
    await world.flush();
    assert.deepEqual(live.filters, { board_id: ['b1'] });
    const again = await world.comeBack(0);
    assert.deepEqual(again.params.getAll('board_id'), ['b1']);
});

scene('a room that stands in the URL itself is held and left as any other', async (world) => {
    const { live, socket } = await world.open({}, { url: '/ws?board_id=b1&board_id=b2&x=1' });
    live.unsubscribe({ board_id: 'b1' });
    socket.confirm('unsubscribe', { board_id: ['b2'] }, 0);
    await world.flush();
    const again = await world.comeBack(0);
    assert.deepEqual([...new Set(again.params.getAll('board_id'))], ['b2']);
    assert.equal(again.params.get('x'), '1');
});

scene('a room of the URL that the server takes away is not requested again', async (world) => {
    const { socket } = await world.open({}, { url: '/ws?board_id=b1&board_id=b2' });
    socket.emit('unsubscribed', { id: 'e.0', data: { board_id: ['b2'] } });
    await world.flush();
    const again = await world.comeBack(0);
    assert.ok(!again.params.getAll('board_id').includes('b1'), 'a request for it is answered 403, which is final');
});

scene('rooms that the server takes away are not requested again', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: ['b1', 'b2'] } });
    socket.emit('unsubscribed', { id: 'e.0', data: { board_id: ['b2'] } });
    await world.flush();
    assert.deepEqual(live.filters, { board_id: ['b2'] });
    const again = await world.comeBack(0);
    assert.deepEqual(again.params.getAll('board_id'), ['b2']);
});

scene('a revocation between a request and its answer resolves neither', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: ['b1'] } });
    const asked = outcome(live.subscribe({ board_id: 'b2' }));
    socket.emit('unsubscribed', { id: 'e.0', data: {} });
    await world.flush();
    assert.equal(asked.now, 'pending');
    socket.confirm('subscribe', { board_id: ['b2'] }, 0);
    await world.flush();
    assert.equal(asked.now, 'resolved');
    assert.deepEqual(live.filters, { board_id: ['b2'] });
});

scene('requests made without a connection are sent once connected, in order', async (world) => {
    const live = world.connect({ filters: {} });
    const asked = [live.subscribe({ board_id: 'b1' }), live.unsubscribe({ board_id: 'b1' }), live.subscribe({ board_id: 'b2' })];
    await world.flush();
    serve(world.socket.greet());
    await world.flush();
    await Promise.all(asked);
    assert.deepEqual(world.socket.sent.map(({ type, data }) => `${type} ${data.board_id}`), ['subscribe b1', 'unsubscribe b1', 'subscribe b2']);
    assert.deepEqual(live.filters, { board_id: ['b2'] });
});

scene('a request without an answer is sent again on the next connection', async (world) => {
    const { live } = await world.open({ filters: {} });
    const asked = outcome(live.subscribe({ board_id: 'b1' }));
    const again = await world.comeBack(0);
    assert.equal(asked.now, 'pending');
    assert.equal(again.of('subscribe').length, 1);
    again.confirm('subscribe', { board_id: ['b1'] }, 0);
    await world.flush();
    assert.equal(asked.now, 'resolved');
});

scene('a room left while away is not in the next query', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: ['b1', 'b2'] } });
    socket.break();
    await world.flush();
    live.unsubscribe({ board_id: 'b1' });
    await world.pass(2000);
    assert.deepEqual(world.socket.params.getAll('board_id'), ['b2'], 'it is replayed what it has left');
});

scene('a room left before the first connection is not in its query', async (world) => {
    const live = world.connect({ filters: { board_id: ['b1', 'b2'] } });
    live.unsubscribe({ board_id: 'b1' });
    await world.flush();
    assert.deepEqual(world.socket.params.getAll('board_id'), ['b2']);
});

scene('an unsubscribe that was not answered keeps the room out of the next query', async (world) => {
    const { live } = await world.open({ filters: { board_id: ['b1', 'b2'] } });
    const asked = outcome(live.unsubscribe({ board_id: 'b1' }));
    const again = await world.comeBack(0);
    assert.deepEqual(again.params.getAll('board_id'), ['b2']);
    again.confirm('unsubscribe', { board_id: ['b2'] }, 0);
    await world.flush();
    assert.equal(asked.now, 'resolved');
});

scene('all questions are rejected when the connection closes for good', async (world) => {
    for (const end of [(live) => live.close(), (live, socket) => socket.break(3503, 'disconnected')]) {
        const { live, socket } = await world.open({ filters: {} });
        const asked = [live.subscribe({ board_id: 'b1' }), live.unsubscribe({ board_id: 'b2' })].map(outcome);
        end(live, socket);
        await world.flush();
        for (const { now } of asked) assert.ok(now instanceof Error && !(now instanceof RefusedError), `${now}`);
        const later = outcome(live.subscribe({ board_id: 'b3' }));
        await world.flush();
        assert.ok(later.now instanceof Error);
    }
});

scene('what names no room is refused at once', async (world) => {
    const { live } = await world.open({ filters: {} });
    for (const rooms of [{}, undefined, null, { board_id: [] }, { board_id: null }, { board_id: true }, { board_id: '' },
        { board_id: 1.5 }, { board_id: NaN }, { board_id: ['b1', {}] }]) {
        assert.throws(() => live.subscribe(rooms), TypeError);
        assert.throws(() => live.unsubscribe(rooms), TypeError);
    }
    assert.deepEqual(world.socket.sent, []);
});

scene('keys and names may be those of Object.prototype', async (world) => {
    const odd = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'length'];
    const filters = JSON.parse(JSON.stringify({ a: odd }).replace('"a"', '"__proto__"'));
    const { live, socket } = await world.open({ filters });
    assert.deepEqual(socket.params.getAll('__proto__'), odd);
    assert.deepEqual(Object.entries(live.filters), [['__proto__', odd]]);
    const asked = outcome(live.subscribe(JSON.parse('{"__proto__": "x", "constructor": ["toString"]}')));
    assert.deepEqual(Object.entries(socket.sent.at(-1).data), [['__proto__', ['x']], ['constructor', ['toString']]]);
    socket.push(JSON.stringify({ type: 'subscribed', ref: socket.sent.at(-1).ref, data: 0 })
        .replace(':0}', `:{"__proto__": ["x"], "constructor": ["toString"]}}`));
    await world.flush();
    assert.equal(asked.now, 'resolved');
    assert.deepEqual(Object.entries(live.filters), [['__proto__', ['x']], ['constructor', ['toString']]]);
    assert.equal({}.x, undefined);
});

scene('filters cannot be changed from outside', async (world) => {
    const { live } = await world.open({ filters: { board_id: ['b1'] } });
    live.filters.board_id.push('b2');
    live.filters.project_id = ['p'];
    assert.deepEqual(live.filters, { board_id: ['b1'] });
});

// More rooms than a query may have ---------------------------------------------------------------------------------------

scene('the query stays short, and the other rooms are subscribed', async (world) => {
    const rooms = many(100, 100);
    const { live, socket } = await world.open({ filters: { board_id: rooms } }, { n: 4 });
    assert.ok(socket.url.length < 2300, `${socket.url.length}`);
    const asked = socket.params.getAll('board_id');
    const rest = socket.of('subscribe').flatMap(({ data }) => data.board_id);
    assert.ok(asked.length > 5);
    assert.deepEqual([...asked, ...rest], rooms);
    assert.deepEqual(live.filters, { board_id: rooms });
});

scene('names that are long when encoded count as what they are then', async (world) => {
    const rooms = Array.from({ length: 100 }, (_, n) => `${'界'.repeat(20)}${n}`);
    const { socket } = await world.open({ filters: { board_id: rooms } });
    assert.ok(socket.url.length < 2300, `${socket.url.length}`);
});

scene('one name that is too long for a query does not subscribe it to everything', async (world) => {
    const { socket } = await world.open({ filters: { board_id: '界'.repeat(256) } });
    assert.equal(socket.params.get('rooms'), 'none', 'a query without a room requests everything');
});

scene('the rooms that did not fit into the URL are received from the greeting on', async (world) => {
    const { socket } = await world.open({ filters: { board_id: many(100, 100) } }, { n: 4 });
    const [{ data }] = socket.of('subscribe');
    assert.equal(data.since, 'e.4', 'what happens between the greeting and the answer would be missed, and load() may be done by then');
});

scene('the rooms that had no place are resumed from the same position', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: many(100, 100) }, since: 'e.4' }, { n: 9, recovered: true, replayed: 0 });
    const [{ data }] = socket.of('subscribe');
    assert.equal(data.since, 'e.4');
    socket.confirm('subscribe', { board_id: many(100, 100), recovered: true, replayed: 0 }, 9);
    await world.flush();
    assert.equal(live.position, 'e.9');
});

scene('the greeting does not move the position beyond them', async (world) => {
    const { socket } = await world.open({ filters: { board_id: many(100, 100) }, since: 'e.4' }, { n: 9, recovered: true, replayed: 0 });
    // It breaks before the replay of the other rooms, 5 to 9, has come.
    assert.equal(socket.of('subscribe').length, 1);
    const again = await world.comeBack(9);
    const asked = again.params.get('since'), [{ data }] = again.of('subscribe');
    assert.equal(data.since, 'e.4', 'their events 5 to 9 are lost');
    assert.equal(asked, 'e.4');
});

scene('a history that is out of reach is loaded once, however many rooms there are', async (world) => {
    const [reasons, add] = recorder();
    const { socket } = await world.open({ filters: { board_id: many(100, 100) }, since: 'e.4', onReload: add }, { n: 9, recovered: false });
    const [{ data }] = socket.of('subscribe');
    await world.pass(100);
    if (data.since === 'e.4') socket.confirm('subscribe', { board_id: many(100, 100), recovered: false, replayed: 0 }, 9);
    await world.flush();
    assert.deepEqual(reasons, ['history']);
});

scene('an answer to something else does not make it forget the rooms on their way', async (world) => {
    const rooms = many(100, 100);
    const { live, socket } = await world.open({ filters: { board_id: rooms } });
    const here = socket.params.getAll('board_id');
    live.subscribe({ project_id: 'p1' });
    socket.confirm('subscribe', { board_id: here, project_id: ['p1'] }, 0);
    await world.flush();
    const again = await world.comeBack(0);
    assert.deepEqual([...again.params.getAll('board_id'), ...again.of('subscribe').flatMap(({ data }) => data.board_id ?? [])], rooms);
});

scene('rooms that are refused there are not held, and that is logged', async (world) => {
    const rooms = many(100, 100);
    const { live, socket } = await world.open({ filters: { board_id: rooms } });
    socket.refuse('FORBIDDEN');
    await world.flush();
    assert.deepEqual(live.filters.board_id, socket.params.getAll('board_id'));
    assert.ok(world.console.some((line) => line.includes('subscription to some rooms has ended')));
});

// Too many messages ------------------------------------------------------------------------------------------------------

scene('a request over the rate limit is sent again', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    const asked = outcome(live.subscribe({ board_id: 'b1' }));
    socket.emit('error', { data: { code: 'RATE_LIMITED', message: 'x', details: 'retry after 50 ms' } });
    await world.pass(2000);
    assert.equal(asked.now, 'pending');
    assert.equal(socket.of('subscribe').length, 2);
    socket.confirm('subscribe', { board_id: ['b1'] }, 0);
    await world.flush();
    assert.equal(asked.now, 'resolved');
});

scene('an answer that comes twice for that does no harm', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    live.subscribe({ board_id: 'b1' });
    socket.emit('error', { data: { code: 'RATE_LIMITED', message: 'x' } });
    await world.pass(2000);
    socket.confirm('subscribe', { board_id: ['b1'] }, 0).confirm('subscribe', { board_id: ['b1'] }, 0);
    await world.flush();
    assert.deepEqual(live.filters, { board_id: ['b1'] });
    assert.equal(live.state, 'open');
});

scene('sending again after the rate limit keeps the order of requests', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: ['b1'] } });
    // The server has room for no message now, and for one a moment later.
    const held = new Set(['b1']);
    let drop = true;
    socket.onSent = ({ type, data, ref }) => {
        if (drop) return socket.emit('error', { data: { code: 'RATE_LIMITED', message: 'x' } });
        for (const name of data.board_id) if (type === 'subscribe') held.add(name); else held.delete(name);
        socket.emit(`${type}d`, { ref, id: 'e.0', data: { board_id: [...held] } });
    };
    live.unsubscribe({ board_id: 'b1' });
    await world.pass(50);
    drop = false;
    live.subscribe({ board_id: 'b1' });
    await world.pass(3000);
    assert.deepEqual([...held], ['b1'], 'the page subscribed last, and does not hold the room');
});

scene('a hundred requests at once are sent within the rate limit of servers', async (world) => {
    const live = world.connect({ filters: {} });
    const asked = many(100, 1).map((name) => outcome(live.subscribe({ board_id: name })));
    await world.flush();
    const { socket } = world;
    socket.greet();
    await world.flush();
    // 40 at once; a client that sends as many more is disconnected (3013).
    assert.ok(socket.sent.length <= 80, `${socket.sent.length} messages at once`);
    assert.equal(asked.length, 100);
});
