// The browser client of cartows: one connection that reconnects by itself, and that gives a plain reason when it cannot.
//
//     import { connect } from '/ws/cartows.js';
//     const live = connect('/ws', { filters: { board_id: 'b1' }, load: () => fetchAndShow() });
//     live.on('task.created', (message) => add(message.data.task));
//
// It has no dependencies. Its types, with the documentation, are in cartows.d.ts beside this file.

const DEFAULTS = { pingInterval: 25_000, pongWait: 10_000, connectWait: 15_000, backoff: [500, 20_000], sendQueue: 100 };

// Milliseconds after which a connection counts as stable, so that the next wait is a short one again.
const STABLE = 5_000;

// The largest part of a URL for rooms, in characters; servers and proxies reject URLs over 4 or 8 KiB. The remaining rooms
// follow in a message.
const QUERY_ROOM = 2_000;

// The largest number of events that are held while the page loads; with more of them it loads once more instead.
const MAX_HELD = 5_000;

// The most bytes that the browser may buffer for a slow socket, before messages wait here, where they are counted.
const MAX_BUFFERED = 1 << 20;

// How many messages are sent at once, and then per second. The defaults of servers are 40 and 20.
const BURST = 20;
const RATE = 10;

// Milliseconds after which a request is sent again that was over the server's rate limit.
const RESEND = 1_000;

// How the longest wait between two attempts grows with each of them: slowly at first, so that the client reconnects within five
// seconds to a server that was away for a few.
const GROWTH = 1.5;

// The longest timeout of a browser's timer, in milliseconds.
const MAX_TIMEOUT = 2 ** 31 - 1;

// An attempt that has lasted so long, in milliseconds, may have begun without a network.
const HANGING = 1_000;

const EVENTS = new Set([
    'task.created', 'task.updated', 'task.deleted', 'project.created', 'project.updated', 'board.updated',
]);
const CONTROL = new Set([
    'connected', 'disconnect', 'pong', 'error', 'subscribed', 'unsubscribed', 'auth.refreshed', 'degraded', 'restored',
    'presence.state', 'presence.diff',
]);

// After these close codes a new connection would be rejected again. After 1000 the server has closed for good.
const FINAL = new Set([1000, 1002, 1007, 1008, 1009]);
const isFinal = (code) => FINAL.has(code) || (code >= 3500 && code <= 3999) || (code >= 4500 && code <= 4999);
const EXPIRED = 3005;

