// What this page knows: the projects and boards, the board in view and its tasks.
//
// What the server said and what the user did a moment ago are kept apart. The first has versions: an event or an answer whose
// version is not newer than what is held is ignored, since two requests that commit one after the other may be told the other
// way round. The second lies above it as patches, which are taken away once the server has answered: when it refused, what is
// left is the truth. Changes are taken in at once, and shown once per frame.

export const known = {
    projects: new Map(),
    boards: new Map(),  // of all projects, without their columns
    boardId: '',  // in view
    board: null,  // with its columns, once it is loaded
    state: 'loading',  // or 'shown', 'missing', 'none'
};

const tasks = new Map();
const patches = new Map();
// A deleted task does not come back by an event that is late. Ids are never given twice.
const gone = new Set();

// --- Telling who shows it ---------------------------------------------------------------------------------------------------

const listeners = [];
let dirty = null;

export function onChange(listener) {
    listeners.push(listener);
}

// Whatever happens until the next frame is shown in that one; a page that nobody sees shows nothing at all.
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

// --- What the server said ----------------------------------------------------------------------------------------------------

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
    if (gone.has(task.id) || task.board_id !== known.boardId || !isNewer(tasks, task)) return false;
    tasks.set(task.id, task);
    mark('tasks', task.id);
    return true;
}

// Takes in a new place alone. Returns false when what is held cannot be brought up to date with it, because it is not known or
// a change of something else is missing in between.
export function putPlace(place) {
    const held = tasks.get(place.id);
    if (gone.has(place.id) || (held && place.version <= held.version)) return true;
    if (held?.version !== place.version - 1) return false;
    tasks.set(place.id, { ...held, ...place });
    mark('tasks', place.id);
    return true;
}

export function knows(id) {
    return tasks.has(id) || gone.has(id);
}

export function dropTask(id) {
    gone.add(id);
    if (tasks.delete(id) || patches.has(id)) mark('tasks', id);
}

export function putLists(projects) {
    for (const { boards, ...project } of projects) {
        putProject(project);
        boards.forEach(putBoard);
    }
}

// What was known may be of another time than what is put next.
export function forgetAll() {
    for (const id of tasks.keys()) mark('tasks', id);
    tasks.clear();
    gone.clear();
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

// Another board comes into view: nothing of it is known yet.
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

// --- What the user did -------------------------------------------------------------------------------------------------------

// Lays fields above a task; with an id among them it may be one that the server does not know yet. Returns what takes them
// away.
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

// --- What is to be seen ------------------------------------------------------------------------------------------------------

export function taskOf(id) {
    if (gone.has(id)) return null;
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
        // One whose column is not known yet waits for it: the two were told in the other order.
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
