import assert from 'node:assert/strict';
import { Presence, scene } from './world.mjs';

const tab = (ref, meta = {}) => [{ ref, meta }];

function state(socket, present, { count = Object.keys(present ?? {}).length, value = 'b1', key = 'board_id' } = {}) {
    return socket.emit('presence.state', { data: { key, value, count, present } });
}

function diff(socket, joins, leaves, { count = 0, value = 'b1', key = 'board_id' } = {}) {
    return socket.emit('presence.diff', { data: { key, value, count, joins, leaves } });
}

async function enter(world, meta = { name: 'Ann' }) {
    const opened = await world.open({ filters: {} });
    const presence = opened.live.presence({ board_id: 'b1' }, meta);
    opened.socket.confirm('subscribe', { board_id: ['b1'] }, 0);
    await world.flush();
    return { ...opened, presence, notified: listen(presence) };
}

function listen(presence) {
    const notified = [];
    presence.onJoin(({ who, ref, first }) => notified.push(`+${who}/${ref}${first ? ' first' : ''}`));
    presence.onLeave(({ who, ref, last }) => notified.push(`-${who}/${ref}${last ? ' last' : ''}`));
    presence.onChange((same) => notified.push(`=${same.count}`));
    return notified;
}

scene('entering a room subscribes to it, with what is shown', async (world) => {
    const { socket, presence, live } = await enter(world);
    assert.deepEqual(socket.of('subscribe').map(({ data }) => data), [{ board_id: ['b1'], presence: { name: 'Ann' } }]);
    assert.ok(presence instanceof Presence);
    assert.deepEqual([presence.count, presence.size, presence.complete], [0, 0, false]);
    assert.deepEqual(live.filters, { board_id: ['b1'] });
});

scene('without a meta an empty object is shown', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    live.presence({ board_id: 'b1' });
    assert.deepEqual(socket.sent.at(-1).data.presence, {});
});

scene('exactly one room can be entered at a time', async (world) => {
    const { live } = await world.open({ filters: {} });
    for (const room of [{}, { board_id: ['a', 'b'] }, { board_id: 'a', project_id: 'b' }]) {
        assert.throws(() => live.presence(room), TypeError);
    }
});

scene('the same room gives the same object, a number counts as text', async (world) => {
    const { live } = await world.open({ filters: {} });
    assert.equal(live.presence({ board_id: 7 }), live.presence({ board_id: '7' }));
    assert.notEqual(live.presence({ board_id: 7 }), live.presence({ project_id: 7 }));
});

scene('the state fills the map, and tells of each tab', async (world) => {
    const { socket, presence, notified } = await enter(world);
    state(socket, { ann: [{ ref: '1', meta: { a: 1 } }, { ref: '2', meta: {} }], bob: tab('3') });
    await world.flush();
    assert.deepEqual(notified, ['+ann/1 first', '+ann/2', '+bob/3 first', '=2']);
    assert.deepEqual([presence.count, presence.size, presence.complete], [2, 2, true]);
    assert.deepEqual(presence.get('ann'), [{ ref: '1', meta: { a: 1 } }, { ref: '2', meta: {} }]);
    assert.equal(presence.has('bob'), true);
    assert.equal(presence.has('eve'), false);
    assert.equal(presence.get('eve'), undefined);
    assert.deepEqual([...presence.keys()], ['ann', 'bob']);
    assert.deepEqual([...presence.values()].length, 2);
    assert.deepEqual([...presence], [...presence.entries()]);
    const seen = [];
    presence.forEach((entries, who, map) => seen.push([who, entries.length, map === presence]));
    assert.deepEqual(seen, [['ann', 2, true], ['bob', 1, true]]);
    assert.equal(Object.prototype.toString.call(presence), '[object Presence]');
});

