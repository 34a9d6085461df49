// The connection: subscriptions, loading, what events change in the store, presence, and the status light.

import { call } from './call.js';
import { byId, setText } from './elements.js';
import { toast } from './messages.js';
import {
    dropTask, clear, isPatched, known, isKnown, putBoard, putLists, putPosition, putProject, putState, putTask, setMissing, view,
} from './store.js';
import { flash } from './view.js';

const { path } = document.body.dataset;
let connection = null;
let shown = {};
let presence = null;
const presenceListeners = [];
const listening = new WeakSet();

export async function start(boardId, meta) {
    const { connect } = await import(`${path}/cartows.js`);
    shown = meta;
    view(boardId);
    // Only the board that is shown: changes of the lists of projects and boards are sent to every client.
    connection = connect(path, { filters: boardId ? { board_id: boardId } : {}, load, onState: light });
    connection.on('project.created', ({ data }) => putProject(data.project));
    connection.on('project.updated', ({ data }) => putProject(data.project));
    connection.on('board.updated', ({ data }) => {
        putBoard(data.board);
        if (data.action === 'reordered' && data.board_id === known.boardId) applyPositions(data.changes);
    });
    connection.on('task.created', ({ data }) => apply(data.task));
    connection.on('task.updated', ({ data }) => {
        // An unknown task may have been deleted since: ask the server.
        if (isKnown(data.task_id)) apply(data.task); else if (data.board_id === known.boardId) fetchTask(data.task_id);
    });
    connection.on('task.deleted', ({ data }) => dropTask(data.task_id));
    connection.on('error', ({ error, data }) => {
        // Requests over the rate limit are sent again by the client.
        if (data?.code !== 'RATE_LIMITED') toast(`Error: ${error}`);
    });
    byId('retry').addEventListener('click', () => connection.retry());
    enter();
}

// Events that arrive while this runs are held back by the client, and delivered after it.
async function load(reason) {
    const boardId = known.boardId;
    const board = boardId ? call('GET', `/boards/${boardId}`).catch((error) => {
        if (error.status !== 404) throw error;
        return null;
    }) : null;
    const [lists, state] = await Promise.all([call('GET', '/projects'), board]);
    // The server may have come back with an older database, whose versions are lower.
    if (reason === 'history' || reason === 'restored') clear();
    putLists(lists);
    if (boardId !== known.boardId) return;  // another board is shown by now, and will be loaded
    if (state) putState(state); else if (boardId) setMissing();
}

// Shows another board: subscribes to its events first and then loads it, so that nothing is missed in between; then
// unsubscribes from the old one.
export async function show(boardId) {
    if (boardId === known.boardId) return;
    const left = known.boardId;
    view(boardId);
    presence = null;
    notifyPresence();
    // Without a connection the board can still be loaded.
    if (connection.state === 'closed') load().catch((error) => toast(error.message));
    else if (connection.state !== 'open') connection.reload();
    await subscribe(boardId, left ? [left] : []);
}

let subscribing = 0;

async function subscribe(boardId, left) {
    subscribing += 1;
    try {
        if (boardId) await connection.subscribe({ board_id: boardId });
        if (known.boardId === boardId) {
            enter();
            await connection.reload();
        }
        const others = left.filter((id) => id !== known.boardId);
        if (others.length) await connection.unsubscribe({ board_id: others });
    } catch (error) {
        // After a reconnect this is done again.
        if (connection.state !== 'closed') toast(`The events of this board cannot be received: ${error.message}`);
    } finally {
        subscribing -= 1;
    }
}

// After a final close and a Retry the connection has its earlier subscriptions, perhaps to another board.
function subscribeToShown() {
    const held = connection?.filters?.board_id ?? [];
    if (connection && !subscribing && known.boardId && !held.includes(known.boardId)) subscribe(known.boardId, held);
}

// --- Tasks ------------------------------------------------------------------------------------------------------------------

function apply(task) {
    // A change of this page's own is shown already, and needs no highlight.
    if (putTask(task) && !isPatched(task.id)) flash(task.id);
}

// New positions of tasks in their columns, by the ids of the tasks; or a new order of the columns, which the board has.
function applyPositions({ columns, ...positions }) {
    for (const [id, position] of Object.entries(positions)) if (!putPosition({ id, ...position })) fetchTask(id);
}

// The tasks being fetched: by id, whether another event arrived meanwhile, so that the answer may be outdated.
const fetching = new Map();

async function fetchTask(id) {
    if (fetching.has(id)) {
        fetching.set(id, true);
        return;
    }
    fetching.set(id, false);
    try {
        apply(await call('GET', `/tasks/${id}`));
    } catch (error) {
        if (error.status === 404) dropTask(id); else connection.reload();
    } finally {
        const again = fetching.get(id);
        fetching.delete(id);
        if (again) fetchTask(id);
    }
}

// --- Presence ---------------------------------------------------------------------------------------------------------------

export function onPresence(listener) {
    presenceListeners.push(listener);
}

export function showMe(meta) {
    shown = meta;
    presence?.update(meta);
}

function enter() {
    if (!known.boardId) return;
    const mine = presence = connection.presence({ board_id: known.boardId }, shown);
    // The same object, unless the room was left in between.
    if (!listening.has(mine)) {
        listening.add(mine);
        mine.onChange(() => {
            if (mine === presence) notifyPresence();
        });
    }
    notifyPresence();
}

function notifyPresence() {
    for (const listener of presenceListeners) listener(presence);
}

// --- The light --------------------------------------------------------------------------------------------------------------

let counting;
let lost = false;

function light({ state, reason, retryAt }) {
    clearInterval(counting);
    lost = state === 'waiting' || (lost && state === 'connecting');
    // One text for all tries after a loss, since a screen reader reads each change of it.
    const connecting = lost ? 'reconnecting' : 'connecting';
    const texts = { connecting, open: 'live', waiting: 'reconnecting', closed: `closed: ${reason}` };
    byId('light').dataset.state = state;
    byId('light').title = state === 'open' ? 'Changes of others appear at once.' : (reason ?? '');
    setText(byId('light-text'), texts[state]);
    const hadFocus = document.activeElement === byId('retry');
    byId('retry').hidden = state !== 'waiting' && state !== 'closed';
    if (hadFocus && byId('retry').hidden) document.querySelector('#board [tabindex="0"]')?.focus();
    if (state === 'open') subscribeToShown();
    // The seconds are hidden from screen readers, which would read each of them.
    const count = () => setText(byId('light-seconds'), `in ${Math.max(1, Math.ceil((retryAt - Date.now()) / 1000))} s`);
    if (state === 'waiting' && retryAt) {
        count();
        counting = setInterval(count, 1000);
    } else {
        setText(byId('light-seconds'), state === 'waiting' ? 'when this tab is shown' : '');
    }
}