// The reasons to load that mean missed events.
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

    #entries = new Map();
    // The last entries that listeners were notified of; kept while a room is too large for names.
    #known = new Map();
    #count = 0;
    #complete = false;
    #revision = 0;
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
    get size() { return this.#entries.size; }
    get(who) { return this.#entries.get(who); }
    has(who) { return this.#entries.has(who); }
    keys() { return this.#entries.keys(); }
    values() { return this.#entries.values(); }
    entries() { return this.#entries.entries(); }
    forEach(fn) { this.#entries.forEach((entries, who) => fn(entries, who, this)); }
    [Symbol.iterator]() { return this.#entries.entries(); }
    get [Symbol.toStringTag]() { return 'Presence'; }

    onJoin(fn) { return adding(this.#joins, fn); }
    onLeave(fn) { return adding(this.#leaves, fn); }
    onChange(fn) { return adding(this.#changes, fn); }
    update(meta) { this.#update(meta); }
    leave() { this.#leave(); }

    // `data` is that of presence.state or presence.diff.
    #take(type, { count, present, joins, leaves }) {
        const mine = this.#revision += 1;
        this.#count = count;
        // In a very large room only the count is sent.
        this.#complete = type === 'presence.state' ? present !== undefined : joins !== undefined || leaves !== undefined;
        if (!this.#complete) {
            this.#entries = new Map();
        } else if (type === 'presence.state') {
            this.#entries = entriesIn(present);
        } else {
            const after = new Map(this.#entries);
            for (const [who, gone] of entriesIn(leaves)) without(after, who, gone);
            for (const [who, come] of entriesIn(joins)) {
                without(after, who, come);  // one that is there has another meta now
                after.set(who, [...(after.get(who) ?? []), ...come]);
            }
            this.#entries = after;
        }
        if (this.#complete) {
            const before = this.#known;
            this.#known = this.#entries;
            for (const [listeners, change] of changes(before, this.#entries, this.#leaves, this.#joins)) {
                notify(listeners, change);
                if (mine !== this.#revision) return;  // a listener has left the room
            }
        }
        notify(this.#changes, this);
    }

    // No leaves: the others are still there, only this page does not see them any more.
    #left() {
        this.#revision += 1;
        this.#entries = this.#known = new Map();
        this.#count = 0;
        this.#complete = false;
        notify(this.#changes, this);
    }

    #end() {
        this.#revision += 1;
        for (const listeners of [this.#joins, this.#leaves, this.#changes]) listeners.clear();
    }
}

// Yields the leaves and joins between two maps of entries, each with the listeners to notify.
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

function entriesIn(found) {
    return new Map(Object.entries(found ?? {}).filter(([, entries]) => Array.isArray(entries)));
}

function without(map, who, entries) {
    const refs = new Set(entries.map((entry) => entry.ref));
    const left = (map.get(who) ?? []).filter((entry) => !refs.has(entry.ref));
    if (left.length) map.set(who, left); else map.delete(who);
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
    // Changes of state that listeners have not been notified of: one that happens during a notification waits for its end.
    #unsent = [];

    #socket = null;
    // Counts the attempts, so that callbacks of an earlier one are recognised and ignored.
    #attempt = 0;
    #attemptedAt = 0;
    #token;
    #usedToken;
    #opened = false;
    #openedAt = 0;
    #failures = 0;
    #notBefore = 0;
    #advice = null;
    #timer = null;
    // The HTTP request that finds out why the last attempt failed, what it found out, and the last reason that was logged.
    #explanation = null;
    #cause;
    #lastReason;

    #receivedAt = 0;
    #pinged = null;
    #watcher = null;

    #position;
    // The rooms that the server has confirmed: null for everything.
    #rooms;
    // The requests to the server, in order. Only the first may have been sent; it is answered before the next one is sent.
    #requests = [];
    #ref = 0;
    #resender = null;
    // The ids of events that came while a replay was requested, and the last that did not move the position.
    #seen = new Set();
    #replayedTo = null;
    // How many events of the announced replay have not come yet.
    #replaying = 0;
    #presences = new Map();

    #waiting = [];
    // How many messages may be sent at once, as of a time.
    #allowance = { count: BURST, at: 0 };
    #pumper = null;

    // Why the page is loading, and why it must load once more; after a final close, why it must still load.
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
            this.#options[name] = Math.min(this.#options[name], MAX_TIMEOUT);
        }
        this.#url = socketUrl(url);
        this.#position = options.since ?? null;
        this.#rooms = options.filters == null ? null : roomsOf(options.filters);
        if (options.onReload) this.#reloadListeners.add(options.onReload);
        globalThis.addEventListener?.('online', this.#online);
        globalThis.addEventListener?.('offline', this.#probe);
        globalThis.addEventListener?.('pagehide', this.#freeze);
        globalThis.addEventListener?.('pageshow', this.#thaw);
        globalThis.document?.addEventListener('visibilitychange', this.#wake);
        // Later, when the page has added its listeners.
        queueMicrotask(() => {
            if (this.#ended) return;
            if (options.onState) this.onState(options.onState);
            if (!this.#attempt) this.#connect();
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
        const status = this.#status;
        const end = adding(this.#stateListeners, fn);
        notify([fn], status);
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
        return this.#request({ type: 'subscribe', rooms: named(rooms), since: since ?? undefined });
    }

    unsubscribe(rooms) {
        const left = named(rooms);
        for (const [key, name] of left) this.#forget(roomKey(key, name));
        // Otherwise the next connection would begin with them.
        if (!this.#opened) this.#removeRooms(left);
        return this.#request({ type: 'unsubscribe', rooms: left });
    }

    presence(room, meta) {
        const rooms = named(room);
        if (rooms.length !== 1) throw new TypeError("presence: name one room, e.g. {board_id: 'b1'}");
        const id = roomKey(...rooms[0]);
        let found = this.#presences.get(id);
        if (!found) {
            const isHere = () => this.#presences.get(id) === found;
            found = { rooms, meta: meta ?? {}, shown: undefined, request: null };
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
        // No message overtakes a request: otherwise a page that sends all the time would never get a request out.
        if (!this.#waiting.length && !this.#hasRequest() && this.#canSend()) {
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
        globalThis.removeEventListener?.('offline', this.#probe);
        globalThis.removeEventListener?.('pagehide', this.#freeze);
        globalThis.removeEventListener?.('pageshow', this.#thaw);
        globalThis.document?.removeEventListener('visibilitychange', this.#wake);
        this.#listeners.clear();
        this.#reloadListeners.clear();
        for (const { presence } of this.#presences.values()) endPresence(presence);
        this.#presences.clear();
        if (this.#status.state !== 'closed') this.#end({ code: 1000, reason: 'closed by the page' });
        // State listeners still get this last change. During a notification the loop that runs it delivers it, and clears them.
        if (!this.#unsent.length) this.#stateListeners.clear();
    }

    // Connecting -------------------------------------------------------------------------------------------------------

    async #connect() {
        if (this.#ended) return;
        const mine = this.#drop();
        this.#attemptedAt = now();
        this.#failures += 1;
        this.#usedToken = undefined;
        this.#set({ ...this.#status, state: 'connecting', retryAt: undefined });
        if (mine !== this.#attempt) return;  // closed by a listener

        this.#timer = setTimeout(() => this.#lost(undefined, 'The server did not answer in time.'), this.#options.connectWait);
        const protocols = [];
        if (this.#options.token !== undefined) {
            let token;
            try {
                token = await this.#freshToken();
            } catch (error) {
                if (mine !== this.#attempt) return;
                this.#lost(undefined, `The page's token function failed: ${error?.message ?? error}`);
                return;
            }
            if (mine !== this.#attempt) return;
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
            if (mine === this.#attempt) this.#receive(event.data, rest);
        };
        socket.onclose = (event) => {
            if (mine === this.#attempt) this.#lost(event.code, event.reason);
        };
        socket.onerror = () => {};  // a close event follows, with the reason
    }

    async #freshToken() {
        const { token } = this.#options;
        if (typeof token !== 'function') return token;
        if (this.#token !== undefined) return this.#token;
        const found = await token();
        if (typeof found !== 'string' || !found) throw new Error(`it returned ${found === '' ? 'nothing' : typeof found}`);
        return found;
    }

    // Returns the URL of the next attempt, and the rooms that do not fit into it.
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
        // Without a room it would receive everything.
        if (this.#rooms && !some) url.searchParams.set('rooms', 'none');
        if (this.#position !== null) url.searchParams.set('since', this.#position);
        return { url: url.href, rest };
    }

    // `position` is the one after which the remaining rooms are requested.
    #open(rest, position) {
        clearTimeout(this.#timer);
        this.#opened = true;
        this.#openedAt = now();
        this.#cause = undefined;
        this.#allowance = { count: BURST, at: now() };
        this.#watch();
        if (rest.length) {
            const mine = this.#attempt;
            this.#request({ type: 'subscribe', rooms: rest, since: position ?? undefined, own: true }).catch((error) => {
                if (!(error instanceof RefusedError) || mine !== this.#attempt) return;
                // The application failed; it did not refuse the rooms.
                if (error.code === 'INTERNAL') return void this.#lost(undefined, error.message);
                this.#removeRooms(rest);
                console.error(`cartows: the subscription to some rooms has ended: ${error.message}`);
            });
        }
        for (const entered of this.#presences.values()) this.#show(entered, entered.meta);
        this.#set({ state: 'open' });
        this.#pump();
    }

    #lost(code, reason = '') {
        const advice = this.#advice;
        const opened = this.#opened;
        if (opened && now() - this.#openedAt >= STABLE) this.#failures = 0;
        const mine = this.#drop();
        // Why it did not open is not known yet: the page is told once the server has been asked, see #explain.
        const cause = opened || reason ? undefined : this.#cause;
        const otherwise = cause?.reason ?? (opened ? 'The connection broke.' : 'The connection failed.');
        const why = { code: cause?.code ?? code, reason: reason || advice?.reason || otherwise };
        const { token } = this.#options;
        // A token that is a string stays the same, so it would be rejected again.
        const isStale = code === EXPIRED && token !== undefined && typeof token !== 'function';
        const isOver = isStale || (code !== EXPIRED && (isFinal(code) || advice?.reconnect === false));
        if (isOver) {
            this.#end(why);
            return;
        }
        if (!opened || code === EXPIRED) {
            // The token may have been rejected: a browser does not tell.
            this.#token = undefined;
        }
        // A page that cannot connect can still show something.
        if (!opened && this.#position === null && !this.#shown) this.#reload('first');
        this.#wait(why, advice?.retry_after_ms);
        if (mine !== this.#attempt || opened) return;
        const isKnown = Boolean(reason || advice?.reason);
        const asks = (!isKnown && this.#cause === undefined) || this.#failures <= 2 || this.#failures % 5 === 0;
        if (asks) this.#explain(isKnown);
    }

    #wait(why, retryAfter) {
        const advised = Number.isFinite(retryAfter) && retryAfter > 0 ? Math.min(retryAfter, MAX_TIMEOUT) : 0;
        const [least, most] = this.#options.backoff;
        const ceiling = Math.min(most, 2 * least * GROWTH ** Math.min(this.#failures, 100));
        // The whole wait is random, so that clients that were disconnected together do not reconnect together.
        const pause = advised || least + Math.random() * Math.max(0, ceiling - least);
        this.#notBefore = now() + advised;
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

    // The page is visible again.
    #wake = () => {
        if (hidden()) return;
        if (this.#status.state !== 'waiting') {
            this.#probe();
        } else if (now() >= this.#notBefore) {
            this.#connect();
        } else {
            const { code, reason } = this.#status;
            this.#waitUntil({ code, reason }, this.#notBefore);
        }
    };

    // There is a network again. An attempt that began without one may hang for a long time.
    #online = () => {
        const hangs = this.#status.state === 'connecting' && now() - this.#attemptedAt > HANGING;
        if (hangs && !hidden()) this.#connect(); else this.#wake();
    };

    // The network may have changed under the connection: ping now instead of when it is due.
    #probe = () => {
        if (this.#status.state === 'open' && this.#pinged === null) this.#ping();
    };

    // A page in the browser's back/forward cache must not have an open socket.
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

    // A browser does not tell a page why a handshake was rejected. An HTTP request to the same URL does. That no answer comes is
    // no news where a reason is known.
    async #explain(isKnown) {
        const mine = this.#attempt;
        const url = new URL(this.#query().url);
        url.protocol = url.protocol === 'wss:' ? 'https:' : 'http:';
        if (typeof fetch !== 'function') return;
        const page = globalThis.location?.origin;
        const isOther = page !== undefined && url.origin !== page;
        const headers = { Accept: 'application/json', 'X-Cartows-Explain': '1' };
        if (this.#options.token !== undefined) {
            // An attempt that had no token yet was not rejected.
            if (this.#usedToken === undefined) return;
            headers.Authorization = `Bearer ${this.#usedToken}`;
        }
        this.#explanation = new AbortController();
        const { signal } = this.#explanation;
        const isOver = () => mine !== this.#attempt || this.#status.state !== 'waiting';
        let response, body;
        try {
            // With cookies, as the handshake: without them the answer could be another one.
            const credentials = isOther ? 'include' : 'same-origin';
            response = await fetch(url, { headers, credentials, cache: 'no-store', redirect: 'manual', signal });
            body = await response.json();
        } catch {
            // From another origin no answer can be read without CORS. One that cannot be read shows that there is a server.
            const answers = !response && isOther && !isOver() && await fetch(url, { mode: 'no-cors', cache: 'no-store', signal })
                .then(() => true, () => false);
            if (!response && !isOver() && (answers || !isKnown)) {
                this.#setReason({
                    reason: answers
                        ? `The server answers, but refuses the connection. It may not allow pages of ${page} `
                            + '(allowed_origins); its log has the reason.'
                        : 'The server cannot be reached.',
                });
            }
            if (!response) return;
        }
        if (isOver()) return;
        const { status } = response;
        const text = typeof body?.message === 'string' ? body.message : '';
        if (response.type === 'opaqueredirect') {
            this.#setReason({ reason: 'The app redirects instead of connecting: is a login missing?' });
        } else if (status === 403 || status === 501 || (status === 401 && typeof this.#options.token !== 'function')) {
            this.#end({ code: status, reason: text || `The server refused with ${status}.` });
        } else if (status === 401) {
            this.#setReason({ code: status, reason: text || 'The token was not accepted.' });
        } else if (body?.code === 'NOT_A_WEBSOCKET_REQUEST') {
            // The first time the server may just have started.
            if (this.#failures > 1) {
                this.#setReason({
                    reason: 'The server answers, but no WebSocket gets through: a proxy must forward Upgrade and Connection.',
                });
            }
        } else {
            const why = { code: status, reason: text || `The server answered ${status} at ${url.pathname}.` };
            const seconds = Number(response.headers.get('Retry-After'));
            // Spread out, so that not all clients reconnect in the same second.
            if (seconds > 0) this.#cause = why;
            if (seconds > 0) this.#wait(why, seconds * 1000 * (1 + Math.random() / 2)); else this.#setReason(why);
        }
    }

    #setReason(why) {
        if (why.reason !== this.#lastReason) console.warn(`cartows: cannot connect: ${why.code ?? ''} ${why.reason}`);
        this.#lastReason = why.reason;
        this.#cause = why;
        this.#set({ ...this.#status, ...why });
    }

    // Releases the socket, whatever its state, with its timers and requests. Returns the number of the next attempt.
    #drop(code) {
        for (const timer of [this.#timer, this.#watcher, this.#pumper, this.#resender]) clearTimeout(timer);
        this.#explanation?.abort();
        this.#pinged = null;
        this.#advice = null;
        this.#opened = false;
        this.#replaying = 0;
        this.#replayedTo = null;
        for (const entered of this.#presences.values()) entered.shown = undefined;
        // The next URL contains the rooms; other requests are sent again.
        this.#requests = this.#requests.filter((request) => !request.own);
        for (const request of this.#requests) {
            request.sent = false;
            if (request.type === 'unsubscribe') this.#removeRooms(request.rooms);
        }
        const socket = this.#socket;
        this.#socket = null;
        if (socket) {
            socket.onmessage = socket.onclose = socket.onerror = null;
            socket.close(code);
        }
        return this.#attempt += 1;
    }

    #end(why) {
        this.#drop(1000);
        clearTimeout(this.#loadTimer);
        this.#loads += 1;
        // If the page tries again, it must still load.
        this.#loadOwed = stronger(this.#loadOwed, stronger(this.#loading, this.#loadAgain));
        this.#loading = this.#loadAgain = null;
        this.#waiting.length = this.#held.length = 0;
        for (const { reject } of [...this.#loadWaiters.splice(0), ...this.#requests.splice(0)]) reject(closedError(why));
        if (why.code !== 1000) console.warn(`cartows: closed for good: ${why.code ?? ''} ${why.reason}`);
        this.#set({ ...why, state: 'closed' });
    }

    #set(status) {
        const before = this.#status;
        this.#status = defined(status);
        if (['state', 'code', 'reason', 'retryAt'].every((name) => before[name] === this.#status[name])) return;
        this.#unsent.push(this.#status);
        if (this.#unsent.length > 1) return;  // the loop of the earlier change delivers it
        while (this.#unsent.length) {
            notify(this.#stateListeners, this.#unsent[0]);
            this.#unsent.shift();
        }
        if (this.#ended) this.#stateListeners.clear();
    }

    // Watchdog ---------------------------------------------------------------------------------------------------------

    // Pages do not see the pings of the WebSocket protocol, so a dead server looks like one that has nothing to send.
    #watch() {
        clearTimeout(this.#watcher);
        const { pingInterval, pongWait } = this.#options;
        const due = this.#pinged === null ? this.#receivedAt + pingInterval : this.#pinged + pongWait;
        this.#watcher = setTimeout(() => {
            if (this.#pinged !== null) this.#lost(undefined, 'The server is silent.');
            else if (now() - this.#receivedAt >= pingInterval) this.#ping();
            else this.#watch();
        }, Math.max(0, due - now()));
    }

    #ping() {
        this.#pinged = now();
        // A socket that is closing gets a close event soon, or is dropped.
        if (this.#socket.readyState === 1) this.#socket.send(JSON.stringify({ type: 'ping', ref: 'ping' }));
        this.#watch();
    }

    // Receiving --------------------------------------------------------------------------------------------------------

    #receive(text, rest) {
        this.#receivedAt = now();
        if (this.#pinged !== null) {
            this.#pinged = null;
            this.#watch();
        }
        let message;
        try {
            message = JSON.parse(text);
        } catch {
            // Reported below, as anything else that is not a message.
        }
        if (typeof message?.type !== 'string') {
            console.error('cartows: the server sent something that is not a message of its protocol');
            return;
        }
        const { type, id, data } = message;
        if (!this.#opened && type !== 'disconnect') {
            this.#greet(message, rest);
        } else if (id !== undefined) {
            const isNew = this.#move(type, id);
            if (this.#replaying && !CONTROL.has(type)) this.#replayed(this.#replaying - 1);
            if (!isNew) return;
        }
        switch (type) {
            case 'pong':
                // A pong without a ref is no answer: the server sends it in place of events that it dropped.
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

    // The first message: `connected`, or any other if the server sends no greeting.
    #greet({ type, id, data }, rest) {
        const before = this.#position;
        const recovered = type === 'connected' ? data?.recovered : undefined;
        // The replay for the remaining rooms is still to come, and must not be skipped.
        if (id !== undefined && !(recovered && rest.length)) this.#position = id;
        this.#replayed(recovered ? data.replayed : 0);
        this.#open(rest, recovered ? before : this.#position);
        const owed = this.#loadOwed;
        this.#loadOwed = null;
        if (recovered === false) this.#reload('history');
        else if (owed !== null) this.#reload(owed);
        else if (before === null) this.#reload('first');
    }

    // Sets how many events are still to be replayed. No request is sent meanwhile: the position of its answer would be too old.
    #replayed(left) {
        this.#replaying = left > 0 ? left : 0;
        clearTimeout(this.#resender);
        // Fewer than announced come if the server takes a room away meanwhile.
        if (this.#replaying) this.#resender = setTimeout(() => this.#replayed(0), this.#options.pongWait);
        else this.#pump();
    }

    // Moves the position to an id; returns false for an event that has come before.
    #move(type, id) {
        const isEvent = !CONTROL.has(type);
        const known = isEvent && this.#seen.has(id);
        // It may come again in a requested replay, perhaps on another connection.
        if (isEvent && this.#requests.some((each) => each.since !== undefined)) this.#seen.add(id);
        const [request] = this.#requests;
        if (request?.since === undefined || !(request.sent || request.own)) this.#position = id;
        else if (isEvent) this.#replayedTo = id;  // an event of a replay, which is older than the position
        return !known;
    }

    #emit(message) {
        const listeners = this.#listeners.get(message.type);
        if (listeners) notify(listeners, message);
        const all = message.type === '*' ? undefined : this.#listeners.get('*');
        if (all) notify(all, message);
    }

    // Loading ----------------------------------------------------------------------------------------------------------

    #hold(message) {
        this.#held.push(message);
        if (this.#held.length > MAX_HELD) this.#reload('incomplete');
    }

    #reload(reason) {
        if (this.#status.state === 'closed') return;
        // The events held are older than the lost ones, and would overwrite what is loaded now.
        if (LOST.has(reason)) this.#held.length = 0;
        if (this.#loading === null) this.#load(reason);
        else this.#loadAgain = stronger(this.#loadAgain, reason);
    }

    async #load(reason, failures = 0) {
        const { load } = this.#options;
        const mine = this.#loads += 1;
        this.#shown = true;
        this.#loading = reason;
        // The page's functions run on their own, not in the middle of this object's work.
        await null;
        if (mine !== this.#loads) return;  // closed meanwhile
        for (const waiter of this.#loadWaiters) waiter.begun = true;
        const loaders = [...(load ? [load] : []), ...(LOST.has(reason) ? this.#reloadListeners : [])];
        let failed = false;
        // All of them start at once, and one that fails does not stop the others.
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
        // Also if the page has asked for another load, which is newer than these events. After lost events they wait.
        if (!LOST.has(this.#loadAgain)) for (const message of this.#held.splice(0)) this.#emit(message);
        if (mine !== this.#loads) return;  // closed by a listener
        for (const { resolve } of this.#loadWaiters.filter((waiter) => waiter.begun)) resolve();
        this.#loadWaiters = this.#loadWaiters.filter((waiter) => !waiter.begun);
        const again = this.#loadAgain;
        this.#loading = this.#loadAgain = null;
        if (again !== null) this.#load(again);
    }

    // Requests ---------------------------------------------------------------------------------------------------------

    #request(request) {
        return quiet(new Promise((resolve, reject) => {
            if (this.#status.state === 'closed') {
                reject(closedError(this.#status));
                return;
            }
            Object.assign(request, { resolve, reject, ref: String(++this.#ref), sent: false });
            // The requests that a connection begins with come first: the position waits for them.
            if (request.own) this.#requests.unshift(request); else this.#requests.push(request);
            this.#pump();
        }));
    }

    #sendRequest(request) {
        if (!request.sent && !request.own) this.#replayedTo = null;
        request.sent = true;
        request.again = false;
        const data = { ...grouped(request.rooms), since: request.since, presence: request.meta };
        this.#socket.send(JSON.stringify({ type: request.type, data, ref: request.ref }));
        this.#resendIn(this.#options.pongWait);
    }

    // A request without an answer was over the rate limit: the server reports that, but not always for which message.
    #resendIn(wait) {
        clearTimeout(this.#resender);
        this.#resender = setTimeout(() => {
            const [request] = this.#requests;
            if (request?.sent) request.again = true;
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
        const [request] = this.#requests;
        const isAnswer = request !== undefined && request.ref === ref;
        // The rooms that did not fit into the URL are held, too.
        if (request?.own) for (const [key, name] of request.rooms) addTo(this.#rooms, key, name);
        if (isAnswer) {
            this.#requests.shift();
            if (request.type === 'unsubscribe') this.#removeRooms(request.rooms);
            if (request.since !== undefined && id !== undefined) this.#position = id;
            this.#finishRequest();
            if (recovered === false) this.#reload('history');
            request.resolve();
        }
        for (const [room, entered] of this.#presences) {
            // Taken away by the server, or left. A room that is still requested is not held yet.
            const [[key, name]] = entered.rooms;
            if (!entered.request && !this.#rooms.get(key)?.has(name)) this.#forget(room);
        }
    }

    #refused({ data, ref }) {
        if (data?.code === 'RATE_LIMITED') {
            if (this.#requests[0]?.sent) this.#resendIn(RESEND);
            return;
        }
        const [request] = this.#requests;
        if (!request?.sent || request.ref !== ref) return;
        this.#requests.shift();
        // There was no replay: the events that came meanwhile were live.
        if (request.since !== undefined && this.#replayedTo !== null) this.#position = this.#replayedTo;
        this.#finishRequest();
        request.reject(new RefusedError(data));
    }

    #finishRequest() {
        clearTimeout(this.#resender);
        if (!this.#requests.some((request) => request.since !== undefined)) this.#seen.clear();
        this.#pump();
    }

    #removeRooms(rooms) {
        this.#rooms ??= new Map();
        for (const [key, name] of rooms) {
            this.#rooms.get(key)?.delete(name);
            this.#keepInUrl(key, (each) => each !== name);
        }
    }

    // Of the rooms that the page itself wrote into the URL, keeps those that are held.
    #keepInUrl(key, isHeld) {
        const names = this.#url.searchParams.getAll(key);
        if (names.every(isHeld)) return;
        this.#url.searchParams.delete(key);
        for (const name of names.filter(isHeld)) this.#url.searchParams.append(key, name);
    }

    // Presence ---------------------------------------------------------------------------------------------------------

    #show(entered, meta) {
        entered.meta = meta;
        // A request that has not been sent is sent with the new meta.
        if (entered.request && !entered.request.sent) {
            entered.request.meta = meta;
            return;
        }
        const request = { type: 'subscribe', rooms: entered.rooms, meta };
        entered.request = request;
        const answered = () => {
            if (entered.request === request) entered.request = null;
        };
        this.#request(request).then(() => {
            answered();
            entered.shown = request.meta;
        }, (error) => {
            answered();
            if (!(error instanceof RefusedError)) return;
            console.error(`cartows: the presence in ${entered.rooms[0].join('=')} was refused: ${error.message}`);
            const [[key, name]] = entered.rooms;
            const room = roomKey(key, name);
            // Another presence has taken its place, or it has sent another request.
            if (this.#presences.get(room) !== entered || entered.request) return;
            if (entered.shown === undefined || !this.#rooms?.get(key)?.has(name)) this.#forget(room);
            else entered.meta = entered.shown;
        });
    }

    #forget(room) {
        const found = this.#presences.get(room);
        if (!found) return;
        this.#presences.delete(room);
        this.#requests = this.#requests.filter((request) => request !== found.request || request.sent);
        leavePresence(found.presence);
    }

    // Sending ----------------------------------------------------------------------------------------------------------

    #canSend() {
        return this.#opened && this.#socket.readyState === 1 && this.#socket.bufferedAmount < MAX_BUFFERED;
    }

    #hasRequest() {
        const [request] = this.#requests;
        return request !== undefined && !this.#replaying && (!request.sent || request.again);
    }

    #spend(cost) {
        const { count, at } = this.#allowance;
        const grown = Math.min(BURST, count + ((now() - at) / 1000) * RATE);
        this.#allowance = { count: Math.max(0, grown - cost), at: now() };
        return grown;
    }

    // Sends what waits: requests first, one at a time, and no more messages than the server's rate limit allows.
    #pump() {
        clearTimeout(this.#pumper);
        while (this.#canSend()) {
            const [request] = this.#requests;
            const isRequest = this.#hasRequest();
            if (!isRequest && !this.#waiting.length) return;
            // A room with presence costs more of the server's rate limit.
            const cost = isRequest ? Math.min(BURST, 1 + request.rooms.length / (request.meta === undefined ? 10 : 1)) : 1;
            const allowed = this.#spend(0);
            if (allowed < cost) {
                this.#pumper = setTimeout(() => this.#pump(), ((cost - allowed) / RATE) * 1000 + 1);
                return;
            }
            this.#spend(cost);
            if (isRequest) this.#sendRequest(request); else this.#socket.send(this.#waiting.shift());
        }
        // The browser still buffers too much.
        const waits = this.#hasRequest() || this.#waiting.length > 0;
        if (this.#opened && waits) this.#pumper = setTimeout(() => this.#pump(), 1000 / RATE);
    }
}

// --- Helpers ----------------------------------------------------------------------------------------------------------

// Calls all listeners that are there now. An error of one is reported as any error of the page, and does not stop the others.
function notify(listeners, argument) {
    for (const fn of [...listeners]) {
        if (listeners.has && !listeners.has(fn)) continue;  // removed by another listener
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
    // The same function may be added twice, and each is removed on its own.
    const own = (argument) => fn(argument);
    listeners.add(own);
    return () => { listeners.delete(own); };
}

function check(fn) {
    if (typeof fn !== 'function') throw new TypeError(`A listener must be a function, not ${typeof fn}`);
}

// Keeps the browser from reporting a rejection that the page does not handle.
function quiet(promise) {
    promise.catch(() => {});
    return promise;
}

function closedError({ reason }) {
    return new Error(`The connection is closed: ${reason}`);
}

// Returns the stronger of two reasons to load: one that means missed events.
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

// Returns the rooms that the page names, as pairs of strings.
function named(rooms) {
    const pairs = pairsOf(rooms);
    if (!pairs.length) throw new TypeError("Name at least one room, e.g. {board_id: 'b1'}");
    return pairs;
}

function pairsOf(rooms) {
    if (typeof rooms !== 'object' || rooms === null) throw new TypeError("Name rooms by their key, e.g. {board_id: 'b1'}");
    return Object.entries(rooms).flatMap(([key, names]) => (Array.isArray(names) ? names : [names]).map((name) => {
        if ((typeof name !== 'string' && !Number.isInteger(name)) || name === '') {
            throw new TypeError(`A room is named by a string or an integer: ${key} is ${JSON.stringify(name)}`);
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