scene('a diff joins, leaves and replaces', async (world) => {
    const { socket, presence, notified } = await enter(world);
    state(socket, { ann: tab('1') });
    await world.flush();
    notified.length = 0;
    diff(socket, { bob: tab('2'), ann: tab('3') }, {}, { count: 2 });
    diff(socket, {}, { ann: tab('1') }, { count: 2 });
    diff(socket, { bob: tab('2', { colour: 'teal' }) }, {}, { count: 2 });
    diff(socket, {}, { ann: tab('3') }, { count: 1 });
    await world.flush();
    assert.deepEqual(notified, ['+ann/3', '+bob/2 first', '=2', '-ann/1', '=2', '=2', '-ann/3 last', '=1']);
    assert.deepEqual([...presence], [['bob', tab('2', { colour: 'teal' })]]);
});

scene('a leave and a join of the same identity in one diff are neither first nor last', async (world) => {
    const { socket, notified } = await enter(world);
    state(socket, { ann: tab('1') });
    await world.flush();
    notified.length = 0;
    diff(socket, { ann: tab('2') }, { ann: tab('1') }, { count: 1 });
    await world.flush();
    assert.deepEqual(notified, ['-ann/1', '+ann/2', '=1']);
});

scene('all tabs of an identity that leave at once: the last of them is the last', async (world) => {
    const { socket, notified } = await enter(world);
    state(socket, { ann: [{ ref: '1', meta: {} }, { ref: '2', meta: {} }] });
    await world.flush();
    notified.length = 0;
    diff(socket, {}, { ann: [{ ref: '1', meta: {} }, { ref: '2', meta: {} }] }, { count: 0 });
    await world.flush();
    assert.deepEqual(notified, ['-ann/1', '-ann/2 last', '=0']);
});

scene('a leave of an unknown identity is ignored', async (world) => {
    const { socket, notified } = await enter(world);
    state(socket, {});
    diff(socket, {}, { eve: tab('9') });
    await world.flush();
    assert.deepEqual(notified, ['=0', '=0']);
});

scene('listeners see the map as it is after the change', async (world) => {
    const { socket, presence } = await enter(world);
    const seen = [];
    presence.onJoin(({ who }) => seen.push(presence.has(who)));
    presence.onLeave(({ who }) => seen.push(presence.has(who)));
    state(socket, { ann: tab('1') });
    diff(socket, {}, { ann: tab('1') });
    await world.flush();
    assert.deepEqual(seen, [true, false]);
});

scene('identities, refs and metas may be called as Object.prototype\'s', async (world) => {
    const { socket, presence, notified } = await enter(world);
    socket.push('{"type":"presence.state","data":{"key":"board_id","value":"b1","count":3,"present":'
        + '{"__proto__":[{"ref":"1","meta":{"__proto__":{"x":1}}}],"constructor":[{"ref":"2","meta":{}}],"toString":[{"ref":"__proto__","meta":{}}]}}}');
    await world.flush();
    assert.deepEqual([...presence.keys()], ['__proto__', 'constructor', 'toString']);
    assert.equal(presence.get('__proto__')[0].ref, '1');
    assert.equal({}.x, undefined);
    socket.push('{"type":"presence.diff","data":{"key":"board_id","value":"b1","count":0,"joins":{},"leaves":{"__proto__":[{"ref":"1","meta":{}}]}}}');
    await world.flush();
    assert.equal(presence.has('__proto__'), false);
    assert.ok(notified.includes('-__proto__/1 last'));
    assert.equal(presence.get('valueOf'), undefined);
});

scene('rooms may be called so as well', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    for (const name of ['__proto__', 'constructor', 'toString']) {
        const presence = live.presence({ board_id: name });
        socket.confirm('subscribe', { board_id: [...live.filters.board_id ?? [], name] }, 0);
        state(socket, { ann: tab('1') }, { value: name });
        await world.flush();
        assert.equal(presence.count, 1);
    }
});

scene('after a reconnect it is entered again, with what is shown now', async (world) => {
    const { presence } = await enter(world);
    presence.update({ name: 'Anna' });
    world.socket.confirm('subscribe', { board_id: ['b1'] }, 0);
    await world.flush();
    const again = await world.comeBack(0);
    assert.deepEqual(again.of('subscribe').map(({ data }) => data), [{ board_id: ['b1'], presence: { name: 'Anna' } }]);
});

