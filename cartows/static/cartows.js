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

// How the messages that have waited are sent: as many at once, then as many each second. Servers allow 40 and 20.
const BURST = 20;
const RATE = 10;

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
    constructor({ code, message, details = '' }) {
        super(details ? `${message} (${details})` : message);
        this.name = 'RefusedError';
        this.code = code;
        this.details = details;
    }
}

// --- Presence ---------------------------------------------------------------------------------------------------------

// A Map, not an object: an identity may be called "__proto__".
let takePresence;

export class Presence {
    static {
        takePresence = (presence, type, data) => presence.#take(type, data);
    }

    #people = new Map();
    #count = 0;
    #complete = false;
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

    #take(type, data) {
        const before = this.#people;
        this.#count = data.count;
        if (type === 'presence.state') {
            // In a very large room only the number is told.
            this.#complete = data.present !== undefined;
            this.#people = new Map(Object.entries(data.present ?? {}));
            if (this.#complete) this.#tellAll(before, this.#people);
        } else if (data.joins !== undefined || data.leaves !== undefined) {
            const after = new Map(before);
            for (const [who, gone] of Object.entries(data.leaves ?? {})) without(after, who, gone);
            for (const [who, come] of Object.entries(data.joins ?? {})) {
                without(after, who, come);  // one that is known shows something else now
                after.set(who, [...(after.get(who) ?? []), ...come]);
            }
            this.#people = after;
            this.#tellAll(before, after);
        } else {
            this.#complete = false;
            this.#people = new Map();
        }
        tell(this.#changes, this);
    }

    #tellAll(before, after) {
        for (const [who, entries] of before) {
            const left = new Set((after.get(who) ?? []).map((entry) => entry.ref));
            const gone = entries.filter((entry) => !left.has(entry.ref));
            gone.forEach((entry, n) => tell(this.#leaves, { who, ...entry, last: left.size === 0 && n === gone.length - 1 }));
        }
        for (const [who, entries] of after) {
            const known = new Set((before.get(who) ?? []).map((entry) => entry.ref));
            const come = entries.filter((entry) => !known.has(entry.ref));
            come.forEach((entry, n) => tell(this.#joins, { who, ...entry, first: !before.has(who) && n === 0 }));
        }
    }
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
    #status = { state: 'connecting' };
    #ended = false;
    #listeners = new Map();
    #stateListeners = new Set();
    #reloadListeners = new Set();

    #socket = null;
    // Counts the tries, so that what belongs to an earlier one is known as such.
    #try = 0;
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
    // The ids of the events that came while the position stood still.
    #seen = new Set();
    // What is heard, once the server has agreed: null for everything.
    #rooms;
    // What was asked of the server and is not answered yet, in order.
    #asked = [];
    #resender = null;
    #ref = 0;
    #presences = new Map();

    #waiting = [];
    #drainer = null;

    // Why the page is being loaded, and whether it has to be once more.
    #loading = null;
    #loadAgain = null;
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
        this.#options = { ...DEFAULTS, ...defined(options) };
        this.#url = socketUrl(url);
        this.#position = options.since ?? null;
        this.#rooms = options.filters === undefined ? null : held(options.filters);
        if (options.onReload) this.#reloadListeners.add(options.onReload);
        if (options.onState) this.#stateListeners.add(options.onState);
        globalThis.addEventListener?.('online', this.#wake);
        globalThis.addEventListener?.('offline', this.#doubt);
        globalThis.addEventListener?.('pagehide', this.#freeze);
        globalThis.addEventListener?.('pageshow', this.#thaw);
        globalThis.document?.addEventListener('visibilitychange', this.#wake);
        // Once the page has added its listeners.
        queueMicrotask(() => this.#connect(true));
    }

    get state() { return this.#status.state; }
    get status() { return this.#status; }
    get position() { return this.#position; }
    get filters() {
        return this.#rooms && Object.fromEntries([...this.#rooms].map(([key, names]) => [key, [...names]]));
    }

    on(type, fn) {
        check(fn);
        if (!this.#listeners.has(type)) this.#listeners.set(type, new Set());
        return adding(this.#listeners.get(type), fn);
    }

    onState(fn) {
        check(fn);
        tell(new Set([fn]), this.#status);
        return adding(this.#stateListeners, fn);
    }

    onReload(fn) {
        check(fn);
        return adding(this.#reloadListeners, fn);
    }

    reload() {
        const promise = new Promise((resolve, reject) => {
            if (this.#status.state === 'closed') reject(new Error(`The connection is closed: ${this.#status.reason}`));
            else this.#loadWaiters.push({ resolve, reject });
        });
        promise.catch(() => {});  // whoever does not look at it need not
        this.#reload('asked');
        return promise;
    }

    subscribe(rooms, { since } = {}) {
        return this.#ask({ type: 'subscribe', rooms: named(rooms), since: since ?? undefined });
    }

    unsubscribe(rooms) {
        const gone = named(rooms);
        for (const [key, name] of gone) this.#forget(roomKey(key, name));
        return this.#ask({ type: 'unsubscribe', rooms: gone });
    }

    presence(room, meta) {
        const rooms = named(room);
        if (rooms.length !== 1) throw new TypeError("presence: name one room, e.g. {board_id: 'b1'}");
        const [[key, name]] = rooms;
        const id = roomKey(key, name);
        let found = this.#presences.get(id);
        if (!found) {
            found = { rooms, meta: meta ?? {}, asked: null, presence: null };
            found.presence = new Presence(
                (newMeta) => {
                    if (this.#presences.get(id) === found) this.#show(found, newMeta);
                },
                () => {
                    if (this.#presences.get(id) === found) this.unsubscribe(room).catch(() => {});
                },
            );
            this.#presences.set(id, found);
            this.#show(found, found.meta);
        } else if (meta !== undefined) {
            this.#show(found, meta);
        }
        return found.presence;
    }

    send(type, data) {
        if (this.#status.state === 'closed') return false;
        const text = JSON.stringify({ type, data });
        if (!this.#waiting.length && this.#canSend()) {
            this.#socket.send(text);
            return true;
        }
        if (this.#waiting.length >= this.#options.sendQueue) return false;
        this.#waiting.push(text);
        this.#drain(1);
        return true;
    }

    retry() {
        if (!this.#ended && (this.#status.state === 'waiting' || this.#status.state === 'closed')) this.#connect();
    }

    close() {
        if (this.#ended) return;
        this.#end({ code: 1000, reason: 'closed by the page' });
        this.#ended = true;
        globalThis.removeEventListener?.('online', this.#wake);
        globalThis.removeEventListener?.('offline', this.#doubt);
        globalThis.removeEventListener?.('pagehide', this.#freeze);
        globalThis.removeEventListener?.('pageshow', this.#thaw);
        globalThis.document?.removeEventListener('visibilitychange', this.#wake);
        for (const listeners of [this.#listeners, this.#stateListeners, this.#reloadListeners]) listeners.clear();
        this.#presences.clear();
    }

    // Connecting -------------------------------------------------------------------------------------------------------

    async #connect(first = false) {
        if (this.#ended || (first && this.#try)) return;
        this.#drop();
        const mine = this.#try;
        this.#failures += 1;
        this.#set({ ...this.#status, state: 'connecting', retryAt: undefined });
        if (mine !== this.#try) return;  // closed by who was told

        this.#timer = setTimeout(() => this.#lost(undefined, 'The server did not answer in time.'), this.#options.connectWait);
        const protocols = [];
        if (this.#options.token !== undefined) {
            try {
                const token = this.#usedToken = await this.#freshToken();
                if (mine !== this.#try) return;
                protocols.push('cartows', `bearer.${token}`);
            } catch (error) {
                if (mine === this.#try) this.#lost(undefined, `The page's token function failed: ${error?.message ?? error}`);
                return;
            }
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
        if (typeof this.#options.token !== 'function') return this.#options.token;
        if (this.#token === undefined) {
            const token = await this.#options.token();
            if (typeof token !== 'string' || !token) throw new Error(`it returned ${token === '' ? 'nothing' : typeof token}`);
            this.#token = token;
        }
        return this.#token;
    }

    // Returns the URL of the next try, and the rooms that it has no space for.
    #query() {
        const url = new URL(this.#url);
        const rest = [];
        if (this.#rooms) {
            let length = 0;
            // Without a room it would hear everything.
            if (![...this.#rooms.values()].some((names) => names.size)) url.searchParams.set('rooms', 'none');
            for (const [key, names] of this.#rooms) {
                for (const name of names) {
                    length += new URLSearchParams([[key, name]]).toString().length + 1;
                    if (length <= QUERY_ROOM) url.searchParams.append(key, name); else rest.push([key, name]);
                }
            }
        }
        if (this.#position !== null) url.searchParams.set('since', this.#position);
        return { url: url.href, rest };
    }

    #open(rest, resumed) {
        clearTimeout(this.#timer);
        this.#opened = true;
        this.#openedAt = now();
        this.#watch();
        if (rest.length) {
            // Their past behind the same position: it is brought before they are heard live.
            this.#ask({ type: 'subscribe', rooms: rest, since: resumed ?? undefined, own: true }).catch((error) => {
                for (const [key, name] of rest) this.#rooms?.get(key)?.delete(name);
                console.error(`cartows: some rooms are not heard any more: ${error.message}`);
            });
        }
        for (const entered of this.#presences.values()) this.#show(entered, entered.meta);
        this.#set({ state: 'open' });
        this.#tellServer();
        this.#drain(BURST);
    }

    #lost(code, reason = '') {
        const advice = this.#advice;
        const opened = this.#opened;
        if (opened && now() - this.#openedAt >= STEADY) this.#failures = 0;
        this.#drop();
        const otherwise = opened ? 'The connection broke.' : 'The server cannot be reached.';
        const why = { code, reason: reason || advice?.reason || otherwise };
        this.#askAgain();
        if (code === EXPIRED && typeof this.#options.token === 'function') {
            this.#token = undefined;
        } else if (advice?.reconnect === false || isFinal(code) || (code === EXPIRED && this.#options.token !== undefined)) {
            this.#end(why);
            return;
        }
        if (!opened) {
            // It may be the token that was not accepted: a browser does not say.
            this.#token = undefined;
            // Whoever cannot be told of changes can still be shown something.
            if (this.#position === null && !this.#shown) this.#reload('first');
        }
        this.#wait(why, advice?.retry_after_ms);
        if (!opened && (this.#failures <= 2 || this.#failures % 5 === 0)) this.#explain();
    }

    #wait(why, retryAfter = 0) {
        clearTimeout(this.#timer);
        const [least, most] = this.#options.backoff;
        const ceiling = Math.min(most, least * 2 ** Math.min(this.#failures + 1, 30));
        // All of it by chance: those who were dropped together do not come back together.
        const pause = retryAfter > 0 ? retryAfter : least + Math.random() * Math.max(0, ceiling - least);
        this.#notBefore = now() + Math.max(0, retryAfter);
        this.#waitUntil(why, now() + pause);
    }

    #waitUntil(why, at) {
        const pause = Math.max(0, at - now());
        this.#timer = setTimeout(() => {
            if (hidden()) this.#set({ ...this.#status, retryAt: null }); else this.#connect();
        }, pause);
        this.#set({ ...why, state: 'waiting', retryAt: hidden() ? null : Date.now() + pause });
    }

    // Somebody looks at the page again, or there is a network again.
    #wake = () => {
        if (hidden() || this.#ended) return;
        if (this.#status.state === 'waiting') {
            if (now() >= this.#notBefore) this.#connect();
            else {
                clearTimeout(this.#timer);
                const { code, reason } = this.#status;
                this.#waitUntil({ code, reason }, this.#notBefore);
            }
        } else {
            this.#doubt();
        }
    };

    // The network may have changed beneath the connection: ask now instead of when it is time.
    #doubt = () => {
        if (this.#status.state === 'open' && this.#pinged === null) this.#ping();
    };

    // A page that the browser keeps for its back button may hold no socket.
    #freeze = (event) => {
        if (!event.persisted || this.#ended || this.#status.state === 'closed' || this.#status.state === 'waiting') return;
        this.#drop();
        this.#askAgain();
        this.#failures = 0;
        this.#notBefore = 0;
        this.#set({ state: 'waiting', reason: 'The page was left.', retryAt: null });
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
        const headers = { Accept: 'application/json' };
        if (this.#usedToken !== undefined) headers.Authorization = `Bearer ${this.#usedToken}`;
        this.#question = new AbortController();
        let response, body = {};
        try {
            response = await fetch(url, { headers, cache: 'no-store', redirect: 'manual', signal: this.#question.signal });
            body = (await response.json()) ?? {};
        } catch {
            if (!response) return;
        }
        if (mine !== this.#try || this.#status.state !== 'waiting') return;
        const { status } = response;
        const code = status || undefined;
        const said = typeof body.message === 'string' ? body.message : '';
        if (response.type === 'opaqueredirect') {
            this.#explained({ reason: 'The app redirects instead of connecting: is a login missing?' });
        } else if (status === 403 || status === 501 || (status === 401 && typeof this.#options.token !== 'function')) {
            this.#end({ code, reason: said || `The server refused with ${status}.` });
        } else if (status === 401) {
            this.#explained({ code, reason: said || 'The token was not accepted.' });
        } else if (body.code === 'NOT_A_WEBSOCKET_REQUEST') {
            // Once may be a server that has just come up.
            if (this.#failures > 1) {
                this.#explained({
                    reason: 'The server answers, but no WebSocket comes through: a proxy must pass Upgrade and Connection on.',
                });
            }
        } else {
            const seconds = Number(response.headers.get('Retry-After'));
            const reason = said || `The server answered ${status} at ${url.pathname}.`;
            if (seconds > 0) {
                // Not all of them in that very second.
                this.#wait({ code, reason }, seconds * 1000 * (1 + Math.random() / 2));
            } else {
                this.#explained({ code, reason });
            }
        }
    }

    #explained(why) {
        if (why.reason !== this.#said) console.warn(`cartows: cannot connect: ${why.code ?? ''} ${why.reason}`);
        this.#said = why.reason;
        this.#set({ ...this.#status, ...why });
    }

    // Lets go of the socket, whatever state it is in, and of what belongs to it.
    #drop(code) {
        this.#try += 1;
        clearTimeout(this.#timer);
        clearTimeout(this.#watcher);
        clearTimeout(this.#drainer);
        clearTimeout(this.#resender);
        this.#question?.abort();
        this.#drainer = null;
        this.#pinged = null;
        this.#advice = null;
        this.#opened = false;
        const socket = this.#socket;
        this.#socket = null;
        if (socket) {
            socket.onmessage = socket.onclose = socket.onerror = null;
            socket.close(code);
        }
    }

    #end(why) {
        this.#drop(1000);
        clearTimeout(this.#loadTimer);
        this.#waiting.length = 0;
        this.#held.length = 0;
        this.#seen.clear();
        this.#loading = this.#loadAgain = null;
        this.#loads += 1;
        for (const waiter of this.#loadWaiters.splice(0)) waiter.reject(new Error(`The connection is closed: ${why.reason}`));
        for (const ask of this.#asked.splice(0)) ask.reject(new Error(`The connection is closed: ${why.reason}`));
        if (why.code !== 1000) console.warn(`cartows: closed for good: ${why.code ?? ''} ${why.reason}`);
        this.#set({ ...why, state: 'closed' });
    }

    #set(status) {
        this.#status = defined(status);
        tell(this.#stateListeners, this.#status);
    }

    // A sign of life ---------------------------------------------------------------------------------------------------

    // Pages do not see a WebSocket's own pings, so a server that has gone silent looks like one that has nothing to say.
    #watch() {
        clearTimeout(this.#watcher);
        const { pingInterval, pongWait } = this.#options;
        const due = this.#pinged === null ? this.#heard + pingInterval : this.#pinged + pongWait;
        this.#watcher = setTimeout(() => {
            if (this.#pinged !== null) {
                if (this.#heard < this.#pinged) return this.#lost(undefined, 'The server is silent.');
                this.#pinged = null;
            }
            if (now() - this.#heard >= pingInterval) this.#ping(); else this.#watch();
        }, Math.max(0, due - now()));
    }

    #ping() {
        this.#pinged = now();
        this.#socket.send(JSON.stringify({ type: 'ping', ref: 'ping' }));
        this.#watch();
    }

    // Receiving --------------------------------------------------------------------------------------------------------

    #receive(text, rest) {
        this.#heard = now();
        let message;
        try {
            message = JSON.parse(text);
        } catch {
            // As of what is no object, below.
        }
        if (typeof message?.type !== 'string') {
            console.error('cartows: the server sent something that is no message of its protocol');
            return;
        }
        const { type, id, data } = message;
        const since = this.#position;
        if (id !== undefined && type !== 'subscribed' && !this.#move(type, id)) return;
        switch (type) {
            case 'connected':
                this.#open(rest, since);
                if (data?.recovered === false) this.#reload('history');
                else if (since === null) this.#reload('first');
                break;
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
        if (!this.#opened && type !== 'disconnect' && this.#socket) this.#open(rest, since);  // no greeting, but it speaks
        if (this.#loading && (EVENTS.has(type) || (id !== undefined && !CONTROL.has(type)))) this.#hold(message);
        else this.#emit(message);
    }

    // Takes note of an id; returns false for an event that was here already.
    #move(type, id) {
        const standing = this.#asked.some((ask) => ask.since !== undefined);
        if (!standing) {
            this.#position = id;
            return true;
        }
        // A past is being brought: what comes is older than the position, and would come again after a broken connection.
        if (CONTROL.has(type)) return true;
        if (this.#seen.has(id)) return false;
        this.#seen.add(id);
        return true;
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
        if (this.#held.length > MOST_HELD) this.#reload(this.#loading);
    }

    #reload(reason) {
        if (this.#status.state === 'closed') return;
        // What waits is older than what is loaded now, and may be older than what was lost.
        this.#held.length = 0;
        if (this.#loading === null) this.#load(reason);
        else if (!LOST.has(this.#loadAgain)) this.#loadAgain = reason;
    }

    async #load(reason, failures = 0) {
        const { load } = this.#options;
        const loaders = [...(load ? [load] : []), ...(LOST.has(reason) ? this.#reloadListeners : [])];
        this.#shown = true;
        this.#loading = reason;
        const mine = this.#loads += 1;
        let failed = false;
        // All of them begin at once, and one that fails keeps no other from it.
        for (const { status, reason: error } of await Promise.allSettled(loaders.map(async (fn) => fn(reason)))) {
            if (status === 'rejected') {
                failed = true;
                report(error);
            }
        }
        if (mine !== this.#loads) return;  // closed meanwhile
        const again = this.#loadAgain;
        this.#loadAgain = null;
        if (failed) {
            const [least, most] = this.#options.backoff;
            const pause = least + Math.random() * Math.min(most, least * 2 ** Math.min(failures, 30));
            this.#loadTimer = setTimeout(() => this.#load(again ?? reason, failures + 1), pause);
        } else if (again !== null) {
            this.#load(again);
        } else {
            this.#loading = null;
            for (const message of this.#held.splice(0)) this.#emit(message);
            for (const { resolve } of this.#loadWaiters.splice(0)) resolve();
        }
    }

    // Rooms ------------------------------------------------------------------------------------------------------------

    #ask(ask) {
        const promise = new Promise((resolve, reject) => {
            Object.assign(ask, { resolve, reject, ref: String(++this.#ref), sent: false });
        });
        promise.catch(() => {});  // whoever does not look at it need not
        if (this.#status.state === 'closed') {
            ask.reject(new Error(`The connection is closed: ${this.#status.reason}`));
        } else {
            this.#asked.push(ask);
            this.#tellServer();
        }
        return promise;
    }

    #tellServer() {
        if (!this.#opened || !this.#socket) return;
        for (const ask of this.#asked.filter((each) => !each.sent)) {
            ask.sent = true;
            const data = { ...grouped(ask.rooms), since: ask.since, presence: ask.meta };
            this.#socket.send(JSON.stringify({ type: ask.type, data, ref: ask.ref }));
        }
    }

    #answered({ id, data, ref }) {
        const found = this.#asked.findIndex((ask) => ask.ref === ref);
        const { recovered, replayed, ...rooms } = data ?? {};
        this.#rooms = new Map(Object.entries(rooms).map(([key, names]) => [key, new Set(names)]));
        // Those that the query had no space for are held all the same.
        for (const own of this.#asked.filter((ask) => ask.own)) this.#addRooms(own.rooms);
        for (const [room, { rooms: [[key, name]] }] of this.#presences) {
            // Taken away by the server, or left. One that was entered just now is on its way.
            const asked = this.#asked.some((ask) => ask.meta !== undefined && roomKey(...ask.rooms[0]) === room);
            if (!asked && !this.#rooms.get(key)?.has(name)) this.#forget(room);
        }
        if (found < 0) return;
        const [ask] = this.#asked.splice(found, 1);
        if (ask.type === 'unsubscribe') this.#removeRooms(ask.rooms);
        if (!this.#asked.some((each) => each.since !== undefined)) {
            this.#seen.clear();
            if (id !== undefined) this.#position = id;
        }
        if (recovered === false) this.#reload('history');
        ask.resolve();
    }

    // The connection is gone: what it was asked is known by the next query, or asked again.
    #askAgain() {
        this.#asked = this.#asked.filter((ask) => !ask.own);
        for (const ask of this.#asked) {
            ask.sent = false;
            if (ask.type === 'unsubscribe') this.#removeRooms(ask.rooms);
        }
    }

    #addRooms(rooms) {
        for (const [key, name] of rooms) this.#rooms.set(key, (this.#rooms.get(key) ?? new Set()).add(name));
    }

    #removeRooms(rooms) {
        for (const [key, name] of rooms) {
            this.#rooms?.get(key)?.delete(name);
            // One that the page wrote into the URL itself.
            const left = this.#url.searchParams.getAll(key).filter((each) => each !== name);
            this.#url.searchParams.delete(key);
            for (const each of left) this.#url.searchParams.append(key, each);
        }
        this.#rooms ??= new Map();
    }

    #refused({ data, ref }) {
        if (data?.code === 'RATE_LIMITED') {
            // It does not say what was not handled. Whatever was is answered twice, which does no harm.
            clearTimeout(this.#resender);
            this.#resender = setTimeout(() => {
                for (const ask of this.#asked) ask.sent = false;
                this.#tellServer();
            }, 1000);
            return;
        }
        const found = this.#asked.findIndex((ask) => ask.ref === ref);
        if (found >= 0) this.#asked.splice(found, 1)[0].reject(new RefusedError(data));
    }

    // Presence ---------------------------------------------------------------------------------------------------------

    #show(entered, meta) {
        entered.meta = meta;
        // What is not told yet is told as it is now; each connection is told anew.
        if (entered.asked && !entered.asked.sent) {
            entered.asked.meta = meta;
            return;
        }
        const ask = { type: 'subscribe', rooms: entered.rooms, meta };
        entered.asked = ask;
        this.#ask(ask).catch((error) => {
            if (error instanceof RefusedError) {
                console.error(`cartows: this page is not shown in ${entered.rooms[0].join('=')}: ${error.message}`);
                this.#forget(roomKey(...entered.rooms[0]));
            }
        }).finally(() => {
            if (entered.asked === ask) entered.asked = null;
        });
    }

    #forget(room) {
        const found = this.#presences.get(room);
        if (!found) return;
        this.#presences.delete(room);
        this.#asked = this.#asked.filter((ask) => ask !== found.asked || ask.sent);
        takePresence(found.presence, 'presence.state', { count: 0, present: {} });
    }

    // Sending ----------------------------------------------------------------------------------------------------------

    #canSend() {
        return this.#opened && this.#socket.readyState === 1 && this.#socket.bufferedAmount < MOST_BUFFERED;
    }

    #drain(most) {
        if (this.#drainer !== null || !this.#opened) return;
        for (let n = 0; n < most && this.#waiting.length && this.#canSend(); n++) this.#socket.send(this.#waiting.shift());
        if (!this.#waiting.length) return;
        this.#drainer = setTimeout(() => {
            this.#drainer = null;
            this.#drain(RATE);
        }, 1000);
    }
}

// --- Small things -----------------------------------------------------------------------------------------------------

// Calls each of those who listen now; one that fails is reported as any error of the page is, and keeps nobody else from it.
function tell(listeners, argument) {
    for (const fn of [...listeners]) {
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
    const pairs = Object.entries(typeof rooms === 'object' && rooms !== null ? rooms : {}).flatMap(([key, names]) => {
        return (Array.isArray(names) ? names : [names]).map((name) => {
            if ((typeof name !== 'string' && !Number.isInteger(name)) || name === '') {
                throw new TypeError(`A room is named by a text or a whole number: ${key} is ${JSON.stringify(name)}`);
            }
            return [key, String(name)];
        });
    });
    if (!pairs.length) throw new TypeError("Name at least one room, e.g. {board_id: 'b1'}");
    return pairs;
}

function grouped(pairs) {
    const rooms = Object.create(null);
    for (const [key, name] of pairs) (rooms[key] ??= []).push(name);
    return rooms;
}

// The same as a map; none at all are no mistake here.
function held(rooms) {
    const pairs = Object.values(rooms).flat().length ? named(rooms) : [];
    const found = new Map();
    for (const [key, name] of pairs) found.set(key, (found.get(key) ?? new Set()).add(name));
    return found;
}
