// The types of cartows.js. The part between the two marks is generated from the Python structs: see tools/export_schema.py.

// <events>
export type Id = string | number;

export interface TaskEvent<Task = any> {
    task_id: Id;
    board_id: Id;
    project_id?: Id;
    action: string;
    changes?: Partial<Task>;
    task?: Task;
}

export interface ProjectEvent<Project = any> {
    project_id: Id;
    action: string;
    changes?: Partial<Project>;
    project?: Project;
}

export interface BoardEvent<Board = any> {
    board_id: Id;
    project_id?: Id;
    action: string;
    changes?: Partial<Board>;
    board?: Board;
}

export interface ErrorEvent {
    code: 'INVALID_MESSAGE' | 'UNKNOWN_TYPE' | 'FORBIDDEN' | 'RATE_LIMITED' | 'INTERNAL' | (string & {});
    message: string;
    details?: string;
}

export interface TypedEvents {
    'task.created': TaskEvent & { action: 'created' };
    'task.updated': TaskEvent & { action: 'updated' | 'moved' };
    'task.deleted': TaskEvent & { action: 'deleted' };
    'project.created': ProjectEvent & { action: 'created' };
    'project.updated': ProjectEvent & { action: 'updated' };
    'board.updated': BoardEvent & { action: 'updated' | 'reordered' };
}
// </events>

/** The name of a room: a string, or a number that is compared as a string. */
export type RoomName = string | number;

/** Rooms by their key, e.g. `{board_id: ['b1', 'b2'], project_id: 'p1'}`. */
export type Rooms = Record<string, RoomName | readonly RoomName[]>;

/** One message from the server. */
export interface Message<Data = any, Type extends string = string> {
    type: Type;
    /** RFC 3339, UTC. */
    timestamp: string;
    /** The position after this event; opaque. */
    id?: string;
    data: Data;
    /** In an answer: the `ref` of the message that it answers. */
    ref?: string;
    /** A sentence, in an `error` message. */
    error?: string;
}

/** The `data` of each type of message that the server itself defines. */
export interface Events extends TypedEvents {
    connected: { client_id: string; id: string; ping_interval_ms: number; recovered?: boolean; replayed?: number };
    disconnect: { code: number; reason: string; reconnect: boolean; retry_after_ms: number };
    pong: { incomplete?: true } | undefined;
    error: ErrorEvent;
    subscribed: Record<string, any>;
    unsubscribed: Record<string, any>;
    'auth.refreshed': { expires_in_ms?: number };
    'presence.state': { key: string; value: string; count: number; present?: Record<string, Entry[]> };
    'presence.diff': {
        key: string;
        value: string;
        count: number;
        joins?: Record<string, Entry[]>;
        leaves?: Record<string, Entry[]>;
    };
    degraded: undefined;
    restored: { recovered: boolean };
}

/** A request that the server refused: the `data` of its `error` message. */
export class RefusedError extends Error {
    private constructor();
    code: ErrorEvent['code'];
    details: string;
}

export type State = 'connecting' | 'open' | 'waiting' | 'closed';

/** The state of a connection, and the reason for it. */
export interface Status {
    state: State;
    /** Why the last connection ended: a WebSocket close code, or the HTTP status with which the server refused it. */
    code?: number;
    /** The reason in words. */
    reason?: string;
    /** While `waiting`: the time of the next attempt, as of `Date.now()`; null while the tab is hidden. */
    retryAt?: number | null;
}

/**
 * Why the page must load what it shows: for the first time (`first`), because the server's history does not reach back to the
 * position of the page (`history`), because the server lost events (`restored`), because the page read too slowly
 * (`incomplete`), or because it called `reload()` (`asked`).
 */
export type LoadReason = 'first' | 'history' | 'restored' | 'incomplete' | 'asked';

export interface Options {
    /**
     * The rooms to subscribe to. Without it: everything, if the server allows that; `{}`: nothing until `subscribe`. Name rooms
     * here and not in the URL: those in the URL are requested again with each connection.
     */
    filters?: Rooms;
    /**
     * A bearer token, or a function that returns one: it is called for the first connection, when the token has expired, and
     * after a refusal.
     */
    token?: string | null | (() => string | Promise<string>);
    /** The position after which to begin: that of a page that the server rendered, or an earlier `connection.position`. */
    since?: string | null;
    /**
     * Fetch what the page shows. Called once connected, unless `since` is given, and again whenever events were missed for
     * good; also after a first attempt that failed, unless it was final, so that a page that cannot connect shows something.
     * The promise that it returns is awaited: events that come meanwhile are delivered after it, so that none is lost. If it
     * fails it is called again, at growing intervals.
     */
    load?: (reason: LoadReason) => unknown;
    /** Like `load`, for a page that already has its first data: called only when events were missed for good. */
    onReload?: (reason: LoadReason) => unknown;
    /** Like the method `onState`; added after the page's own code has run. */
    onState?: (status: Status) => void;
    /** Milliseconds of silence after which a ping is sent. Default: 25,000. */
    pingInterval?: number;
    /** Milliseconds in which the server must answer a ping. Default: 10,000. */
    pongWait?: number;
    /** Milliseconds that an attempt to connect may take. Default: 15,000. */
    connectWait?: number;
    /** The shortest and the longest time between two attempts, in milliseconds. Default: [500, 20,000]. */
    backoff?: readonly [min: number, max: number];
    /** The largest number of messages of `send` that wait while there is no connection. Default: 100. */
    sendQueue?: number;
}