scene('the state after a reconnect tells of real joins and leaves only', async (world) => {
    const { socket, presence, notified } = await enter(world);
    state(socket, { ann: tab('1'), bob: tab('2'), eve: tab('3') });
    await world.flush();
    notified.length = 0;
    const again = await world.comeBack(0);
    assert.deepEqual(notified, []);
    assert.equal(presence.size, 3);
    again.confirm('subscribe', { board_id: ['b1'] }, 0);
    state(again, { ann: tab('1'), bob: [{ ref: '2', meta: { x: 1 } }, { ref: '4', meta: {} }], zoe: tab('5') });
    await world.flush();
    assert.deepEqual(notified, ['-eve/3 last', '+bob/4', '+zoe/5 first', '=3']);
});

scene('several updates while away are one message, the last', async (world) => {
    const { presence, socket } = await enter(world);
    socket.break();
    await world.flush();
    presence.update({ n: 1 });
    presence.update({ n: 2 });
    await world.pass(2000);
    world.socket.greet(0, { recovered: true });
    await world.flush();
    assert.deepEqual(world.socket.of('subscribe').map(({ data }) => data.presence), [{ n: 2 }]);
});

scene('presence() again with a meta shows it', async (world) => {
    const { live, socket, presence } = await enter(world);
    assert.equal(live.presence({ board_id: 'b1' }, { name: 'X' }), presence);
    assert.deepEqual(socket.of('subscribe').at(-1).data.presence, { name: 'X' });
    live.presence({ board_id: 'b1' });
    assert.equal(socket.of('subscribe').length, 2);
});

scene('a large room tells its count alone', async (world) => {
    const { socket, presence, notified } = await enter(world);
    state(socket, undefined, { count: 300 });
    await world.flush();
    assert.deepEqual([presence.count, presence.size, presence.complete], [300, 0, false]);
    diff(socket, undefined, undefined, { count: 301 });
    await world.flush();
    assert.equal(presence.count, 301);
    assert.deepEqual(notified, ['=300', '=301']);
    state(socket, { ann: tab('1') });
    await world.flush();
    assert.equal(presence.complete, true);
});

scene('a room that grew large and shrank again reports no join twice', async (world) => {
    const { socket, notified } = await enter(world);
    state(socket, { ann: tab('1') });
    diff(socket, undefined, undefined, { count: 201 });
    state(socket, { ann: tab('1') });
    await world.flush();
    const joins = notified.filter((each) => each.startsWith('+ann')).length, leaves = notified.filter((each) => each.startsWith('-ann')).length;
    assert.equal(joins - leaves, 1, 'a page that counts joins and leaves counts ann twice');
});

scene('leave() leaves the room, and unsubscribes', async (world) => {
    const { live, socket, presence, notified } = await enter(world);
    state(socket, { ann: tab('1') });
    await world.flush();
    notified.length = 0;
    presence.leave();
    presence.leave();
    assert.deepEqual(socket.of('unsubscribe').map(({ data }) => data), [{ board_id: ['b1'] }]);
    assert.equal(presence.size, 0);
    socket.confirm('unsubscribe', {}, 0);
    await world.flush();
    assert.deepEqual(live.filters, {});
    const again = await world.comeBack(0);
    assert.deepEqual(again.of('subscribe'), []);
    assert.notEqual(live.presence({ board_id: 'b1' }), presence);
});

scene('unsubscribe leaves the presence as well', async (world) => {
    const { live, socket, presence } = await enter(world);
    state(socket, { ann: tab('1') });
    await world.flush();
    live.unsubscribe({ board_id: ['b0', 'b1'] });
    assert.equal(presence.size, 0);
    presence.update({ x: 1 });
    assert.equal(socket.of('subscribe').length, 1);
});

scene('a presence left before its request was sent is never sent', async (world) => {
    const live = world.connect({ filters: {} });
    live.presence({ board_id: 'b1' }).leave();
    await world.flush();
    world.socket.greet();
    await world.flush();
    assert.deepEqual(world.socket.of('subscribe'), []);
});

