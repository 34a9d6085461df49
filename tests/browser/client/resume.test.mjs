import assert from 'node:assert/strict';
import { ids, recorder, scene } from './world.mjs';

scene('the position is the last id, whichever message it was on', async (world) => {
    const { live, socket } = await world.open({}, { n: 3 });
    assert.equal(live.position, 'e.3');
    for (const [send, expected] of [
        [() => socket.event(4), 'e.4'],
        [() => socket.emit('pong', { id: 'e.5' }), 'e.5'],
        [() => socket.emit('comment.added', { id: 'e.6' }), 'e.6'],
        [() => socket.emit('restored', { id: 'f.0', data: { recovered: true } }), 'f.0'],
        [() => socket.emit('answer'), 'f.0'],
    ]) {
        send();
        await world.flush();
        assert.equal(live.position, expected);
    }
});

scene('the position is set when a listener is called', async (world) => {
    const { live, socket } = await world.open();
    const seen = [];
    live.on('task.created', ({ id }) => seen.push(id === live.position));
    socket.event(1);
    await world.flush();
    assert.deepEqual(seen, [true]);
});

scene('it comes back with its position', async (world) => {
    const { socket } = await world.open();
    socket.event(8);
    await world.flush();
    const again = await world.comeBack(8);
    assert.equal(again.params.get('since'), 'e.8');
});

scene('a position is encoded', async (world) => {
    const { live } = await world.open({ since: 'a b&c=d+e%' }, { recovered: true });
    assert.equal(world.sockets[0].params.get('since'), 'a b&c=d+e%');
    assert.equal(live.position, 'e.0');
});

scene('without any position it comes back without one, and loads', async (world) => {
    const [reasons, add] = recorder();
    world.connect({ load: add });
    await world.flush();
    world.socket.accept().emit('connected', { data: { client_id: 'c' } });
    await world.flush();
    world.socket.break();
    await world.pass(2000);
    assert.equal(world.socket.params.has('since'), false);
    world.socket.accept().emit('connected', { data: { client_id: 'c' } });
    await world.flush();
    assert.deepEqual(reasons, ['first', 'first']);
});

scene('events of an old socket are ignored', async (world) => {
    const { live, socket } = await world.open();
    const [received, add] = recorder(ids);
    live.on('task.created', add);
    const { onmessage } = socket;
    world.happens('pagehide', { persisted: true });
    await world.flush();
    onmessage({ data: JSON.stringify({ type: 'task.created', id: 'e.5', data: {} }) });
    assert.deepEqual(received, []);
    assert.equal(live.position, 'e.0');
});

scene('during a requested replay the position stays', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: 'b1' }, since: 'e.5' }, { n: 5, recovered: true });
    live.subscribe({ board_id: 'b2' }, { since: 'e.1' });
    await world.flush();
    socket.event(2, 'b2').event(3, 'b2').event(6);
    await world.flush();
    assert.equal(live.position, 'e.5');
    socket.confirm('subscribe', { board_id: ['b1', 'b2'] }, 6);
    await world.flush();
    assert.equal(live.position, 'e.6');
});

scene('a connection that breaks during a requested replay gets each event once', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: 'b1' }, since: 'e.5' }, { n: 5, recovered: true });
    const [received, add] = recorder(ids);
    live.on('task.created', add);
    live.subscribe({ board_id: 'b2' }, { since: 'e.1' });
    await world.flush();
    socket.event(2, 'b2').event(6);
    await world.flush();
    const again = await world.comeBack(5, { replayed: 1 });
    assert.equal(again.params.get('since'), 'e.5');
    again.event(6);
    await world.flush();
    // After the replay: an answer during it would have a position before some of its events.
    assert.deepEqual(again.of('subscribe').map(({ data }) => data), [{ board_id: ['b2'], since: 'e.1' }]);
    again.event(2, 'b2').event(3, 'b2').confirm('subscribe', { board_id: ['b1', 'b2'] }, 6).event(7);
    await world.flush();
    assert.deepEqual(received, [2, 6, 3, 7]);
    assert.equal(live.position, 'e.7');
});

scene('after a refused subscribe with since, what came meanwhile does not come twice', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: 'b1' } });
    const [received, add] = recorder(ids);
    live.on('task.created', add);
    live.subscribe({ board_id: 'b2' }, { since: 'e.0' });
    await world.flush();
    socket.event(1).refuse('FORBIDDEN');
    await world.flush();
    const again = await world.comeBack(0, { replayed: 1 });
    // The server does what was requested.
    if (again.params.get('since') === 'e.0') again.event(1);
    again.event(2);
    await world.flush();
    assert.deepEqual(received, [1, 2]);
});

scene('two replays at once: the position moves when both are there', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: 'b1' }, since: 'e.5' }, { n: 5, recovered: true });
    live.subscribe({ board_id: 'b2' }, { since: 'e.1' });
    await world.flush();
    const [{ ref }] = socket.of('subscribe');
    live.subscribe({ board_id: 'b3' }, { since: 'e.1' });
    await world.flush();
    socket.emit('subscribed', { ref, id: 'e.5', data: { board_id: ['b1', 'b2'] } }).event(3, 'b3');
    await world.flush();
    assert.equal(live.position, 'e.5');
    socket.confirm('subscribe', { board_id: ['b1', 'b2', 'b3'] }, 7);
    await world.flush();
    assert.equal(live.position, 'e.7');
});

scene('a replay that is out of reach loads, and the promise resolves', async (world) => {
    const [reasons, add] = recorder();
    const { live, socket } = await world.open({ filters: {}, onReload: add });
    const asked = live.subscribe({ board_id: 'b2' }, { since: 'x' });
    await world.flush();
    socket.confirm('subscribe', { board_id: ['b2'], recovered: false, replayed: 0 }, 7);
    await world.flush();
    await asked;
    assert.deepEqual(reasons, ['history']);
    assert.deepEqual(live.filters, { board_id: ['b2'] });
});

scene('retry() after a final close during a replay delivers each event once', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: 'b1' }, since: 'e.4' }, { n: 4, recovered: true });
    const [received, add] = recorder(ids);
    live.on('task.created', add);
    live.subscribe({ board_id: 'b2' }, { since: 'e.1' });
    await world.flush();
    socket.event(5).event(6);
    await world.flush();
    socket.break(1000);
    await world.flush();
    live.retry();
    await world.flush();
    const after = Number(world.socket.params.get('since').slice(2));
    world.socket.greet(4, { recovered: true, replayed: 6 - after });
    for (let n = after + 1; n <= 6; n++) world.socket.event(n);
    await world.flush();
    assert.deepEqual(received, [5, 6]);
});
