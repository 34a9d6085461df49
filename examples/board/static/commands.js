// What a user can do to the tasks, columns and boards: shown at once, sent, and taken back with a word when it failed.

import { call, change } from './call.js';
import { dropTask, known, patch, positionAt, putBoard, putProject, putTask, taskOf, tasksByColumn } from './store.js';
import { toast } from './say.js';

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
    // crypto.randomUUID is not there on a page that came over plain HTTP from another host.
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
            // It may be the answer alone that was lost: what is there is not to be added again.
            if (error.status !== undefined) throw error;
            putTask(await call('GET', `/tasks/${id}`).catch(() => { throw error; }));
        }
    };
    return attempt(`“${title}” was not added`, send, undo);
}

// Where a task may go: a column, and the task before which it is to stand there, null for the end.
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
            if (error.status !== 404) throw error;  // Somebody was faster.
        }
        dropTask(id);
    };
    return attempt(`“${title}” was not deleted`, send, undo);
}

// Sends the changed fields alone, so that what somebody else changed meanwhile stays. Throws: the editor keeps what was typed.
export async function saveTask(id, fields) {
    putTask(await change('PATCH', `/tasks/${id}`, fields));
}

// The rest comes from a dialog, which shows what went wrong by itself.

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
