// A browser for cartows.js that is made of fakes: its clock, sockets, tab, network and console.
//
// Nothing happens by itself. A fake server's `accept`, `emit` and `break` put tasks into the browser's queue, `flush` runs them,
// each as a task of its own, and `pass` lets time go by. What no test may see is looked for in all of them: see `World.leave`.

import assert from 'node:assert/strict';
import test from 'node:test';

export const { connect, Connection, Presence, RefusedError } = await load(
    process.env.CARTOWS_JS ?? new URL('../../../cartows/static/cartows.js', import.meta.url).href,
);

// The file is a module without a package.json that declares it, which older releases of Node do not load from a path.
async function load(href) {
    try {
        return await import(href);
    } catch (error) {
        if (!(error instanceof SyntaxError)) throw error;
        const { readFile } = await import('node:fs/promises');
        return import(`data:text/javascript,${encodeURIComponent(await readFile(new URL(href), 'utf8'))}`);
    }
}

const realImmediate = setImmediate;
const BEGIN = Date.UTC(2026, 10, 23, 12);
// Beyond this browsers' timers overflow, and fire at once.
const MAX_TIMEOUT = 2 ** 31 - 1;

export const CONNECTING = 0, OPEN = 1, CLOSING = 2, CLOSED = 3;

/** From each state, those that may follow. The same state may follow with another reason or time. */
const LEGAL = {
    connecting: ['connecting', 'open', 'waiting', 'closed'],
    open: ['open', 'waiting', 'closed'],
    waiting: ['waiting', 'connecting', 'closed'],
    closed: ['connecting', 'closed'],
};

class Clock {
    constructor() {
        this.time = 0;
        this.timers = new Map();
        this.last = 0;
    }

    set(fn, wait, args, every) {
        const pause = Number(wait) > 0 ? Number(wait) : 0;
        const period = pause > MAX_TIMEOUT ? 1 : Math.max(1, Math.trunc(pause));
        const id = ++this.last;
        this.timers.set(id, { id, at: this.time + (pause === 0 ? 0 : period), fn, args, every: every ? period : undefined });
        return id;
    }

    next() {
        let found;
        for (const timer of this.timers.values()) {
            if (!found || timer.at < found.at || (timer.at === found.at && timer.id < found.id)) found = timer;
        }
        return found;
    }
}

class Listened extends EventTarget {
    added = [];

    addEventListener(type, fn, ...rest) {
        if (!this.added.some(([own, other]) => own === type && other === fn)) this.added.push([type, fn]);
        super.addEventListener(type, fn, ...rest);
    }

    removeEventListener(type, fn, ...rest) {
        this.added = this.added.filter(([own, other]) => own !== type || other !== fn);
        super.removeEventListener(type, fn, ...rest);
    }
}

export class World {
    #replaced = [];
    #tasks = [];

    constructor({ hidden = false, href = 'https://app.example.com/boards/1' } = {}) {
        const world = this;
        this.clock = new Clock();
        this.sockets = [];
        this.connections = [];
        this.maxLive = 0;
        // What the page's own handlers threw into the browser, what was given to reportError, and the console's lines.
        this.uncaught = [];
        this.reported = [];
        this.console = [];
        this.illegal = [];
        // Requests by HTTP. Without an `answer` there is no network for them.
        this.fetched = [];
        this.answer = () => Promise.reject(new TypeError('Failed to fetch'));
        this.chance = () => 0.5;
        // Whether sockets take what is sent; otherwise it stays in bufferedAmount.
        this.stuck = false;

        this.window = new Listened();
        this.document = new Listened();
        this.document.visibilityState = hidden ? 'hidden' : 'visible';

        class FakeWebSocket {
            static CONNECTING = CONNECTING;
            static OPEN = OPEN;
            static CLOSING = CLOSING;
            static CLOSED = CLOSED;

            constructor(url, protocols = []) {
                if (!/^wss?:/.test(url)) throw new DOMException(`The URL '${url}' is invalid.`, 'SyntaxError');
                const offered = [protocols].flat();
                for (const each of offered) {
                    if (!/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(each)) {
                        throw new DOMException(`The subprotocol '${each}' is invalid.`, 'SyntaxError');
                    }
                }
                this.url = String(url);
                this.protocols = offered;
                this.readyState = CONNECTING;
                this.bufferedAmount = 0;
                this.binaryType = 'blob';
                this.onopen = this.onmessage = this.onclose = this.onerror = null;
                this.sent = [];
                world.sockets.push(this);
                world.maxLive = Math.max(world.maxLive, world.live.length);
                world.onSocket?.(this);
            }

            get params() { return new URL(this.url).searchParams; }

            send(text) {
                if (this.readyState === CONNECTING) throw new DOMException('Still in CONNECTING state.', 'InvalidStateError');
                if (this.readyState !== OPEN || world.stuck) this.bufferedAmount += text.length;
                if (this.readyState !== OPEN) return;
                const message = JSON.parse(text);
                this.sent.push(message);
                this.onSent?.(message);
            }

            close(code, reason) {
                if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
                    throw new DOMException(`The code ${code} is not allowed.`, 'InvalidAccessError');
                }
                if (this.readyState >= CLOSING) return;
                this.closedWith = code;
                this.readyState = CLOSING;
                this.onGone?.();
                this.#ended(code ?? 1005, reason ?? '');
            }

            #ended(code, reason, failed = false) {
                world.task(() => {
                    if (this.readyState === CLOSED) return;
                    this.readyState = CLOSED;
                    if (failed) world.call(() => this.onerror?.({ type: 'error' }));
                    world.call(() => this.onclose?.({ type: 'close', code, reason, wasClean: code !== 1006 }));
                });
            }

