// A server that keeps what README promises: rooms, positions, replays, pasts. What it says stands in a row for each connection,
// to be brought bit by bit, or never.

import { CONNECTING, OPEN } from './world.mjs';

export class Server {
    #world;

    constructor(world, { rateLimited = false } = {}) {
        this.#world = world;
        this.epoch = 0;
        this.head = 0;
        this.first = 1;
        this.log = [];
        this.published = 0;
        this.lines = new Map();
        // Whether it has room for the next message of a client.
        this.takes = () => true;
        this.rateLimited = rateLimited;
        world.onSocket = (socket) => {
            const line = { socket, hearing: null, out: [], asked: [], brought: new Set() };
            this.lines.set(socket, line);
            socket.onSent = (message) => line.asked.push(message);
            socket.onGone = () => this.lines.delete(socket);
        };
    }

    id(n = this.head) { return `${this.epoch}.${n}`; }

    get waiting() { return [...this.lines.values()].filter(({ socket }) => socket.readyState === CONNECTING); }
    get open() { return [...this.lines.values()].filter(({ hearing, socket }) => hearing && socket.readyState === OPEN); }

    publish(rooms) {
        const event = { n: ++this.head, epoch: this.epoch, seq: ++this.published, rooms };
        event.text = JSON.stringify({ type: 'task.created', timestamp: 'T', id: this.id(), data: { seq: event.seq } });
        this.log.push(event);
        for (const line of this.open) this.#bring(line, [event]);
        return event;
    }

    #bring(line, events, hearing = line.hearing) {
        const heard = events.filter((event) => !line.brought.has(event) && event.rooms.some((room) => hearing.has(room)));
        for (const event of heard) {
            line.brought.add(event);
            line.out.push(event.text);
        }
        return heard.length;
    }

    // What lies behind an id; undefined when it is out of reach.
    #behind(id) {
        const [epoch, n] = String(id).split('.').map(Number);
        if (epoch !== this.epoch || !(n >= this.first - 1 && n <= this.head)) return undefined;
        return this.log.filter((event) => event.epoch === epoch && event.n > n);
    }

    refuse(line) {
        this.lines.delete(line.socket);
        line.socket.break(1006);
    }

    accept(line) {
        const { params } = line.socket;
        line.hearing = new Set(['b', 'p'].flatMap((key) => params.getAll(key).map((name) => `${key}=${name}`)));
        const since = params.get('since'), missed = since === null ? undefined : this.#behind(since);
        const heard = (missed ?? []).filter(({ rooms }) => rooms.some((room) => line.hearing.has(room)));
        const id = heard.length ? since : this.id();
        const told = since === null ? {} : { recovered: missed !== undefined, replayed: heard.length };
        line.socket.accept();
        line.out.push(JSON.stringify({ type: 'connected', id, data: { id, ...told } }));
        this.#bring(line, heard);
    }

    /** Take one message of a client. */
    take(line) {
        const { type, data, ref } = line.asked.shift();
        const say = (answer, more = {}) => line.out.push(JSON.stringify({ type: answer, ref, id: this.id(), ...more }));
        if (!this.takes()) {
            line.out.push(JSON.stringify({ type: 'error', data: { code: 'RATE_LIMITED', message: 'x' } }));
            return;
        }
        if (type === 'ping') return say('pong', { data: {} });
        const { since, presence, ...named } = data;
        const rooms = Object.entries(named).flatMap(([key, names]) => names.map((name) => `${key}=${name}`));
        const told = {};
        if (type === 'subscribe') {
            if (rooms.some((room) => room.includes('secret'))) {
                line.out.push(JSON.stringify({ type: 'error', ref, data: { code: 'FORBIDDEN', message: 'No.', details: '' } }));
                return;
            }
            if (since !== undefined) {
                const past = this.#behind(since);
                Object.assign(told, { recovered: past !== undefined, replayed: this.#bring(line, past ?? [], new Set(rooms)) });
            }
            for (const room of rooms) line.hearing.add(room);
        } else {
            for (const room of rooms) line.hearing.delete(room);
        }
        say(`${type}d`, { data: { ...this.#held(line), ...told } });
    }

    #held(line) {
        const held = {};
        for (const room of line.hearing) (held[room[0]] ??= []).push(room.slice(2));
        return held;
    }

    revoke(room) {
        for (const line of this.open) {
            if (line.hearing.delete(room)) {
                line.out = line.out.filter((text) => !JSON.parse(text).id?.startsWith('never'));
                line.out.push(JSON.stringify({ type: 'unsubscribed', id: this.id(), data: this.#held(line) }));
            }
        }
    }

    /** Bring some of what waits for a client. */
    bring(line, most) {
        for (const text of line.out.splice(0, most)) line.socket.push(text);
    }

    drop(line) {
        this.lines.delete(line.socket);
        line.socket.break(1006);
    }

    forget() { this.first = this.head + 1; }

    restart() {
        for (const line of this.lines.values()) this.drop(line);
        this.epoch += 1;
        this.head = 0;
        this.first = 1;
    }

    /** Do all that is to be done, at once. */
    settle() {
        for (const line of this.waiting) this.accept(line);
        for (const line of this.open) {
            while (line.asked.length) this.take(line);
            this.bring(line, Infinity);
        }
    }
}
