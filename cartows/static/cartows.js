// The browser's side of cartows: one connection that stays, and is told plainly why when it cannot.
//
//     import { connect } from '/ws/cartows.js';
//     const live = connect('/ws', { filters: { board_id: 'b1' }, load: () => fetchAndShow() });
//     live.on('task.created', (message) => add(message.data.task));
//
// No dependencies; the types, and what each thing does, are in cartows.d.ts beside this file.

const DEFAULTS = { pingInterval: 25_000, pongWait: 10_000, connectWait: 15_000, backoff: [500, 20_000], sendQueue: 100 };

// A connection that lasted so long has worked: the next wait is a short one again.
const STEADY = 5_000;

// What a URL may have for rooms; servers and proxies refuse those over 4 or 8 KiB. The other rooms follow in a message.
const QUERY_ROOM = 2_000;

// Events that are held while the page loads; with more of them it is loaded once more instead.
const MOST_HELD = 5_000;

// Bytes that the browser may hold for a socket which takes none, before messages wait here, where they are counted.
const MOST_BUFFERED = 1 << 20;

// How many messages are sent by themselves at once, and then each second. Servers take 40 and 20.
const BURST = 20;
const RATE = 10;

// Milliseconds after which a question is asked again that a server had no rate left for.
const RESEND = 1_000;

// How the longest wait between two tries grows with each of them: slowly at first, so that a server that was away for some
// seconds is found within five.
const GROWTH = 1.5;

// The most milliseconds that a browser's timer takes.
const LONGEST = 2 ** 31 - 1;

// A try that has lasted so long, in milliseconds, may have been begun without a network.
const HANGING = 1_000;

const EVENTS = new Set([
    'task.created', 'task.updated', 'task.deleted', 'project.created', 'project.updated', 'board.updated',
]);
const CONTROL = new Set([
    'connected', 'disconnect', 'pong', 'error', 'subscribed', 'unsubscribed', 'auth.refreshed', 'degraded', 'restored',
    'presence.state', 'presence.diff',
]);

// What to come back for would only be refused again (README: close codes). 1000 is a server that has said goodbye for good.
const FINAL = new Set([1000, 1002, 1007, 1008, 1009]);
const isFinal = (code) => FINAL.has(code) || (code >= 3500 && code <= 3999) || (code >= 4500 && code <= 4999);
const EXPIRED = 3005;

// Why a page loads because of events that will not come.
const LOST = new Set(['history', 'restored', 'incomplete']);

const now = () => performance.now();
const hidden = () => globalThis.document?.visibilityState === 'hidden';

export function connect(url, options = {}) {
    return new Connection(url, options);
}

export class RefusedError extends Error {
    constructor({ code = '', message = 'The server refused', details = '' } = {}) {
        super(details ? `${message} (${details})` : message);
        this.name = 'RefusedError';
        this.code = code;
        this.details = details;
    }
}

// --- Presence ---------------------------------------------------------------------------------------------------------

// A Map, not an object: an identity may be called "__proto__".
let takePresence, leavePresence, endPresence;

export class Presence {
    static {
        takePresence = (presence, type, data) => presence.#take(type, data);
        leavePresence = (presence) => presence.#left();
        endPresence = (presence) => presence.#end();
    }

    #people = new Map();
    // Those of whom it was told that they are here; more than are known while a room is too large to name them.
    #told = new Map();
    #count = 0;
    #complete = false;
    #takes = 0;
    #joins = new Set();
    #leaves = new Set();
    #changes = new Set();
    #update;
    #leave;

    constructor(update, leave) {
        this.#update = update;
        this.#leave = leave;
    }