/** The presence entry of one tab. */
export interface Entry<Meta = any> {
    ref: string;
    meta: Meta;
}

/** Who is in a room: a live map from each identity to the entries of its tabs. */
export class Presence<Meta = any> implements ReadonlyMap<string, readonly Entry<Meta>[]> {
    private constructor();
    /** The number of identities in the room. */
    readonly count: number;
    /** False while only `count` is known: before the first answer of the server, and in very large rooms. */
    readonly complete: boolean;
    readonly size: number;
    get(who: string): readonly Entry<Meta>[] | undefined;
    has(who: string): boolean;
    keys(): MapIterator<string>;
    values(): MapIterator<readonly Entry<Meta>[]>;
    entries(): MapIterator<[string, readonly Entry<Meta>[]]>;
    forEach(fn: (entries: readonly Entry<Meta>[], who: string, map: ReadonlyMap<string, readonly Entry<Meta>[]>) => void): void;
    [Symbol.iterator](): MapIterator<[string, readonly Entry<Meta>[]]>;
    readonly [Symbol.toStringTag]: string;
    /**
     * Call `fn` for each tab that joins; `first` is whether it is the identity's only tab. Returns a function that removes it.
     */
    onJoin(fn: (join: Entry<Meta> & { who: string; first: boolean }) => void): () => void;
    /**
     * Call `fn` for each tab that leaves; `last` is whether the identity has no tab left. Not called for the others when this
     * page leaves the room, or is removed from it: then the map is empty, and `onChange` is called. Returns a function that
     * removes it.
     */
    onLeave(fn: (leave: Entry<Meta> & { who: string; last: boolean }) => void): () => void;
    /** Call `fn` once after each change, also of a meta. Returns a function that removes it. */
    onChange(fn: (presence: Presence<Meta>) => void): () => void;
    /** Replace the meta of this tab. */
    update(meta: Meta): void;
    /** Leave the room, and unsubscribe from it. */
    leave(): void;
}

export class Connection {
    private constructor();
    readonly state: State;
    readonly status: Status;
    /** The last position, e.g. for the `since` of the next page. */
    readonly position: string | null;
    /** The rooms subscribed to, null for everything. */
    readonly filters: Record<string, string[]> | null;
    /** Call `fn` for each message of a type, or for all with `"*"`. Returns a function that removes it. */
    on<Type extends keyof Events>(type: Type, fn: (message: Message<Events[Type], Type>) => void): () => void;
    on(type: string, fn: (message: Message) => void): () => void;
    /** Call `fn` at once with the state, and for each change of it. Returns a function that removes it. */
    onState(fn: (status: Status) => void): () => void;
    /** Call `fn` when events were missed for good; see `Options.load`. Returns a function that removes it. */
    onReload(fn: (reason: LoadReason) => unknown): () => void;
    /**
     * Call `load` again, e.g. after a change of boards; events wait meanwhile. Resolves when it is done, so `load` itself must
     * not await it.
     */
    reload(): Promise<void>;
    /**
     * Subscribe to more rooms, all or none of them; this ends a subscription to everything. With `since` the events of these
     * rooms after that position come first, without those that have come on this connection. Resolves when the server has
     * answered, after a reconnect if necessary; rejects with RefusedError, and when the connection is closed for good. Requests
     * are sent one at a time, within the rate limit of the server.
     */
    subscribe(rooms: Rooms, options?: { since?: string | null }): Promise<void>;
    /** Unsubscribe from rooms, and leave their presence. Resolves and rejects like `subscribe`. */
    unsubscribe(rooms: Rooms): Promise<void>;
    /**
     * Subscribe to one room, e.g. `{board_id: 'b1'}`, and show this page there with `meta`. The same room gives the same
     * object. A refusal of the server is an `error` message, and is logged to the console.
     */
    presence<Meta = any>(room: Record<string, RoomName>, meta?: Meta): Presence<Meta>;
    /**
     * Send a message of the application's own, for its `@ws.on(type)`. Without a connection it waits for one; returns false,
     * and does not send it, when too many wait. A message that is on its way when the connection breaks may be lost. So may one
     * that is over the server's `rate_limit`, which an `error` with RATE_LIMITED reports. (Such an `error` may also be about a
     * request of this client itself, which is sent again.)
     */
    send(type: string, data?: unknown): boolean;
    /** Connect now instead of waiting, also after the server has closed for good; not after `close()`. */
    retry(): void;
    /** Close the connection for good. */
    close(): void;
}

/** Connect to `ws:` or `wss:`, or to a path of this page's host such as `/ws`, and stay connected. */
export function connect(url: string | URL, options?: Options): Connection;
