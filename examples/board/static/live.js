// The connection: which rooms are heard, what is loaded, what an event does to the store, and the light.

import { call } from './call.js';
import { byId, setText } from './make.js';
import { toast } from './say.js';
import {
    dropTask, isPatched, known, knows, putBoard, putLists, putPlace, putProject, putState, putTask, setMissing, view,
} from './store.js';
import { flash } from './view.js';

const { path } = document.body.dataset;
let connection = null;
let shown = {};
let presence = null;
const presenceListeners = [];

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
    connection.on('error', ({ error }) => toast(`The server says: ${error}`));
    byId('retry').addEventListener('click', () => connection.retry());
    enter();
}

// Whatever happens while this runs is held back by the client, and handed out after it.
async function load() {
    const boardId = known.boardId;
    const board = boardId ? call('GET', `/boards/${boardId}`).catch((error) => {
        if (error.status !== 404) throw error;
        return null;
    }) : null;
    const [lists, state] = await Promise.all([call('GET', '/projects'), board]);
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
    try {
        if (boardId) await connection.subscribe({ board_id: boardId });
        if (known.boardId === boardId) {
            enter();
            await connection.reload();
        }
        if (left && left !== known.boardId) await connection.unsubscribe({ board_id: left });
    } catch (error) {
        toast(`The board cannot be heard: ${error.message}`);
    }
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

const asked = new Set();

async function ask(id) {
    if (asked.has(id)) return;
    asked.add(id);
    try {
        take(await call('GET', `/tasks/${id}`));
    } catch (error) {
        if (error.status === 404) dropTask(id); else console.warn(error);
    } finally {
        asked.delete(id);
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
    mine.onChange(() => {
        if (mine === presence) tellPresence();
    });
    tellPresence();
}

function tellPresence() {
    for (const listener of presenceListeners) listener(presence);
}

// --- The light --------------------------------------------------------------------------------------------------------------

let counting;

function light({ state, reason, retryAt }) {
    clearInterval(counting);
    const words = { connecting: 'connecting', open: 'live', waiting: 'again', closed: `closed: ${reason}` };
    byId('light').dataset.state = state;
    byId('light').title = state === 'open' ? 'Changes of others appear at once.' : (reason ?? '');
    setText(byId('light-text'), words[state]);
    byId('retry').hidden = state !== 'waiting' && state !== 'closed';
    // The seconds are for the eye alone: nobody wants to be read each of them.
    const count = () => setText(byId('light-seconds'), `in ${Math.max(1, Math.ceil((retryAt - Date.now()) / 1000))} s`);
    if (state === 'waiting' && retryAt) {
        count();
        counting = setInterval(count, 1000);
    } else {
        setText(byId('light-seconds'), state === 'waiting' ? 'when this tab is looked at' : '');
    }
}
