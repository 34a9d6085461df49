// Keyboard control: the arrow keys move the focus from card to card, or the card that was lifted.

import { moveTask, previewMove } from './commands.js';
import { askDelete, edit } from './editor.js';
import { byId } from './elements.js';
import { openNew } from './columns.js';
import { announce } from './messages.js';
import { known, onChange, taskOf, tasksByColumn } from './store.js';
import { board, cardOf, focusCard } from './view.js';

// The lifted card, its target, and what undoes the preview: { id, columnId, beforeId, undo }.
let lifted = null;

export function start() {
    board.addEventListener('keydown', pressed);
    board.addEventListener('focusout', (event) => {
        // When the focus moves elsewhere the card is put back; while a card is moved in the page nothing has the focus.
        if (lifted && event.relatedTarget && event.relatedTarget !== cardOf(lifted.id)) putBack();
    });
    addEventListener('pointerdown', () => putBack());
    addEventListener('keydown', (event) => {
        if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
        if (event.key === '?') {
            event.preventDefault();
            byId('shortcuts').showModal();
        } else if (event.key === 'n' || event.key === 'N') {
            const focused = document.activeElement?.closest('[data-column-id]');
            const column = focused?.dataset.columnId ?? known.board?.columns[0]?.id;
            if (!column) return;
            event.preventDefault();
            openNew(column);
        }
    });
    byId('help').addEventListener('click', () => byId('shortcuts').showModal());
    onChange(() => {
        if (lifted && !taskOf(lifted.id)) {
            lifted.undo?.();
            lifted = null;
        }
    });
}

function isTyping({ target }) {
    return target.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(target.tagName);
}

const STEPS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

function pressed(event) {
    const id = event.target.dataset?.taskId;
    if (!id || event.altKey || event.metaKey) return;
    const { key } = event;
    if (key in STEPS) {
        const [across, down] = STEPS[key];
        if (lifted) carry(across, down);
        else if (event.ctrlKey) moveNow(id, across, down);
        else step(id, across, down);
    } else if (event.ctrlKey) {
        return;
    } else if (key === ' ') {
        if (lifted) putDown(); else lift(id);
    } else if (key === 'Enter') {
        if (lifted) putDown(); else edit(id);
    } else if (key === 'Escape' && lifted) {
        putBack();
        announce('Put back.');
    } else if (key === 'Delete' || key === 'Backspace') {
        askDelete(id);
    } else if ((key === 'Home' || key === 'End') && !lifted) {
        const list = tasksByColumn().get(taskOf(id).column_id);
        focusCard(list.at(key === 'Home' ? 0 : -1).id);
    } else {
        return;
    }
    event.preventDefault();
}

// --- Moving the focus -------------------------------------------------------------------------------------------------------

function step(id, across, down) {
    const columns = tasksByColumn(), order = [...columns.keys()];
    const task = taskOf(id);
    const list = columns.get(task.column_id), index = list.findIndex((each) => each.id === id);
    if (down) {
        if (list[index + down]) focusCard(list[index + down].id);
        return;
    }
    // The next column with a card in it, and there the card at the same index.
    for (let n = order.indexOf(task.column_id) + across; n >= 0 && n < order.length; n += across) {
        const there = columns.get(order[n]);
        if (there.length) return focusCard(there[Math.min(index, there.length - 1)].id);
    }
}

// --- Moving a card ----------------------------------------------------------------------------------------------------------

// The target of one step: a column, and the card after it, null for the end.
function nextPlace(id, across, down) {
    const columns = tasksByColumn(), order = [...columns.keys()];
    const { column_id: columnId } = taskOf(id);
    const list = columns.get(columnId), index = list.findIndex((each) => each.id === id);
    if (down) {
        const others = list.filter((each) => each.id !== id);
        if (index + down < 0 || index + down > others.length) return null;
        return { columnId, beforeId: others[index + down]?.id ?? null, index: index + down, length: list.length };
    }
    const there = order[order.indexOf(columnId) + across];
    if (!there) return null;
    const others = columns.get(there), { length } = others;
    return { columnId: there, beforeId: others[index]?.id ?? null, index: Math.min(index, length), length: length + 1 };
}

function describe({ columnId, index, length }) {
    const column = known.board.columns.find((each) => each.id === columnId);
    return `${column?.name}, position ${index + 1} of ${length}.`;
}

function moveNow(id, across, down) {
    const place = nextPlace(id, across, down);
    if (!place) return;
    announce(describe(place));
    moveTask(id, place.columnId, place.beforeId);
    requestAnimationFrame(() => focusCard(id));
}

function lift(id) {
    if (taskOf(id).waiting) return;
    lifted = { id, undo: () => {} };
    cardOf(id).classList.add('carried');
    announce(`${taskOf(id).title} lifted. Arrow keys move it, Space puts it down, Escape puts it back.`);
}

function carry(across, down) {
    const { id } = lifted;
    const place = nextPlace(id, across, down);
    if (!place) return;
    lifted.undo();
    lifted = { id, ...place, undo: previewMove(id, place.columnId, place.beforeId) };
    announce(describe(place));
    requestAnimationFrame(() => focusCard(id));
}

function putDown() {
    const { id, columnId, beforeId, undo } = lifted;
    end();
    if (columnId) moveTask(id, columnId, beforeId);
    undo();
    announce('Put down.');
}

function putBack() {
    if (!lifted) return;
    const { id, undo } = lifted;
    end();
    undo();
    requestAnimationFrame(() => cardOf(id) && document.activeElement === document.body && focusCard(id));
}

function end() {
    cardOf(lifted.id)?.classList.remove('carried');
    lifted = null;
}
