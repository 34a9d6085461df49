// What a user can do to tasks, columns and boards: shown at once, sent, and undone with a message when it failed.

import { call, change } from './call.js';
import { dropTask, known, patch, positionAt, putBoard, putProject, putTask, taskOf, tasksByColumn } from './store.js';
import { toast } from './messages.js';

async function attempt(what, send, undo) {
    try {
        await send();
        return true;
    } catch (error) {
        toast(`${what}: ${error.message}`);
        return false;
    } finally {
        undo?.();
    }
}

function newId() {
    // crypto.randomUUID does not exist on a page that was loaded over plain HTTP from another host.
    return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export function createTask(columnId, title, more = {}) {
    const id = newId();
    const list = tasksByColumn().get(columnId) ?? [];
    const undo = patch(id, {
        id, title, notes: '', label: '', due: null, ...more, version: 0, waiting: true,
        board_id: known.boardId, column_id: columnId, position: positionAt(list, list.length),
    });
    const send = async () => {
        try {
            putTask(await change('POST', `/columns/${columnId}/tasks`, { id, title, ...more }));
        } catch (error) {
            // Perhaps only the answer was lost: a task that exists must not be added again.
            if (error.status !== undefined) throw error;
            putTask(await call('GET', `/tasks/${id}`).catch(() => { throw error; }));
        }
    };
    return attempt(`“${title}” was not added`, send, undo);
}

// Shows a move before it is sent: to a column, before another task or, with null, to its end.
export function previewMove(id, columnId, beforeId) {
    const list = (tasksByColumn().get(columnId) ?? []).filter((task) => task.id !== id);
    const index = list.findIndex((task) => task.id === beforeId);
    return patch(id, { column_id: columnId, position: positionAt(list, index < 0 ? list.length : index) });
}

export function moveTask(id, columnId, beforeId) {
    const title = taskOf(id)?.title ?? 'The card';
    const undo = previewMove(id, columnId, beforeId);
    const body = { column_id: columnId, before_id: beforeId };
    const send = async () => putTask(await change('POST', `/tasks/${id}/move`, body));
    return attempt(`“${title}” was not moved`, send, undo);
}

export function deleteTask(id) {
    const title = taskOf(id)?.title ?? 'The card';
    const undo = patch(id, { deleted: true });
    const send = async () => {
        try {
            await change('DELETE', `/tasks/${id}`);
        } catch (error) {
            if (error.status !== 404) throw error;  // Another user was faster.
        }
        dropTask(id);
    };
    return attempt(`“${title}” was not deleted`, send, undo);
}

// Sends only the changed fields, so that other users' changes of other fields stay. Throws: the editor keeps the text.
export async function saveTask(id, fields) {
    putTask(await change('PATCH', `/tasks/${id}`, fields));
}

// The rest is called from a dialog, which shows errors itself.

export async function createProject(name) {
    const { boards, ...project } = await change('POST', '/projects', { name });
    putProject(project);
    return createBoard(project.id, 'First board');
}

export async function renameProject(id, name) {
    putProject(await change('PATCH', `/projects/${id}`, { name }));
}

export async function createBoard(projectId, name) {
    const board = await change('POST', `/projects/${projectId}/boards`, { name });
    putBoard(board);
    return board.id;
}

export async function renameBoard(id, name) {
    putBoard(await change('PATCH', `/boards/${id}`, { name }));
}

export async function createColumn(name) {
    const { column_id: id, ...board } = await change('POST', `/boards/${known.boardId}/columns`, { name });
    putBoard(board);
    return id;
}

export async function renameColumn(id, name) {
    putBoard(await change('PATCH', `/columns/${id}`, { name }));
}

export async function deleteColumn(id) {
    putBoard(await change('DELETE', `/columns/${id}`));
}

export async function shiftColumn(id, by) {
    const order = known.board.columns.map((column) => column.id);
    const from = order.indexOf(id);
    order.splice(from + by, 0, ...order.splice(from, 1));
    putBoard(await change('PUT', `/boards/${known.boardId}/columns`, { order }));
}