            // The server's side ----------------------------------------------------------------------------------------

            accept() {
                world.task(() => {
                    if (this.readyState !== CONNECTING) return;
                    this.readyState = OPEN;
                    world.call(() => this.onopen?.({ type: 'open' }));
                });
                return this;
            }

            /** Send something as it is. */
            push(data) {
                world.task(() => {
                    if (this.readyState === OPEN) world.call(() => this.onmessage?.({ type: 'message', data }));
                });
                return this;
            }

            emit(type, { data, ...rest } = {}) {
                return this.push(JSON.stringify({ type, timestamp: '2026-11-23T12:00:00Z', data, ...rest }));
            }

            event(n, board = 'b1', type = 'task.created') {
                return this.emit(type, { id: `e.${n}`, data: { task_id: `t${n}`, board_id: board, action: 'created' } });
            }

            greet(n = 0, data = {}) {
                this.accept();
                return this.emit('connected', { id: `e.${n}`, data: { client_id: 'c', id: `e.${n}`, ping_interval_ms: 54000, ...data } });
            }

            /** Answer the last message of a type with the rooms now held. */
            confirm(type, data = {}, n) {
                const ref = this.sent.findLast((message) => message.type === type).ref;
                return this.emit(`${type}d`, { ref, id: n === undefined ? undefined : `e.${n}`, data });
            }

            refuse(code, type = 'subscribe') {
                const ref = this.sent.findLast((message) => message.type === type).ref;
                return this.emit('error', { ref, error: 'No.', data: { code, message: 'No.', details: 'd' } });
            }

            break(code = 1006, reason = '') {
                this.#ended(code, reason, code === 1006);
                return this;
            }

