// The connection: which rooms are heard, what is loaded, what an event does to the store, and the light.

import { call } from './call.js';
import { byId, setText } from './make.js';
import { toast } from './say.js';
import {
    dropTask, forgetAll, isPatched, known, knows, putBoard, putLists, putPlace, putProject, putState, putTask, setMissing, view,
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
    // The board in view alone: what the lists of projects and boards show is sent to every client, whatever it hears.
    connection = connect(path, { filters: boardId ? { board_id: boardId } : {}, load, onState: light });
    connection.on('project.created', ({ data }) => putProject(data.project));
    connection.on('project.updated', ({ data }) => putProject(data.project));
    connection.on('board.updated', ({ data }) => {
        putBoard(data.board);
        if (data.action === 'reordered' && data.board_id === known.boardId) takePlaces(data.changes);
    });
    connection.on('task.created', ({ data }) => take(data.task));
    connection.on('task.updated', ({ data }) => {
        // One that is not known may be deleted since: the server knows.
        if (knows(data.task_id)) take(data.task); else if (data.board_id === known.boardId) ask(data.task_id);
    });
    connection.on('task.deleted', ({ data }) => dropTask(data.task_id));
    connection.on('error', ({ error, data }) => {
        // What it had no rate left for is asked again by the client.
        if (data?.code !== 'RATE_LIMITED') toast(`The server says: ${error}`);
    });
    byId('retry').addEventListener('click', () => connection.retry());
    enter();
}

// Whatever happens while this runs is held back by the client, and handed out after it.
async function load(reason) {
    const boardId = known.boardId;
    const board = boardId ? call('GET', `/boards/${boardId}`).catch((error) => {
        if (error.status !== 404) throw error;
        return null;
    }) : null;
    const [lists, state] = await Promise.all([call('GET', '/projects'), board]);
    // The server may have come back with an older database, whose versions are lower.
    if (reason === 'history' || reason === 'restored') forgetAll();
    putLists(lists);
    if (boardId !== known.boardId) return;  // another one is wanted by now, and will be loaded
    if (state) putState(state); else if (boardId) setMissing();
}

// Looks at another board: its events first, then what is there, so that nothing falls between the two; then the old one is
// left.
export async function show(boardId) {
    if (boardId === known.boardId) return;
    const left = known.boardId;
    view(boardId);
    presence = null;
    tellPresence();
    // What cannot be heard can be looked at all the same.
    if (connection.state === 'closed') load().catch((error) => toast(error.message));
    else if (connection.state !== 'open') connection.reload();
    await hear(boardId, left ? [left] : []);
}

let asking = 0;

async function hear(boardId, left) {
    asking += 1;
    try {
        if (boardId) await connection.subscribe({ board_id: boardId });
        if (known.boardId === boardId) {
            enter();
            await connection.reload();
        }
        const others = left.filter((id) => id !== known.boardId);
        if (others.length) await connection.unsubscribe({ board_id: others });
    } catch (error) {
        // Once it is connected again, if ever, that is seen to.
        if (connection.state !== 'closed') toast(`The board cannot be heard: ${error.message}`);
    } finally {
        asking -= 1;
    }
}

// After a final close and a Retry the connection hears what it heard before, which may be another board.
function hearWhatIsShown() {
    const held = connection?.filters?.board_id ?? [];
    if (connection && !asking && known.boardId && !held.includes(known.boardId)) hear(known.boardId, held);
}

// --- Tasks ------------------------------------------------------------------------------------------------------------------

function take(task) {
    // What this page did itself lies above it, and needs no pointing at.
    if (putTask(task) && !isPatched(task.id)) flash(task.id);
}

// New places of tasks in their columns, by the ids of the tasks; or another order of the columns, which the board has.
function takePlaces({ columns, ...places }) {
    for (const [id, place] of Object.entries(places)) if (!putPlace({ id, ...place })) ask(id);
}

// By id, whether something newer came while it was asked for: then the answer may be the older one.
const asked = new Map();

async function ask(id) {
    if (asked.has(id)) {
        asked.set(id, true);
        return;
    }
    asked.set(id, false);
    try {
        take(await call('GET', `/tasks/${id}`));
    } catch (error) {
        if (error.status === 404) dropTask(id); else connection.reload();
    } finally {
        const again = asked.get(id);
        asked.delete(id);
        if (again) ask(id);
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
    // The same object where the room was not left in between.
    if (!listening.has(mine)) {
        listening.add(mine);
        mine.onChange(() => {
            if (mine === presence) tellPresence();
        });
    }
    tellPresence();
}

function tellPresence() {
    for (const listener of presenceListeners) listener(presence);
}

// --- The light --------------------------------------------------------------------------------------------------------------

let counting;
let lost = false;

function light({ state, reason, retryAt }) {
    clearInterval(counting);
    lost = state === 'waiting' || (lost && state === 'connecting');
    // One word for all tries after a loss, or each of them would be read to those who cannot see it.
    const connecting = lost ? 'reconnecting' : 'connecting';
    const words = { connecting, open: 'live', waiting: 'reconnecting', closed: `closed: ${reason}` };
    byId('light').dataset.state = state;
    byId('light').title = state === 'open' ? 'Changes of others appear at once.' : (reason ?? '');
    setText(byId('light-text'), words[state]);
    const hadFocus = document.activeElement === byId('retry');
    byId('retry').hidden = state !== 'waiting' && state !== 'closed';
    if (hadFocus && byId('retry').hidden) document.querySelector('#board [tabindex="0"]')?.focus();
    if (state === 'open') hearWhatIsShown();
    // The seconds are for the eye alone: nobody wants to be read each of them.
    const count = () => setText(byId('light-seconds'), `in ${Math.max(1, Math.ceil((retryAt - Date.now()) / 1000))} s`);
    if (state === 'waiting' && retryAt) {
        count();
        counting = setInterval(count, 1000);
    } else {
        setText(byId('light-seconds'), state === 'waiting' ? 'when this tab is looked at' : '');
    }
}
