// Columns: adding cards, renaming, moving and deleting.

import { createColumn, createTask, deleteColumn, renameBoard, renameColumn, shiftColumn } from './commands.js';
import { ask } from './dialogs.js';
import { byId } from './elements.js';
import { known, tasksByColumn } from './store.js';
import { board, columnOf } from './view.js';

export function start() {
    board.addEventListener('click', (event) => {
        const { addTo, columnMore, newColumn, stopNew } = event.target.closest('button')?.dataset ?? {};
        if (addTo) openNew(addTo);
        if (stopNew !== undefined) closeNew(event.target.closest('form'));
        if (columnMore) settings(columnMore);
        if (newColumn !== undefined) {
            ask({
                title: 'New column', label: 'Name', go: 'Create',
                action: async (name) => {
                    const id = await createColumn(name);
                    requestAnimationFrame(() => columnOf(id)?.scrollIntoView({ inline: 'nearest', block: 'nearest' }));
                },
            });
        }
    });
    board.addEventListener('submit', (event) => {
        event.preventDefault();
        add(event.target);
    });
    board.addEventListener('keydown', (event) => {
        const form = event.target.closest('form');
        if (!form) return;
        if (event.key === 'Enter' && !event.isComposing && event.target.tagName === 'TEXTAREA') {
            event.preventDefault();
            add(form);
        } else if (event.key === 'Escape') {
            closeNew(form);
        }
    });
    byId('rename-board').addEventListener('click', () => {
        const { boardId } = known;
        ask({
            title: 'Rename board', label: 'Name', value: known.boards.get(boardId)?.name, go: 'Rename',
            action: (name) => renameBoard(boardId, name),
        });
    });
}

export function openNew(columnId) {
    const column = columnOf(columnId);
    const form = column?.querySelector('form');
    if (!form) return;
    for (const other of board.querySelectorAll('form[data-new-in]:not([hidden])')) if (other !== form) closeNew(other, false);
    form.hidden = false;
    column.querySelector('[data-add-to]').hidden = true;
    form.elements.title.focus();
}

// The text stays in the field until it is added.
function closeNew(form, takeFocus = true) {
    const button = form.parentElement.querySelector('[data-add-to]');
    form.hidden = true;
    button.hidden = false;
    if (takeFocus) button.focus();
}

async function add(form) {
    const field = form.elements.title;
    const title = field.value.replace(/\s+/g, ' ').trim();
    field.value = '';
    field.focus();
    if (!title) return;
    const columnId = form.dataset.newIn;
    const sent = createTask(columnId, title);
    const list = columnOf(columnId)?.querySelector('.cards');
    requestAnimationFrame(() => list?.scrollTo({ top: list.scrollHeight }));
    // A title that could not be added goes back into the field, unless the next one is being typed there.
    if (!(await sent) && !field.value) field.value = title;
}

function settings(id) {
    const columns = known.board?.columns ?? [];
    const index = columns.findIndex((column) => column.id === id);
    if (index < 0) return;
    const full = (tasksByColumn().get(id) ?? []).length > 0;
    ask({
        title: 'Column', label: 'Name', value: columns[index].name, go: 'Rename',
        action: (name) => renameColumn(id, name),
        text: full ? 'It can be deleted once it is empty.' : '',
        extra: [
            { text: '← Move left', off: index === 0, action: () => shiftColumn(id, -1) },
            { text: 'Move right →', off: index === columns.length - 1, action: () => shiftColumn(id, 1) },
            { text: 'Delete', danger: true, off: full, action: () => deleteColumn(id) },
        ],
    });
}