            of(type) { return this.sent.filter((message) => message.type === type); }
        }

        const answerer = async (url, options = {}) => {
            const asked = { url: String(url), ...options };
            this.fetched.push(asked);
            const aborted = new Promise((_, reject) => {
                options.signal?.addEventListener('abort', () => reject(new DOMException('Aborted', 'AbortError')));
            });
            return Promise.race([this.answer(asked), aborted]);
        };

        this.#replace(globalThis, {
            WebSocket: FakeWebSocket,
            document: this.document,
            location: new URL(href),
            fetch: answerer,
            reportError: (error) => this.reported.push(error),
            addEventListener: (...args) => this.window.addEventListener(...args),
            removeEventListener: (...args) => this.window.removeEventListener(...args),
            setTimeout: (fn, wait, ...args) => this.clock.set(fn, wait, args, false),
            setInterval: (fn, wait, ...args) => this.clock.set(fn, wait, args, true),
            clearTimeout: (id) => this.clock.timers.delete(id),
            clearInterval: (id) => this.clock.timers.delete(id),
        });
        this.#replace(performance, { now: () => this.clock.time });
        this.#replace(Date, { now: () => BEGIN + this.clock.time });
        this.#replace(Math, { random: () => this.chance() });
        this.#replace(console, {
            warn: (...args) => this.console.push(args.join(' ')),
            error: (...args) => this.console.push(args.join(' ')),
        });
    }

    #replace(object, values) {
        for (const [name, value] of Object.entries(values)) {
            const before = Object.getOwnPropertyDescriptor(object, name);
            Object.defineProperty(object, name, { configurable: true, writable: true, enumerable: true, value });
            this.#replaced.push(() => {
                if (before) Object.defineProperty(object, name, before); else delete object[name];
            });
        }
    }

    restore() {
        for (const undo of this.#replaced.reverse()) undo();
    }

    get live() { return this.sockets.filter((socket) => socket.readyState <= OPEN); }
    get socket() { return this.sockets.at(-1); }
    get timers() { return this.clock.timers.size; }
    get listeners() { return [...this.window.added, ...this.document.added].map(([type]) => type); }

    task(fn) { this.#tasks.push(fn); }

    // A handler that throws does not end the task, as in a browser.
    call(fn) {
        try {
            fn();
        } catch (error) {
            this.uncaught.push(error);
        }
    }

    /** Run all that is due now, and what follows from it. */
    async flush() {
        let quiet = 0;
        while (quiet < 2) {
            await new Promise((resolve) => realImmediate(resolve));
            const task = this.#tasks.shift();
            if (task) task();
            quiet = task ? 0 : quiet + 1;
        }
    }

    /** Let time go by. */
    async pass(ms) {
        const until = this.clock.time + ms;
        await this.flush();
        for (let timer = this.clock.next(); timer && timer.at <= until; timer = this.clock.next()) {
            this.clock.time = Math.max(this.clock.time, timer.at);
            if (timer.every === undefined) this.clock.timers.delete(timer.id); else timer.at += timer.every;
            this.call(() => timer.fn(...timer.args));
            await this.flush();
        }
        this.clock.time = until;
    }

    /** Connect, and watch over it. */
    connect(options = {}, url = '/ws') {
        const live = connect(url, options);
        const states = [];
        live.onState((status) => {
            const before = states.at(-1);
            if (before !== undefined && !LEGAL[before].includes(status.state)) this.illegal.push(`${before} -> ${status.state}`);
            if (status.state !== live.state) this.illegal.push(`notified of ${status.state} while ${live.state}`);
            states.push(status.state);
        });
        this.connections.push(live);
        return live;
    }

    /** Connect, and be accepted. */
    async open(options = {}, { url = '/ws', n = 0, ...data } = {}) {
        const live = this.connect(options, url);
        await this.flush();
        const { socket } = this;
        socket.greet(n, data);
        await this.flush();
        assert.equal(live.state, 'open');
        return { live, socket };
    }

    /** Break the connection, let the wait go by, and be accepted again. */
    async comeBack(n, data = {}) {
        this.socket.break();
        await this.flush();
        const before = this.sockets.length;
        for (let waited = 0; this.sockets.length === before && waited < 40; waited++) await this.pass(500);
        assert.equal(this.sockets.length, before + 1, 'it did not come back');
        this.socket.greet(n, { recovered: true, replayed: 0, ...data });
        await this.flush();
        return this.socket;
    }

    set visible(yes) {
        this.document.visibilityState = yes ? 'visible' : 'hidden';
        this.task(() => this.document.dispatchEvent(new Event('visibilitychange')));
    }

    /** Something happens to the window: `online`, `offline`, `pagehide`, `pageshow`. */
    happens(type, more = {}) {
        this.task(() => this.window.dispatchEvent(Object.assign(new Event(type), more)));
    }

    /** Be answered by HTTP so. */
    answers(status, body = {}, headers = {}) {
        this.answer = async () => new Response(JSON.stringify(body), { status, headers });
    }

    /** What holds at the end of every test. */
    async leave() {
        for (const live of this.connections) live.close();
        assert.equal(this.live.length, 0, 'a socket is left after close()');
        assert.equal(this.timers, 0, 'a timer is left after close()');
        assert.deepEqual(this.listeners, [], 'a listener is left after close()');
        const tried = this.sockets.length, asked = this.fetched.length;
        await this.pass(120_000);
        assert.equal(this.timers, 0, 'a timer came after close()');
        assert.equal(this.sockets.length, tried, 'it connected after close()');
        assert.equal(this.fetched.length, asked, 'it sent an HTTP request after close()');
        for (const live of this.connections) assert.equal(live.state, 'closed');
        assert.deepEqual(this.illegal, [], 'a state that may not follow');
        assert.deepEqual(this.uncaught, [], 'a handler of cartows.js threw');
        if (this.connections.length === 1) assert.ok(this.maxLive <= 1, `${this.maxLive} sockets at once`);
    }
}

/** A test in a world of its own. */
export function scene(name, ...rest) {
    const fn = rest.pop();
    const { hidden, href, ...options } = rest[0] ?? {};
    test(name, { timeout: 20_000, ...options }, async (t) => {
        const world = new World({ hidden, href });
        try {
            await fn(world, t);
            await world.leave();
        } finally {
            world.restore();
        }
    });
}

/** A list, and the function that adds to it. */
export function recorder(pick = (each) => each) {
    const list = [];
    return [list, (each) => { list.push(pick(each)); }];
}

/** A promise, and its resolve and reject. */
export function deferred() {
    const own = {};
    own.promise = new Promise((resolve, reject) => Object.assign(own, { resolve, reject }));
    return own;
}

/** How a promise stands: 'pending', 'resolved' or the error. */
export function outcome(promise) {
    const own = { now: 'pending' };
    promise.then(() => { own.now = 'resolved'; }, (error) => { own.now = error; });
    return own;
}

/** Numbers from 0 to 1 that are the same for a seed (mulberry32). */
export function seeded(seed) {
    let state = seed >>> 0;
    return () => {
        state = (state + 0x6D2B79F5) >>> 0;
        let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
        mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
        return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
}

export const ids = ({ id }) => Number(id?.split('.')[1]);