    get count() { return this.#count; }
    get complete() { return this.#complete; }
    get size() { return this.#people.size; }
    get(who) { return this.#people.get(who); }
    has(who) { return this.#people.has(who); }
    keys() { return this.#people.keys(); }
    values() { return this.#people.values(); }
    entries() { return this.#people.entries(); }
    forEach(fn) { this.#people.forEach((entries, who) => fn(entries, who, this)); }
    [Symbol.iterator]() { return this.#people.entries(); }
    get [Symbol.toStringTag]() { return 'Presence'; }

    onJoin(fn) { return adding(this.#joins, fn); }
    onLeave(fn) { return adding(this.#leaves, fn); }
    onChange(fn) { return adding(this.#changes, fn); }
    update(meta) { this.#update(meta); }
    leave() { this.#leave(); }

    // `data` is that of presence.state or presence.diff.
    #take(type, { count, present, joins, leaves }) {
        const mine = this.#takes += 1;
        this.#count = count;
        // In a very large room only the number is told.
        this.#complete = type === 'presence.state' ? present !== undefined : joins !== undefined || leaves !== undefined;
        if (!this.#complete) {
            this.#people = new Map();
        } else if (type === 'presence.state') {
            this.#people = peopleIn(present);
        } else {
            const after = new Map(this.#people);
            for (const [who, gone] of peopleIn(leaves)) without(after, who, gone);
            for (const [who, come] of peopleIn(joins)) {
                without(after, who, come);  // one that is known shows something else now
                after.set(who, [...(after.get(who) ?? []), ...come]);
            }
            this.#people = after;
        }
        if (this.#complete) {
            const before = this.#told;
            this.#told = this.#people;
            for (const [listeners, news] of changes(before, this.#people, this.#leaves, this.#joins)) {
                tell(listeners, news);
                if (mine !== this.#takes) return;  // left by who was told
            }
        }
        tell(this.#changes, this);
    }

    // Nobody has gone: it is this page that does not see them any more.
    #left() {
        this.#takes += 1;
        this.#people = this.#told = new Map();
        this.#count = 0;
        this.#complete = false;
        tell(this.#changes, this);
    }

    #end() {
        this.#takes += 1;
        for (const listeners of [this.#joins, this.#leaves, this.#changes]) listeners.clear();
    }
}

// Who has gone and who has come between two maps of people, each with those who are to be told.
function* changes(before, after, leaves, joins) {
    for (const [who, entries] of before) {
        const left = new Set((after.get(who) ?? []).map((entry) => entry.ref));
        const gone = entries.filter((entry) => !left.has(entry.ref));
        for (const [n, entry] of gone.entries()) yield [leaves, { who, ...entry, last: !left.size && n === gone.length - 1 }];
    }
    for (const [who, entries] of after) {
        const known = new Set((before.get(who) ?? []).map((entry) => entry.ref));
        const come = entries.filter((entry) => !known.has(entry.ref));
        for (const [n, entry] of come.entries()) yield [joins, { who, ...entry, first: !before.has(who) && n === 0 }];
    }
}

function peopleIn(found) {
    return new Map(Object.entries(found ?? {}).filter(([, entries]) => Array.isArray(entries)));
}

function without(people, who, entries) {
    const refs = new Set(entries.map((entry) => entry.ref));
    const left = (people.get(who) ?? []).filter((entry) => !refs.has(entry.ref));
    if (left.length) people.set(who, left); else people.delete(who);
}

// --- The connection ---------------------------------------------------------------------------------------------------

export class Connection {
    #url;
    #options;
    #ended = false;
    #listeners = new Map();
    #reloadListeners = new Set();
    #stateListeners = new Set();
    #status = { state: 'connecting' };
    // Changes of state that are to be told yet: one that comes about while another is told waits for it.
    #untold = [];

    #socket = null;
    // Counts the tries, so that what belongs to an earlier one is known as such.
    #try = 0;
    #tryAt = 0;
    #token;
    #usedToken;
    #opened = false;
    #openedAt = 0;
    #failures = 0;
    #notBefore = 0;
    #advice = null;
    #timer = null;
    // The HTTP request that asks why the last try failed, and what was said of it last.
    #question = null;
    #said;

    #heard = 0;
    #pinged = null;
    #watcher = null;

    #position;
    // What is heard, once the server has agreed: null for everything.
    #rooms;
    // What the server is asked for, in order; the first may have been sent, and is answered before the next one is.
    #asked = [];
    #ref = 0;
    #resender = null;
    // The ids that came while a past was asked for; and the last that did not move the position.
    #seen = new Set();
    #passed = null;
    // How many events the server has said it replays, less those that have come.
    #replaying = 0;
    #presences = new Map();

    #waiting = [];
    // How many messages may be sent by themselves now, and when that was so.
    #allowance = { count: BURST, at: 0 };
    #pumper = null;

    // Why the page is being loaded, and why it has to be once more; after a final close, why it is still to be.
    #loading = null;
    #loadAgain = null;
    #loadOwed = null;
    #loadTimer = null;
    #loadWaiters = [];
    #loads = 0;
    #shown = false;
    #held = [];

    constructor(url, options) {
        for (const name of ['load', 'onReload', 'onState']) {
            if (options[name] !== undefined && typeof options[name] !== 'function') {
                throw new TypeError(`connect: ${name} must be a function, not ${typeof options[name]}`);
            }
        }
        this.#options = { ...DEFAULTS, ...defined(options), token: options.token ?? undefined };
        for (const name of ['pingInterval', 'pongWait', 'connectWait']) {
            this.#options[name] = Math.min(this.#options[name], LONGEST);
        }
        this.#url = socketUrl(url);
        this.#position = options.since ?? null;
        this.#rooms = options.filters == null ? null : roomsOf(options.filters);
        if (options.onReload) this.#reloadListeners.add(options.onReload);
        globalThis.addEventListener?.('online', this.#online);
        globalThis.addEventListener?.('offline', this.#doubt);
        globalThis.addEventListener?.('pagehide', this.#freeze);
        globalThis.addEventListener?.('pageshow', this.#thaw);
        globalThis.document?.addEventListener('visibilitychange', this.#wake);
        // Once the page has added its listeners.
        queueMicrotask(() => {
            if (this.#ended) return;
            if (options.onState) this.onState(options.onState);
            if (!this.#try) this.#connect();
        });
    }

    get state() { return this.#status.state; }
    get status() { return this.#status; }
    get position() { return this.#position; }
    get filters() {
        return this.#rooms && Object.fromEntries([...this.#rooms].map(([key, names]) => [key, [...names]]));
    }

    on(type, fn) {
        if (!this.#listeners.has(type)) this.#listeners.set(type, new Set());
        return adding(this.#listeners.get(type), fn);
    }

    onState(fn) {
        const told = this.#status;
        const end = adding(this.#stateListeners, fn);
        tell([fn], told);
        return end;
    }

    onReload(fn) {
        return adding(this.#reloadListeners, fn);
    }

    reload() {
        return quiet(new Promise((resolve, reject) => {
            if (this.#status.state === 'closed') {
                reject(closedError(this.#status));
            } else {
                this.#loadWaiters.push({ resolve, reject });
                this.#reload('asked');
            }
        }));
    }

    subscribe(rooms, { since } = {}) {
        return this.#ask({ type: 'subscribe', rooms: named(rooms), since: since ?? undefined });
    }

    unsubscribe(rooms) {
        const left = named(rooms);
        for (const [key, name] of left) this.#forget(roomKey(key, name));
        // The next connection is not to begin with them.
        if (!this.#opened) this.#removeRooms(left);
        return this.#ask({ type: 'unsubscribe', rooms: left });
    }

    presence(room, meta) {
        const rooms = named(room);
        if (rooms.length !== 1) throw new TypeError("presence: name one room, e.g. {board_id: 'b1'}");
        const id = roomKey(...rooms[0]);
        let found = this.#presences.get(id);
        if (!found) {
            const isHere = () => this.#presences.get(id) === found;
            found = { rooms, meta: meta ?? {}, shown: undefined, asked: null };
            found.presence = new Presence(
                (newMeta) => { if (isHere()) this.#show(found, newMeta ?? {}); },
                () => { if (isHere()) this.unsubscribe(room); },
            );
            this.#presences.set(id, found);
            this.#show(found, found.meta);
        } else if (meta != null) {
            this.#show(found, meta);
        }
        return found.presence;
    }

    send(type, data) {
        if (this.#status.state === 'closed') return false;
        const text = JSON.stringify({ type, data });
        // Nothing overtakes a question, or a page that sends without end would never get one out.
        if (!this.#waiting.length && !this.#hasQuestion() && this.#canSend()) {
            this.#spend(1);
            this.#socket.send(text);
            return true;
        }
        if (this.#waiting.length >= this.#options.sendQueue) return false;
        this.#waiting.push(text);
        this.#pump();
        return true;
    }

    retry() {
        if (!this.#ended && (this.#status.state === 'waiting' || this.#status.state === 'closed')) this.#connect();
    }

    close() {
        if (this.#ended) return;
        this.#ended = true;
        globalThis.removeEventListener?.('online', this.#online);
        globalThis.removeEventListener?.('offline', this.#doubt);
        globalThis.removeEventListener?.('pagehide', this.#freeze);
        globalThis.removeEventListener?.('pageshow', this.#thaw);
        globalThis.document?.removeEventListener('visibilitychange', this.#wake);
        this.#listeners.clear();
        this.#reloadListeners.clear();
        for (const { presence } of this.#presences.values()) endPresence(presence);
        this.#presences.clear();
        if (this.#status.state !== 'closed') this.#end({ code: 1000, reason: 'closed by the page' });
        // They are told of this last one; where another is being told just now, by who tells it.
        if (!this.#untold.length) this.#stateListeners.clear();
    }

    // Connecting -------------------------------------------------------------------------------------------------------

    async #connect() {
        if (this.#ended) return;
        const mine = this.#drop();
        this.#tryAt = now();
        this.#failures += 1;
        this.#usedToken = undefined;
        this.#set({ ...this.#status, state: 'connecting', retryAt: undefined });
        if (mine !== this.#try) return;  // closed by who was told

        this.#timer = setTimeout(() => this.#lost(undefined, 'The server did not answer in time.'), this.#options.connectWait);
        const protocols = [];
        if (this.#options.token !== undefined) {
            let token;
            try {
                token = await this.#freshToken();
            } catch (error) {
                if (mine === this.#try) this.#lost(undefined, `The page's token function failed: ${error?.message ?? error}`);
                return;
            }
            if (mine !== this.#try) return;
            this.#token = this.#usedToken = token;
            protocols.push('cartows', `bearer.${token}`);
        }

        const { url, rest } = this.#query();
        let socket;
        try {
            socket = new WebSocket(url, protocols);
        } catch (error) {
            const hint = protocols.length ? '; a token may have no space, comma or the like' : '';
            this.#end({ reason: `${url} cannot be connected to: ${error.message}${hint}` });
            return;
        }
        this.#socket = socket;
        socket.onmessage = (event) => {
            if (mine === this.#try) this.#receive(event.data, rest);
        };
        socket.onclose = (event) => {
            if (mine === this.#try) this.#lost(event.code, event.reason);
        };
        socket.onerror = () => {};  // a close follows, which says more
    }

    async #freshToken() {
        const { token } = this.#options;
        if (typeof token !== 'function') return token;
        if (this.#token !== undefined) return this.#token;
        const found = await token();
        if (typeof found !== 'string' || !found) throw new Error(`it returned ${found === '' ? 'nothing' : typeof found}`);
        return found;
    }

    // Returns the URL of the next try, and the rooms that it has no space for.
    #query() {
        const url = new URL(this.#url);
        const rest = [];
        let length = 0, some = false;
        for (const [key, names] of this.#rooms ?? []) {
            for (const name of names) {
                const size = new URLSearchParams([[key, name]]).toString().length + 1;
                if (length + size > QUERY_ROOM) {
                    rest.push([key, name]);
                } else {
                    length += size;
                    some = true;
                    url.searchParams.append(key, name);
                }
            }
        }
        // Without a room it would hear everything.
        if (this.#rooms && !some) url.searchParams.set('rooms', 'none');
        if (this.#position !== null) url.searchParams.set('since', this.#position);
        return { url: url.href, rest };
    }

    // `position` is the one behind which the other rooms are asked for.
    #open(rest, position) {
        clearTimeout(this.#timer);
        this.#opened = true;
        this.#openedAt = now();
        this.#allowance = { count: BURST, at: now() };
        this.#watch();
        if (rest.length) {
            const mine = this.#try;
            this.#ask({ type: 'subscribe', rooms: rest, since: position ?? undefined, own: true }).catch((error) => {
                if (!(error instanceof RefusedError) || mine !== this.#try) return;
                // The app has failed for once, and has not said no.
                if (error.code === 'INTERNAL') return void this.#lost(undefined, error.message);
                this.#removeRooms(rest);
                console.error(`cartows: some rooms are not heard any more: ${error.message}`);
            });
        }
        for (const entered of this.#presences.values()) this.#show(entered, entered.meta);
        this.#set({ state: 'open' });
        this.#pump();
    }

    #lost(code, reason = '') {
        const advice = this.#advice;
        const opened = this.#opened;
        if (opened && now() - this.#openedAt >= STEADY) this.#failures = 0;
        const mine = this.#drop();
        const otherwise = opened ? 'The connection broke.' : 'The server cannot be reached.';
        const why = { code, reason: reason || advice?.reason || otherwise };
        const { token } = this.#options;
        // A token that is a text will not be another one.
        const isStale = code === EXPIRED && token !== undefined && typeof token !== 'function';
        const isOver = isStale || (code !== EXPIRED && (isFinal(code) || advice?.reconnect === false));
        if (isOver) {
            this.#end(why);
            return;
        }
        if (!opened || code === EXPIRED) {
            // It may be the token that was not accepted: a browser does not say.
            this.#token = undefined;
        }
        // Whoever cannot be told of changes can still be shown something.
        if (!opened && this.#position === null && !this.#shown) this.#reload('first');
        this.#wait(why, advice?.retry_after_ms);
        if (mine === this.#try && !opened && (this.#failures <= 2 || this.#failures % 5 === 0)) this.#explain();
    }

    #wait(why, retryAfter) {
        const asked = Number.isFinite(retryAfter) && retryAfter > 0 ? Math.min(retryAfter, LONGEST) : 0;
        const [least, most] = this.#options.backoff;
        const ceiling = Math.min(most, 2 * least * GROWTH ** Math.min(this.#failures, 100));
        // All of it by chance: those who were dropped together do not come back together.
        const pause = asked || least + Math.random() * Math.max(0, ceiling - least);
        this.#notBefore = now() + asked;
        this.#waitUntil(why, now() + pause);
    }

    #waitUntil(why, at) {
        clearTimeout(this.#timer);
        const pause = Math.max(0, at - now());
        this.#timer = setTimeout(() => {
            if (hidden()) this.#set({ ...this.#status, retryAt: null }); else this.#connect();
        }, pause);
        this.#set({ ...why, state: 'waiting', retryAt: hidden() ? null : Date.now() + pause });
    }

    // Somebody looks at the page again.
    #wake = () => {
        if (hidden()) return;
        if (this.#status.state !== 'waiting') {
            this.#doubt();
        } else if (now() >= this.#notBefore) {
            this.#connect();
        } else {
            const { code, reason } = this.#status;
            this.#waitUntil({ code, reason }, this.#notBefore);
        }
    };

    // There is a network again: a try that was begun without one may hang for long.
    #online = () => {
        const hangs = this.#status.state === 'connecting' && now() - this.#tryAt > HANGING;
        if (hangs && !hidden()) this.#connect(); else this.#wake();
    };

    // The network may have changed beneath the connection: ask now instead of when it is time.
    #doubt = () => {
        if (this.#status.state === 'open' && this.#pinged === null) this.#ping();
    };

    // A page that the browser keeps for its back button may hold no socket.
    #freeze = (event) => {
        if (!event.persisted || this.#status.state === 'closed') return;
        const waits = this.#status.state === 'waiting';
        const again = waits ? this.#status : { reason: 'The page was left.' };
        if (!waits) this.#notBefore = 0;
        this.#drop();
        this.#failures = 0;
        this.#set({ ...again, state: 'waiting', retryAt: null });
    };

    #thaw = (event) => {
        if (event.persisted) this.#wake();
    };

    // A browser does not tell a page why it was refused; the same URL asked for by HTTP does.
    async #explain() {
        const mine = this.#try;
        const url = new URL(this.#query().url);
        url.protocol = url.protocol === 'wss:' ? 'https:' : 'http:';
        if (url.origin !== globalThis.location?.origin || typeof fetch !== 'function') return;
        const headers = { Accept: 'application/json', 'X-Cartows-Explain': '1' };
        if (this.#options.token !== undefined) {
            // One who was asked for it and had none has not been refused.
            if (this.#usedToken === undefined) return;
            headers.Authorization = `Bearer ${this.#usedToken}`;
        }
        this.#question = new AbortController();
        let response, body;
        try {
            response = await fetch(url, { headers, cache: 'no-store', redirect: 'manual', signal: this.#question.signal });
            body = await response.json();
        } catch {
            if (!response) return;
        }
        if (mine !== this.#try || this.#status.state !== 'waiting') return;
        const { status } = response;
        const said = typeof body?.message === 'string' ? body.message : '';
        if (response.type === 'opaqueredirect') {
            this.#explained({ reason: 'The app redirects instead of connecting: is a login missing?' });
        } else if (status === 403 || status === 501 || (status === 401 && typeof this.#options.token !== 'function')) {
            this.#end({ code: status, reason: said || `The server refused with ${status}.` });
        } else if (status === 401) {
            this.#explained({ code: status, reason: said || 'The token was not accepted.' });
        } else if (body?.code === 'NOT_A_WEBSOCKET_REQUEST') {
            // Once may be a server that has just come up.
            if (this.#failures > 1) {
                this.#explained({
                    reason: 'The server answers, but no WebSocket comes through: a proxy must pass Upgrade and Connection on.',
                });
            }
        } else {
            const why = { code: status, reason: said || `The server answered ${status} at ${url.pathname}.` };
            const seconds = Number(response.headers.get('Retry-After'));
            // Not all of them in that very second.
            if (seconds > 0) this.#wait(why, seconds * 1000 * (1 + Math.random() / 2)); else this.#explained(why);
        }
    }

    #explained(why) {
        if (why.reason !== this.#said) console.warn(`cartows: cannot connect: ${why.code ?? ''} ${why.reason}`);
        this.#said = why.reason;
        this.#set({ ...this.#status, ...why });
    }

    // Lets go of the socket, whatever state it is in, and of what belongs to it. Returns the number of the try that follows.
    #drop(code) {
        for (const timer of [this.#timer, this.#watcher, this.#pumper, this.#resender]) clearTimeout(timer);
        this.#question?.abort();
        this.#pinged = null;
        this.#advice = null;
        this.#opened = false;
        this.#replaying = 0;
        this.#passed = null;
        for (const entered of this.#presences.values()) entered.shown = undefined;
        // What it was asked is known by the next query, or asked again.
        this.#asked = this.#asked.filter((ask) => !ask.own);
        for (const ask of this.#asked) {
            ask.sent = false;
            if (ask.type === 'unsubscribe') this.#removeRooms(ask.rooms);
        }
        const socket = this.#socket;
        this.#socket = null;
        if (socket) {
            socket.onmessage = socket.onclose = socket.onerror = null;
            socket.close(code);
        }
        return this.#try += 1;
    }

    #end(why) {
        this.#drop(1000);
        clearTimeout(this.#loadTimer);
        this.#loads += 1;
        // Should the page try again, it still is to be loaded.
        this.#loadOwed = stronger(this.#loadOwed, stronger(this.#loading, this.#loadAgain));
        this.#loading = this.#loadAgain = null;
        this.#waiting.length = this.#held.length = 0;
        for (const { reject } of [...this.#loadWaiters.splice(0), ...this.#asked.splice(0)]) reject(closedError(why));
        if (why.code !== 1000) console.warn(`cartows: closed for good: ${why.code ?? ''} ${why.reason}`);
        this.#set({ ...why, state: 'closed' });
    }

    #set(status) {
        const before = this.#status;
        this.#status = defined(status);
        if (['state', 'code', 'reason', 'retryAt'].every((name) => before[name] === this.#status[name])) return;
        this.#untold.push(this.#status);
        if (this.#untold.length > 1) return;  // told by who tells the one before
        while (this.#untold.length) {
            tell(this.#stateListeners, this.#untold[0]);
            this.#untold.shift();
        }
        if (this.#ended) this.#stateListeners.clear();
    }

    // A sign of life ---------------------------------------------------------------------------------------------------

    // Pages do not see a WebSocket's own pings, so a server that has gone silent looks like one that has nothing to say.
    #watch() {
        clearTimeout(this.#watcher);
        const { pingInterval, pongWait } = this.#options;
        const due = this.#pinged === null ? this.#heard + pingInterval : this.#pinged + pongWait;
        this.#watcher = setTimeout(() => {
            if (this.#pinged !== null) this.#lost(undefined, 'The server is silent.');
            else if (now() - this.#heard >= pingInterval) this.#ping();
            else this.#watch();
        }, Math.max(0, due - now()));
    }

    #ping() {
        this.#pinged = now();
        // One that is closing already says so soon, or is given up.
        if (this.#socket.readyState === 1) this.#socket.send(JSON.stringify({ type: 'ping', ref: 'ping' }));
        this.#watch();
    }

    // Receiving --------------------------------------------------------------------------------------------------------

    #receive(text, rest) {
        this.#heard = now();
        if (this.#pinged !== null) {
            this.#pinged = null;
            this.#watch();
        }
        let message;
        try {
            message = JSON.parse(text);
        } catch {
            // As of what is no message, below.
        }
        if (typeof message?.type !== 'string') {
            console.error('cartows: the server sent something that is no message of its protocol');
            return;
        }
        const { type, id, data } = message;
        if (!this.#opened && type !== 'disconnect') {
            this.#begin(message, rest);
        } else if (id !== undefined) {
            const isNews = this.#move(type, id);
            if (this.#replaying && !CONTROL.has(type)) this.#replayed(this.#replaying - 1);
            if (!isNews) return;
        }
        switch (type) {
            case 'pong':
                // In the place of what was lost stands one that nobody has asked for.
                if (data?.incomplete && message.ref === undefined) this.#reload('incomplete');
                break;
            case 'restored':
                if (data?.recovered === false) this.#reload('restored');
                break;
            case 'disconnect':
                this.#advice = data;
                break;
            case 'subscribed':
            case 'unsubscribed':
                this.#answered(message);
                break;
            case 'presence.state':
            case 'presence.diff': {
                const found = this.#presences.get(roomKey(data?.key, data?.value));
                if (found) takePresence(found.presence, type, data);
                break;
            }
            case 'error':
                this.#refused(message);
                break;
        }
        if (this.#loading && (EVENTS.has(type) || (id !== undefined && !CONTROL.has(type)))) this.#hold(message);
        else this.#emit(message);
    }

    // The first message: `connected`, or another one where the server has no greeting.
    #begin({ type, id, data }, rest) {
        const before = this.#position;
        const recovered = type === 'connected' ? data?.recovered : undefined;
        // The past of the other rooms, and of those that are asked for, is still to come: it is not to be skipped.
        if (id !== undefined && !(recovered && rest.length)) this.#position = id;
        this.#replayed(recovered ? data.replayed : 0);
        this.#open(rest, recovered ? before : this.#position);
        const owed = this.#loadOwed;
        this.#loadOwed = null;
        if (recovered === false) this.#reload('history');
        else if (owed !== null) this.#reload(owed);
        else if (before === null) this.#reload('first');
    }

    // Takes note of how many events are still to be replayed: an answer amid them would have a position that lies before some.
    #replayed(left) {
        this.#replaying = left > 0 ? left : 0;
        clearTimeout(this.#resender);
        // They are fewer than was said where the server has taken a room away.
        if (this.#replaying) this.#resender = setTimeout(() => this.#replayed(0), this.#options.pongWait);
        else this.#pump();
    }

    // Takes note of an id; returns false for an event that was here already.
    #move(type, id) {
        const isEvent = !CONTROL.has(type);
        const known = isEvent && this.#seen.has(id);
        // It may come again with a past that is asked for, perhaps on another connection.
        if (isEvent && this.#asked.some((each) => each.since !== undefined)) this.#seen.add(id);
        const [ask] = this.#asked;
        if (ask?.since === undefined || !(ask.sent || ask.own)) this.#position = id;
        else if (isEvent) this.#passed = id;  // a past is brought, which is older than the position
        return !known;
    }

    #emit(message) {
        const listeners = this.#listeners.get(message.type);
        if (listeners) tell(listeners, message);
        const all = message.type === '*' ? undefined : this.#listeners.get('*');
        if (all) tell(all, message);
    }

    // Loading ----------------------------------------------------------------------------------------------------------

    #hold(message) {
        this.#held.push(message);
        if (this.#held.length > MOST_HELD) this.#reload('incomplete');
    }

    #reload(reason) {
        if (this.#status.state === 'closed') return;
        // What was held is older than what was lost, and would put back what is loaded now.
        if (LOST.has(reason)) this.#held.length = 0;
        if (this.#loading === null) this.#load(reason);
        else this.#loadAgain = stronger(this.#loadAgain, reason);
    }

    async #load(reason, failures = 0) {
        const { load } = this.#options;
        const mine = this.#loads += 1;
        this.#shown = true;
        this.#loading = reason;
        // The page's functions run by themselves, not in the midst of what is being done here.
        await null;
        if (mine !== this.#loads) return;  // closed meanwhile
        for (const waiter of this.#loadWaiters) waiter.begun = true;
        const loaders = [...(load ? [load] : []), ...(LOST.has(reason) ? this.#reloadListeners : [])];
        let failed = false;
        // All of them begin at once, and one that fails keeps no other from it.
        for (const { status, reason: error } of await Promise.allSettled(loaders.map(async (fn) => fn(reason)))) {
            if (status === 'rejected') {
                failed = true;
                report(error);
            }
        }
        if (mine !== this.#loads) return;
        if (failed) {
            const again = stronger(reason, this.#loadAgain);
            this.#loadAgain = null;
            const [least, most] = this.#options.backoff;
            const pause = least + Math.random() * Math.min(most, least * 2 ** Math.min(failures, 30));
            this.#loadTimer = setTimeout(() => {
                const next = stronger(again, this.#loadAgain);
                this.#loadAgain = null;
                this.#load(next, failures + 1);
            }, pause);
            return;
        }
        // Also where the page has asked for another load: all this is older than that. Behind what was lost it waits.
        if (!LOST.has(this.#loadAgain)) for (const message of this.#held.splice(0)) this.#emit(message);
        if (mine !== this.#loads) return;  // closed by who was told
        for (const { resolve } of this.#loadWaiters.filter((waiter) => waiter.begun)) resolve();
        this.#loadWaiters = this.#loadWaiters.filter((waiter) => !waiter.begun);
        const again = this.#loadAgain;
        this.#loading = this.#loadAgain = null;
        if (again !== null) this.#load(again);
    }

    // Asking -----------------------------------------------------------------------------------------------------------

    #ask(ask) {
        return quiet(new Promise((resolve, reject) => {
            if (this.#status.state === 'closed') {
                reject(closedError(this.#status));
                return;
            }
            Object.assign(ask, { resolve, reject, ref: String(++this.#ref), sent: false });
            // Those that a connection begins with come first: the position waits for them.
            if (ask.own) this.#asked.unshift(ask); else this.#asked.push(ask);
            this.#pump();
        }));
    }

    #sendAsk(ask) {
        if (!ask.sent && !ask.own) this.#passed = null;
        ask.sent = true;
        ask.again = false;
        const data = { ...grouped(ask.rooms), since: ask.since, presence: ask.meta };
        this.#socket.send(JSON.stringify({ type: ask.type, data, ref: ask.ref }));
        this.#resendIn(this.#options.pongWait);
    }

    // One that is not answered was not handled, for want of rate: a server says that, but not always of which.
    #resendIn(wait) {
        clearTimeout(this.#resender);
        this.#resender = setTimeout(() => {
            const [ask] = this.#asked;
            if (ask?.sent) ask.again = true;
            this.#pump();
        }, wait);
    }

    #answered({ id, data, ref }) {
        const { recovered, replayed, ...rooms } = data ?? {};
        this.#rooms = new Map();
        for (const [key, names] of Object.entries(rooms).filter(([, names]) => Array.isArray(names))) {
            this.#rooms.set(key, new Set(names));
            this.#keepInUrl(key, (name) => names.includes(name));
        }
        const [ask] = this.#asked;
        const settled = ask !== undefined && ask.ref === ref;
        // Those that the query had no space for are held all the same.
        if (ask?.own) for (const [key, name] of ask.rooms) addTo(this.#rooms, key, name);
        if (settled) {
            this.#asked.shift();
            if (ask.type === 'unsubscribe') this.#removeRooms(ask.rooms);
            if (ask.since !== undefined && id !== undefined) this.#position = id;
            this.#settle();
            if (recovered === false) this.#reload('history');
            ask.resolve();
        }
        for (const [room, entered] of this.#presences) {
            // Taken away by the server, or left. One that is still asked for is on its way.
            const [[key, name]] = entered.rooms;
            if (!entered.asked && !this.#rooms.get(key)?.has(name)) this.#forget(room);
        }
    }

    #refused({ data, ref }) {
        if (data?.code === 'RATE_LIMITED') {
            if (this.#asked[0]?.sent) this.#resendIn(RESEND);
            return;
        }
        const [ask] = this.#asked;
        if (!ask?.sent || ask.ref !== ref) return;
        this.#asked.shift();
        // No past was brought: what came meanwhile was live.
        if (ask.since !== undefined && this.#passed !== null) this.#position = this.#passed;
        this.#settle();
        ask.reject(new RefusedError(data));
    }

    #settle() {
        clearTimeout(this.#resender);
        if (!this.#asked.some((ask) => ask.since !== undefined)) this.#seen.clear();
        this.#pump();
    }

    #removeRooms(rooms) {
        this.#rooms ??= new Map();
        for (const [key, name] of rooms) {
            this.#rooms.get(key)?.delete(name);
            this.#keepInUrl(key, (each) => each !== name);
        }
    }

    // Of the rooms that the page wrote into the URL itself those stay that are held.
    #keepInUrl(key, isHeld) {
        const names = this.#url.searchParams.getAll(key);
        if (names.every(isHeld)) return;
        this.#url.searchParams.delete(key);
        for (const name of names.filter(isHeld)) this.#url.searchParams.append(key, name);
    }

    // Presence ---------------------------------------------------------------------------------------------------------

    #show(entered, meta) {
        entered.meta = meta;
        // What is not told yet is told as it is now.
        if (entered.asked && !entered.asked.sent) {
            entered.asked.meta = meta;
            return;
        }
        const ask = { type: 'subscribe', rooms: entered.rooms, meta };
        entered.asked = ask;
        const settled = () => {
            if (entered.asked === ask) entered.asked = null;
        };
        this.#ask(ask).then(() => {
            settled();
            entered.shown = ask.meta;
        }, (error) => {
            settled();
            if (!(error instanceof RefusedError)) return;
            console.error(`cartows: this page is not shown in ${entered.rooms[0].join('=')} as it wanted: ${error.message}`);
            const [[key, name]] = entered.rooms;
            const room = roomKey(key, name);
            // Another stands there now, or this one asks for more.
            if (this.#presences.get(room) !== entered || entered.asked) return;
            if (entered.shown === undefined || !this.#rooms?.get(key)?.has(name)) this.#forget(room);
            else entered.meta = entered.shown;
        });
    }

    #forget(room) {
        const found = this.#presences.get(room);
        if (!found) return;
        this.#presences.delete(room);
        this.#asked = this.#asked.filter((ask) => ask !== found.asked || ask.sent);
        leavePresence(found.presence);
    }

    // Sending ----------------------------------------------------------------------------------------------------------

    #canSend() {
        return this.#opened && this.#socket.readyState === 1 && this.#socket.bufferedAmount < MOST_BUFFERED;
    }

    #hasQuestion() {
        const [ask] = this.#asked;
        return ask !== undefined && !this.#replaying && (!ask.sent || ask.again);
    }

    #spend(cost) {
        const { count, at } = this.#allowance;
        const grown = Math.min(BURST, count + ((now() - at) / 1000) * RATE);
        this.#allowance = { count: Math.max(0, grown - cost), at: now() };
        return grown;
    }

    // Sends what waits: questions first, one at a time, and no more of all than a server takes.
    #pump() {
        clearTimeout(this.#pumper);
        while (this.#canSend()) {
            const [ask] = this.#asked;
            const asks = this.#hasQuestion();
            if (!asks && !this.#waiting.length) return;
            // A room counts for more where somebody is shown in it.
            const cost = asks ? Math.min(BURST, 1 + ask.rooms.length / (ask.meta === undefined ? 10 : 1)) : 1;
            const allowed = this.#spend(0);
            if (allowed < cost) {
                this.#pumper = setTimeout(() => this.#pump(), ((cost - allowed) / RATE) * 1000 + 1);
                return;
            }
            this.#spend(cost);
            if (asks) this.#sendAsk(ask); else this.#socket.send(this.#waiting.shift());
        }
        // The browser still holds too much of what was sent.
        const waits = this.#hasQuestion() || this.#waiting.length > 0;
        if (this.#opened && waits) this.#pumper = setTimeout(() => this.#pump(), 1000 / RATE);
    }
}

// --- Small things -----------------------------------------------------------------------------------------------------

// Calls each of those who listen now; one that fails is reported as any error of the page is, and keeps nobody else from it.
function tell(listeners, argument) {
    for (const fn of [...listeners]) {
        if (listeners.has && !listeners.has(fn)) continue;  // ended by another
        try {
            fn(argument);
        } catch (error) {
            report(error);
        }
    }
}

function report(error) {
    if (typeof reportError === 'function') reportError(error); else console.error(error);
}

function adding(listeners, fn) {
    check(fn);
    // The same function may be added twice; each is ended by itself.
    const own = (argument) => fn(argument);
    listeners.add(own);
    return () => { listeners.delete(own); };
}

function check(fn) {
    if (typeof fn !== 'function') throw new TypeError(`A listener must be a function, not ${typeof fn}`);
}

// Whoever does not look at a promise is not told by the browser that it failed.
function quiet(promise) {
    promise.catch(() => {});
    return promise;
}

function closedError({ reason }) {
    return new Error(`The connection is closed: ${reason}`);
}

// The one of two reasons to load for which more has to be done.
function stronger(one, other) {
    return LOST.has(one) || other === null ? one : other;
}

function defined(object) {
    return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
}

function socketUrl(url) {
    const found = new URL(url, globalThis.location?.href);
    found.protocol = { 'http:': 'ws:', 'https:': 'wss:' }[found.protocol] ?? found.protocol;
    if (found.protocol !== 'ws:' && found.protocol !== 'wss:') {
        throw new TypeError(`connect: ${url} must be a path, or a URL with ws: or wss:`);
    }
    found.hash = '';
    return found;
}

function roomKey(key, name) {
    return JSON.stringify([key, String(name)]);
}

// Rooms as the page names them, as pairs of texts.
function named(rooms) {
    const pairs = pairsOf(rooms);
    if (!pairs.length) throw new TypeError("Name at least one room, e.g. {board_id: 'b1'}");
    return pairs;
}

function pairsOf(rooms) {
    if (typeof rooms !== 'object' || rooms === null) throw new TypeError("Name rooms by their key, e.g. {board_id: 'b1'}");
    return Object.entries(rooms).flatMap(([key, names]) => (Array.isArray(names) ? names : [names]).map((name) => {
        if ((typeof name !== 'string' && !Number.isInteger(name)) || name === '') {
            throw new TypeError(`A room is named by a text or a whole number: ${key} is ${JSON.stringify(name)}`);
        }
        return [key, String(name)];
    }));
}

function grouped(pairs) {
    const rooms = Object.create(null);
    for (const [key, name] of pairs) (rooms[key] ??= []).push(name);
    return rooms;
}

function roomsOf(rooms) {
    const found = new Map();
    for (const [key, name] of pairsOf(rooms)) addTo(found, key, name);
    return found;
}

function addTo(rooms, key, name) {
    rooms.set(key, (rooms.get(key) ?? new Set()).add(name));
}
