// The types of cartows.js. What stands between the two marks below is made from the Python structs: see tools/export_schema.py.

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

/** What a room is called: text, or a number that is compared as text. */
export type RoomName = string | number;

/** Rooms by their key, e.g. `{board_id: ['b1', 'b2'], project_id: 'p1'}`. */
export type Rooms = Record<string, RoomName | readonly RoomName[]>;

/** One message of the server. */
export interface Message<Data = any, Type extends string = string> {
    type: Type;
    /** RFC 3339, UTC. */
    timestamp: string;
    /** The position behind this event; opaque. */
    id?: string;
    data: Data;
    /** In an answer: that of the message it answers. */
    ref?: string;
    /** A sentence, in an `error` message. */
    error?: string;
}

/** The `data` of each type of message that the server sends by itself. */
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

/** What is wrong with something that was asked of the server: the `data` of an `error` message. */
export class RefusedError extends Error {
    private constructor();
    code: ErrorEvent['code'];
    details: string;
}

export type State = 'connecting' | 'open' | 'waiting' | 'closed';

/** The state of a connection, and why it is so. */
export interface Status {
    state: State;
    /** Why the last connection ended: a WebSocket close code, or the HTTP status with which the server refused. */
    code?: number;
    /** The same in words. */
    reason?: string;
    /** While `waiting`: when the next try is made, as `Date.now()` counts; null while the tab is hidden. */
    retryAt?: number | null;
}

/**
 * Why the page has to load what it shows: it does for the first time, the server's history does not reach back to where this
 * page was, the server lost something, this page read too slowly, or it asked for it by `reload()`.
 */
export type LoadReason = 'first' | 'history' | 'restored' | 'incomplete' | 'asked';

export interface Options {
    /**
     * What to hear. Left out: everything, if the server allows that; `{}`: nothing until `subscribe`. Rooms belong here and not
     * into the URL, where they are asked for again with each connection.
     */
    filters?: Rooms;
    /** A bearer token, or what returns one: asked at first, when the server says that it has expired, and after a refusal. */
    token?: string | null | (() => string | Promise<string>);
    /** The position behind which to begin: that of a page which the server rendered, or `connection.position` of an earlier one. */
    since?: string | null;
    /**
     * Fetch what the page shows. Called once connected, unless `since` is given, and again whenever events were missed for good;
     * also once the first try has failed, so that a page which cannot connect shows something, unless that was for good.
     * What it returns is waited for: events that come meanwhile are handed out after it, so that none is lost in between. When it
     * fails it is tried again, later and later.
     */
    load?: (reason: LoadReason) => unknown;
    /** As `load`, for a page that fetches by itself at first: called only when events were missed for good. */
    onReload?: (reason: LoadReason) => unknown;
    /** As `onState`, added once the page's own code has run. */
    onState?: (status: Status) => void;
    /** Milliseconds of silence after which the server is asked whether it is there; 25,000. */
    pingInterval?: number;
    /** Milliseconds that it has to answer; 10,000. */
    pongWait?: number;
    /** Milliseconds that a connection may take to be made; 15,000. */
    connectWait?: number;
    /** The least and the most milliseconds between two tries; [500, 20,000]. */
    backoff?: readonly [least: number, most: number];
    /** How many messages of `send` may wait while there is no connection; 100. */
    sendQueue?: number;
}

/** What one tab of somebody shows. */
export interface Entry<Meta = any> {
    ref: string;
    meta: Meta;
}

/** Who is in a room: a live map from identities to their tabs. */
export class Presence<Meta = any> implements ReadonlyMap<string, readonly Entry<Meta>[]> {
    private constructor();
    /** How many people are there. */
    readonly count: number;
    /** False while only `count` is known: at first, without a connection for the first time, and in very large rooms. */
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
    /** Be told of each tab that comes; `first` when it is that person's only one. Returns what ends this. */
    onJoin(fn: (join: Entry<Meta> & { who: string; first: boolean }) => void): () => void;
    /**
     * Be told of each tab that goes; `last` when nothing is left of that person. Not of those who stay when this page leaves the
     * room, or is taken out of it: then the map is empty, and `onChange` is told. Returns what ends this.
     */
    onLeave(fn: (leave: Entry<Meta> & { who: string; last: boolean }) => void): () => void;
    /** Be told once after each change, one that only replaces what somebody shows included. Returns what ends this. */
    onChange(fn: (presence: Presence<Meta>) => void): () => void;
    /** Show something else of this tab. */
    update(meta: Meta): void;
    /** Leave the room, and hear it no more. */
    leave(): void;
}

export class Connection {
    private constructor();
    readonly state: State;
    readonly status: Status;
    /** The last position; to be kept, e.g. for `since` of the next page. */
    readonly position: string | null;
    /** The rooms held, null for everything. */
    readonly filters: Record<string, string[]> | null;
    /** Be told of each message of a type, or of all with `"*"`. Returns what ends this. */
    on<Type extends keyof Events>(type: Type, fn: (message: Message<Events[Type], Type>) => void): () => void;
    on(type: string, fn: (message: Message) => void): () => void;
    /** Be told of each change of state; called at once with the present one. Returns what ends this. */
    onState(fn: (status: Status) => void): () => void;
    /** Be told when events were missed for good; see `Options.load`. Returns what ends this. */
    onReload(fn: (reason: LoadReason) => unknown): () => void;
    /**
     * Call `load` again, e.g. for another board that is heard now; events wait meanwhile. Resolves when it is done, so `load`
     * itself must not wait for it.
     */
    reload(): Promise<void>;
    /**
     * Hear more rooms, all or none, and no longer everything; with `since` their past behind that position first, less what has
     * come on this connection. Settles once the server has answered, after a reconnect if need be; rejects with RefusedError, and
     * when the connection is closed for good. Questions are asked one at a time, at a pace that servers take.
     */
    subscribe(rooms: Rooms, options?: { since?: string | null }): Promise<void>;
    /** Hear fewer rooms, and leave those where this page is shown. Settles as `subscribe` does. */
    unsubscribe(rooms: Rooms): Promise<void>;
    /**
     * Subscribe to one room, e.g. `{board_id: 'b1'}`, and be shown there as `meta`. The same room gives the same object. What the
     * server refuses is an `error`, and said on the console.
     */
    presence<Meta = any>(room: Record<string, RoomName>, meta?: Meta): Presence<Meta>;
    /**
     * Send a message of the app's own to its `@ws.on(type)`. Without a connection it waits for one; false when too many do, and
     * it is not sent. What is under way when a connection breaks may be lost, and so may what is sent faster than the server's
     * `rate_limit`: an `error` with RATE_LIMITED says so. (It may also speak of a question of this client's, which is asked again.)
     */
    send(type: string, data?: unknown): boolean;
    /** Try now instead of waiting, or after the server has closed for good; not after `close()`. */
    retry(): void;
    /** End it for good. */
    close(): void;
}

/** Connect to `ws:` or `wss:`, or to a path of this page's host such as `/ws`, and stay connected. */
export function connect(url: string | URL, options?: Options): Connection;
