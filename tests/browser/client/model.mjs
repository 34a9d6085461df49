// A model of the server: rooms, positions and replays. What it sends waits in a queue for each connection, to be delivered bit by
// bit, or never.

import { CONNECTING, OPEN } from './world.mjs';

// Ids are opaque to the client: these end like those of stored events, and one without its mark, or with another, is none.
const mark = (epoch, n) => ((epoch * 7919 + n * 104729) % 0xffffff).toString(16);

export const numbers = (id) => (String(id).match(/\d+/g) ?? []).slice(0, 2).map(Number);

export class Server {
    #world;

    constructor(world, { rateLimited = false } = {}) {
        this.#world = world;
        this.epoch = 0;
        this.head = 0;
        this.first = 1;
        this.log = [];
        this.published = 0;
        this.peers = new Map();
        // Whether it has room for the next message of a client.
        this.takes = () => true;
        this.rateLimited = rateLimited;
        world.onSocket = (socket) => {
            const peer = { socket, held: null, out: [], asked: [], delivered: new Set() };
            this.peers.set(socket, peer);
            socket.onSent = (message) => peer.asked.push(message);
            socket.onGone = () => this.peers.delete(socket);
        };
    }

    id(n = this.head) { return `${this.epoch}.${n}-${mark(this.epoch, n)}`; }

    get waiting() { return [...this.peers.values()].filter(({ socket }) => socket.readyState === CONNECTING); }
    get open() { return [...this.peers.values()].filter(({ held, socket }) => held && socket.readyState === OPEN); }

    publish(rooms) {
        const event = { n: ++this.head, epoch: this.epoch, seq: ++this.published, rooms };
        event.text = JSON.stringify({ type: 'task.created', timestamp: 'T', id: this.id(), data: { seq: event.seq } });
        this.log.push(event);
        for (const peer of this.open) this.#deliver(peer, [event]);
        return event;
    }

    #deliver(peer, events, held = peer.held) {
        const received = events.filter((event) => !peer.delivered.has(event) && event.rooms.some((room) => held.has(room)));
        for (const event of received) {
            peer.delivered.add(event);
            peer.out.push(event.text);
        }
        return received.length;
    }

    // The events after an id; undefined when it is out of reach.
    #after(id) {
        const [epoch, n] = numbers(id);
        if (id !== this.id(n) || epoch !== this.epoch || !(n >= this.first - 1 && n <= this.head)) return undefined;
        return this.log.filter((event) => event.epoch === epoch && event.n > n);
    }

    refuse(peer) {
        this.peers.delete(peer.socket);
        peer.socket.break(1006);
    }

    accept(peer) {
        const { params } = peer.socket;
        peer.held = new Set(['b', 'p'].flatMap((key) => params.getAll(key).map((name) => `${key}=${name}`)));
        const since = params.get('since'), missed = since === null ? undefined : this.#after(since);
        const received = (missed ?? []).filter(({ rooms }) => rooms.some((room) => peer.held.has(room)));
        const id = received.length ? since : this.id();
        const resumed = since === null ? {} : { recovered: missed !== undefined, replayed: received.length };
        peer.socket.accept();
        peer.out.push(JSON.stringify({ type: 'connected', id, data: { id, ...resumed } }));
        this.#deliver(peer, received);
    }

    /** Take one message of a client. */
    take(peer) {
        const { type, data, ref } = peer.asked.shift();
        const reply = (answer, more = {}) => peer.out.push(JSON.stringify({ type: answer, ref, id: this.id(), ...more }));
        if (!this.takes()) {
            peer.out.push(JSON.stringify({ type: 'error', data: { code: 'RATE_LIMITED', message: 'x' } }));
            return;
        }
        if (type === 'ping') return reply('pong', { data: {} });
        const { since, presence, ...named } = data;
        const rooms = Object.entries(named).flatMap(([key, names]) => names.map((name) => `${key}=${name}`));
        const resumed = {};
        if (type === 'subscribe') {
            if (rooms.some((room) => room.includes('secret'))) {
                peer.out.push(JSON.stringify({ type: 'error', ref, data: { code: 'FORBIDDEN', message: 'No.', details: '' } }));
                return;
            }
            if (since !== undefined) {
                const missed = this.#after(since);
                Object.assign(resumed, { recovered: missed !== undefined, replayed: this.#deliver(peer, missed ?? [], new Set(rooms)) });
            }
            for (const room of rooms) peer.held.add(room);
        } else {
            for (const room of rooms) peer.held.delete(room);
        }
        reply(`${type}d`, { data: { ...this.#held(peer), ...resumed } });
    }

    #held(peer) {
        const held = {};
        for (const room of peer.held) (held[room[0]] ??= []).push(room.slice(2));
        return held;
    }

    revoke(room) {
        for (const peer of this.open) {
            if (peer.held.delete(room)) {
                peer.out = peer.out.filter((text) => !JSON.parse(text).id?.startsWith('never'));
                peer.out.push(JSON.stringify({ type: 'unsubscribed', id: this.id(), data: this.#held(peer) }));
            }
        }
    }

    /** Deliver some of the messages that wait for a client. */
    deliver(peer, most) {
        for (const text of peer.out.splice(0, most)) peer.socket.push(text);
    }

    drop(peer) {
        this.peers.delete(peer.socket);
        peer.socket.break(1006);
    }

    forget() { this.first = this.head + 1; }

    restart() {
        for (const peer of this.peers.values()) this.drop(peer);
        this.epoch += 1;
        this.head = 0;
        this.first = 1;
    }

    /** Accept all sockets, answer all requests and deliver all messages. */
    finishAll() {
        for (const peer of this.waiting) this.accept(peer);
        for (const peer of this.open) {
            while (peer.asked.length) this.take(peer);
            this.deliver(peer, Infinity);
        }
    }
}