scene('left and entered again is in', async (world) => {
    const { live, socket, presence } = await enter(world);
    presence.leave();
    const again = live.presence({ board_id: 'b1' }, { n: 2 });
    socket.confirm('unsubscribe', {}, 0);
    await world.flush();
    const [, enterAgain] = socket.of('subscribe');
    socket.emit('subscribed', { ref: enterAgain.ref, id: 'e.0', data: { board_id: ['b1'] } });
    state(socket, { ann: tab('1') });
    await world.flush();
    assert.equal(again.size, 1);
    assert.equal(live.presence({ board_id: 'b1' }), again);
    assert.equal(presence.size, 0);
});

scene('a room that the server takes away is left', async (world) => {
    const { live, socket, presence, notified } = await enter(world);
    state(socket, { ann: tab('1') });
    await world.flush();
    notified.length = 0;
    socket.emit('unsubscribed', { id: 'e.0', data: {} });
    await world.flush();
    assert.deepEqual(notified, ['=0']);  // only this page has left
    const again = await world.comeBack(0);
    assert.deepEqual(again.of('subscribe'), []);
    assert.deepEqual(live.filters, {});
});

scene('a room that is entered just then is not', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: 'b0' } });
    const presence = live.presence({ board_id: 'b1' });
    socket.emit('unsubscribed', { id: 'e.0', data: {} });
    await world.flush();
    socket.confirm('subscribe', { board_id: ['b1'] }, 0);
    state(socket, { ann: tab('1') });
    await world.flush();
    assert.equal(presence.size, 1);
});

scene('a refused presence is logged to the console', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    const presence = live.presence({ board_id: 'b1' });
    socket.refuse('FORBIDDEN');
    await world.flush();
    assert.ok(world.console.some((line) => line.includes('board_id=b1')));
    assert.notEqual(live.presence({ board_id: 'b1' }), presence);
});

scene('an update that is refused leaves what was shown before', async (world) => {
    const { live, socket, presence, notified } = await enter(world);
    state(socket, { ann: tab('1'), bob: tab('2') });
    await world.flush();
    notified.length = 0;
    presence.update({ name: 'x'.repeat(2000) });
    socket.refuse('INVALID_MESSAGE');
    await world.flush();
    // The server still shows this page there, and still sends it joins.
    assert.deepEqual(notified, []);
    assert.equal(presence.size, 2);
    assert.equal(live.presence({ board_id: 'b1' }), presence);
    const again = await world.comeBack(0);
    assert.deepEqual(again.of('subscribe').map(({ data }) => data.presence), [{ name: 'Ann' }]);
});

scene('it survives a final close and retry()', async (world) => {
    const { live, socket, presence } = await enter(world);
    socket.break(3503);
    await world.flush();
    presence.update({ n: 2 });
    live.retry();
    await world.flush();
    world.socket.greet(0, { recovered: true });
    await world.flush();
    assert.deepEqual(world.socket.of('subscribe').map(({ data }) => data.presence), [{ n: 2 }]);
});

scene('entered while it is closed, it is entered on retry()', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    socket.break(3503);
    await world.flush();
    live.presence({ board_id: 'b1' }, { n: 1 });
    await world.flush();
    live.retry();
    await world.flush();
    world.socket.greet(0, { recovered: true });
    await world.flush();
    assert.deepEqual(world.socket.of('subscribe').map(({ data }) => data.presence), [{ n: 1 }]);
});

scene('a removed listener is not called', async (world) => {
    const { socket, presence } = await enter(world);
    const notified = [];
    const ends = [presence.onJoin(() => notified.push(1)), presence.onLeave(() => notified.push(2)), presence.onChange(() => notified.push(3))];
    for (const end of ends) end();
    state(socket, { ann: tab('1') });
    diff(socket, {}, { ann: tab('1') });
    await world.flush();
    assert.deepEqual(notified, []);
});

