// The state of this page: the projects and boards, the board that is shown and its tasks.
//
// The server's state and the user's latest changes are kept apart. The server's state has versions: an event or an answer
// whose version is not newer than the held one is ignored, since two requests that commit one after the other may be published
// in the other order. The user's changes are patches on top of it, removed once the server has answered: if it refused, its
// own state remains. Changes are applied at once, and drawn once per frame.

export const known = {
    projects: new Map(),
    boards: new Map(),  // of all projects, without their columns
    boardId: '',  // that is shown
    board: null,  // with its columns, once it is loaded
    state: 'loading',  // or 'shown', 'missing', 'none'
};

const tasks = new Map();
const patches = new Map();
// A late event must not bring a deleted task back. Ids are never used twice.
const deleted = new Set();

// --- Listeners --------------------------------------------------------------------------------------------------------------

const listeners = [];
let dirty = null;

export function onChange(listener) {
    listeners.push(listener);
}

// Everything that changes before the next frame is drawn in that one; a hidden page draws nothing.
export function mark(part, id) {
    if (!dirty) {
        dirty = { lists: false, board: false, tasks: new Set(), touched: new Set() };
        requestAnimationFrame(() => {
            const found = dirty;
            dirty = null;
            for (const listener of listeners) listener(found);
        });
    }
    if (id === undefined) dirty[part] = true; else dirty[part].add(id);
}

// --- The state of the server ------------------------------------------------------------------------------------------------

function isNewer(map, item) {
    const held = map.get(item.id);
    return !held || item.version > held.version;
}

export function putProject(project) {
    if (!isNewer(known.projects, project)) return;
    known.projects.set(project.id, project);
    mark('lists');
}

export function putBoard({ columns, ...summary }) {
    if (isNewer(known.boards, summary)) {
        known.boards.set(summary.id, summary);
        mark('lists');
    }
    if (columns && summary.id === known.boardId && summary.version > (known.board?.version ?? 0)) {
        known.board = { ...summary, columns };
        known.state = 'shown';
        mark('board');
    }
}

export function putTask(task) {
    if (deleted.has(task.id) || task.board_id !== known.boardId || !isNewer(tasks, task)) return false;
    tasks.set(task.id, task);
    mark('tasks', task.id);
    return true;
}

// Applies a new position. Returns false if the held task cannot be updated with it, because it is unknown or another change
// is missing in between.
export function putPosition(position) {
    const held = tasks.get(position.id);
    if (deleted.has(position.id) || (held && position.version <= held.version)) return true;
    if (held?.version !== position.version - 1) return false;
    tasks.set(position.id, { ...held, ...position });
    mark('tasks', position.id);
    return true;
}

export function isKnown(id) {
    return tasks.has(id) || deleted.has(id);
}

export function dropTask(id) {
    deleted.add(id);
    if (tasks.delete(id) || patches.has(id)) mark('tasks', id);
}

export function putLists(projects) {
    for (const { boards, ...project } of projects) {
        putProject(project);
        boards.forEach(putBoard);
    }
}

// The held state may be newer than the one that is put next, from a database that was restored.
export function clear() {
    for (const id of tasks.keys()) mark('tasks', id);
    tasks.clear();
    deleted.clear();
    known.projects.clear();
    known.boards.clear();
    known.board = null;
    mark('lists');
    mark('board');
}

export function putState({ board, tasks: found }) {
    const there = new Set(found.map((task) => task.id));
    for (const id of [...tasks.keys()]) {
        if (!there.has(id)) {
            tasks.delete(id);
            mark('tasks', id);
        }
    }
    found.forEach(putTask);
    putBoard(board);
}

// Shows another board, of which nothing is known yet.
export function view(boardId) {
    known.boardId = boardId;
    known.board = null;
    known.state = boardId ? 'loading' : 'none';
    for (const id of tasks.keys()) mark('tasks', id);
    tasks.clear();
    mark('board');
    mark('lists');
}

export function setMissing() {
    known.state = 'missing';
    known.board = null;
    mark('board');
}

// --- The changes of the user ------------------------------------------------------------------------------------------------

// Puts fields on top of a task; with an id among them it may be one that the server does not have yet. Returns a function
// that removes them.
export function patch(id, fields) {
    const own = { ...fields };
    patches.set(id, [...(patches.get(id) ?? []), own]);
    mark('tasks', id);
    return () => {
        const left = (patches.get(id) ?? []).filter((each) => each !== own);
        if (left.length) patches.set(id, left); else patches.delete(id);
        mark('tasks', id);
    };
}

export function isPatched(id) {
    return patches.has(id);
}

// --- The state to draw ------------------------------------------------------------------------------------------------------

export function taskOf(id) {
    if (deleted.has(id)) return null;
    const held = tasks.get(id);
    const mine = patches.get(id);
    if (!mine) return held ?? null;
    const whole = Object.assign({}, held, ...mine);
    return whole.id && !whole.deleted && whole.board_id === known.boardId ? whole : null;
}

export function serverTask(id) {
    return tasks.get(id) ?? null;
}

// All tasks by the id of their column, in order.
export function tasksByColumn() {
    const columns = new Map((known.board?.columns ?? []).map((column) => [column.id, []]));
    for (const id of new Set([...tasks.keys(), ...patches.keys()])) {
        const task = taskOf(id);
        // A task whose column is not known yet waits for it: their events came in the other order.
        if (task) columns.get(task.column_id)?.push(task);
    }
    for (const list of columns.values()) list.sort((a, b) => a.position - b.position || (a.id < b.id ? -1 : 1));
    return columns;
}

// The position at an index of a list in order; the server computes its own in the same way.
export function positionAt(list, index) {
    const left = list[index - 1]?.position, right = list[index]?.position;
    if (left === undefined) return right === undefined ? 0 : right - 1024;
    return right === undefined ? left + 1024 : (left + right) / 2;
}