scene('listeners must be functions', async (world) => {
    const { presence } = await enter(world);
    for (const name of ['onJoin', 'onLeave', 'onChange']) assert.throws(() => presence[name]('x'), TypeError);
});

scene('a listener that throws keeps no other from it', async (world) => {
    const { socket, presence } = await enter(world);
    const notified = [];
    presence.onJoin(() => { throw new Error('mine'); });
    presence.onJoin(({ who }) => notified.push(who));
    state(socket, { ann: tab('1'), bob: tab('2') });
    await world.flush();
    assert.deepEqual(notified, ['ann', 'bob']);
    assert.equal(world.reported.length, 2);
});

scene('leave() during leaves reports no joins afterwards', async (world) => {
    const { socket, presence } = await enter(world);
    state(socket, { ann: tab('1') });
    await world.flush();
    const present = new Set(['ann']);
    presence.onLeave(({ who }) => { present.delete(who); presence.leave(); });
    presence.onJoin(({ who }) => present.add(who));
    diff(socket, { bob: tab('2') }, { ann: tab('1') }, { count: 1 });
    await world.flush();
    assert.deepEqual([...present], [...presence.keys()]);
});

scene('updates of rooms that were not entered are ignored', async (world) => {
    const { live, socket } = await world.open({ filters: { board_id: 'b1' } });
    const types = [];
    live.on('*', ({ type }) => types.push(type));
    state(socket, { ann: tab('1') });
    await world.flush();
    assert.deepEqual(types, ['presence.state']);
});

scene('sixty rooms do not put the page out when it comes back', async (world) => {
    // As the server counts: 40 at once and 20 a second; each room with presence counts for two. A client that has 40 more
    // dropped is closed with 3013.
    const live = world.connect({ filters: {} });
    for (let n = 0; n < 70; n++) live.presence({ board_id: `b${n}` });
    let left = 40, seen = 0, dropped = 0, notified = -Infinity;
    world.onSocket = (socket) => {
        left = 40;
        dropped = 0;
        seen = world.clock.time;
        const held = [];
        socket.onSent = ({ type, data, ref }) => {
            left = Math.min(40, left + (world.clock.time - seen) / 50);
            seen = world.clock.time;
            if (left < 1) {
                dropped += 1;
                if (dropped > 40) socket.emit('disconnect', { data: { reconnect: true, retry_after_ms: 1000 } }).break(3013);
                else if (world.clock.time - notified >= 1000) {
                    notified = world.clock.time;
                    socket.emit('error', { data: { code: 'RATE_LIMITED', message: 'x' } });
                }
                return;
            }
            left -= type === 'subscribe' ? 2 : 1;
            if (type === 'subscribe') {
                held.push(...data.board_id);
                socket.emit('subscribed', { ref, id: 'e.0', data: { board_id: held } });
            } else {
                socket.emit('pong', { ref });
            }
        };
        world.task(() => socket.greet(0));
    };
    await world.pass(10_000);
    assert.ok(world.sockets.length <= 2, `disconnected ${world.sockets.length - 1} times in ten seconds`);
});

scene('a refusal that comes after one has left and entered again is not for the new one', async (world) => {
    const { live, socket } = await world.open({ filters: {} });
    const first = live.presence({ board_id: 'b1' }, { too: 'large' });
    first.leave();
    const second = live.presence({ board_id: 'b1' }, { n: 1 });
    await world.flush();
    socket.emit('error', { ref: socket.of('subscribe')[0].ref, data: { code: 'INVALID_MESSAGE', message: 'Too large.' } });
    await world.flush();
    socket.confirm('unsubscribe', {}, 0);
    await world.flush();
    const enter = socket.of('subscribe').at(-1);
    assert.deepEqual(enter.data, { board_id: ['b1'], presence: { n: 1 } });
    socket.emit('subscribed', { ref: enter.ref, id: 'e.0', data: { board_id: ['b1'] } });
    await world.flush();
    assert.equal(live.presence({ board_id: 'b1' }), second);
});
