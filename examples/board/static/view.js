// The board on the screen: columns and cards by their ids, changed in place, so that focus and scroll position stay.

import { byId, icon, make, setText } from './elements.js';
import { known, onChange, taskOf, tasksByColumn } from './store.js';

export const board = byId('board');
const columns = new Map();
const cards = new Map();
const flashing = new Set();
// The one card that Tab reaches; the arrow keys move on from there.
let current = null;

const MAX_FLASHING = 4;
const still = matchMedia('(prefers-reduced-motion: reduce)');
const style = getComputedStyle(document.documentElement);

const LABELS = { red: 'Red', amber: 'Amber', green: 'Green', blue: 'Blue', violet: 'Violet' };
const dayFormat = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' });

export function start() {
    onChange((dirty) => {
        if (dirty.board) drawBoard();
        if (dirty.board || dirty.tasks.size) drawTasks(dirty);
        if (dirty.board || dirty.lists) drawHeading();
    });
    board.addEventListener('focusin', (event) => {
        const id = event.target.closest('[data-task-id]')?.dataset.taskId;
        if (id) setCurrent(id);
    });
}

export const cardOf = (id) => cards.get(id) ?? null;
export const columnOf = (id) => columns.get(id)?.element ?? null;

export function flash(id) {
    flashing.add(id);
}

export function focusCard(id) {
    setCurrent(id);
    const card = cards.get(id);
    if (!card) return;
    card.focus({ preventScroll: true });
    // Scroll the whole card into view, and its column, where one column fills the screen.
    card.scrollIntoView({ block: 'nearest', inline: 'nearest' });
}

// --- Heading ----------------------------------------------------------------------------------------------------------------

function drawHeading() {
    const summary = known.boards.get(known.boardId);
    const project = known.projects.get(summary?.project_id);
    const missing = known.state === 'missing';
    setText(byId('board-name'), missing ? 'No such board' : (summary?.name ?? 'Boards'));
    setText(byId('project-name'), missing ? '' : (project?.name ?? ''));
    byId('rename-board').hidden = !summary || missing;
    document.title = summary && !missing ? `${summary.name} · ${project?.name ?? ''}` : 'Boards';
}

// --- Columns ----------------------------------------------------------------------------------------------------------------

let empty = null;

function drawBoard() {
    board.setAttribute('aria-busy', String(known.state === 'loading'));
    const wanted = known.board?.columns ?? [];
    const there = new Set(wanted.map((column) => column.id));
    for (const [id, { element }] of columns) {
        if (!there.has(id)) {
            element.remove();
            columns.delete(id);
        }
    }
    let previous = null;
    for (const { id, name } of wanted) {
        if (!columns.has(id)) columns.set(id, makeColumn(id));
        const { element, title, more, list } = columns.get(id);
        setText(title, name);
        more.setAttribute('aria-label', `Column ${name}: rename, move or delete`);
        list.setAttribute('aria-label', name);
        putAfter(board, element, previous);
        previous = element;
    }
    empty?.remove();
    empty = null;
    const text = {
        missing: 'This board does not exist, or no longer. Choose another one from the list.',
        none: 'There is no board yet. Create a project first.',
        loading: 'Loading …',
    }[known.state];
    if (text) board.append(empty = make('p', { className: 'empty' }, text));
    else board.append(empty = newColumn);
}

const newColumn = make(
    'button', { className: 'quiet new-column', data: { newColumn: '', testid: 'new-column' } }, icon('plus'), 'New column',
);

function makeColumn(id) {
    const title = make('h2');
    const count = make('span', { className: 'count' });
    const more = make('button', { className: 'icon', data: { columnMore: id, testid: 'column-more' } }, icon('more'));
    const list = make('ol', { className: 'cards', data: { list: id } });
    const field = make('textarea', {
        name: 'title', rows: 2, maxLength: 200, placeholder: 'What is to be done?', 'aria-label': 'Title of the new card',
        data: { testid: 'new-title' },
    });
    const form = make(
        'form', { className: 'new-card', hidden: true, data: { newIn: id } }, field,
        make('div', { className: 'foot' },
            make('button', { data: { stopNew: '' } }, 'Close'),
            make('button', { type: 'submit', className: 'main', data: { testid: 'add' } }, 'Add')),
    );
    const add = make('button', { className: 'quiet', data: { addTo: id, testid: 'add-card' } }, icon('plus'), 'Add a card');
    const element = make(
        'section', { className: 'column', data: { columnId: id } },
        make('header', {}, title, count, more), list, form, add,
    );
    return { element, title, more, count, list };
}

// --- Cards ------------------------------------------------------------------------------------------------------------------

function drawTasks(dirty) {
    const focused = document.activeElement?.closest?.('[data-task-id]');
    const lost = focused && nextTo(focused);
    for (const id of dirty.tasks) {
        const task = taskOf(id);
        if (task) drawCard(task);
        else removeCard(id);
    }
    for (const [columnId, tasks] of tasksByColumn()) {
        const { list, count } = columns.get(columnId) ?? {};
        if (!list) continue;
        let previous = null;
        for (const { id } of tasks) {
            if (!cards.has(id)) drawCard(taskOf(id));
            const item = cards.get(id).parentElement;
            // Unchanged cards are in the right order among themselves, and are not moved.
            if (dirty.tasks.has(id) || item.parentElement !== list) putAfter(list, item, previous);
            previous = item;
        }
        setText(count, String(tasks.length));
    }
    if (!cards.has(current)) setCurrent(board.querySelector('[data-task-id]')?.dataset.taskId ?? null);
    // An element that is moved or removed loses the focus.
    if (focused && document.activeElement !== focused) {
        if (focused.isConnected) focused.focus({ preventScroll: true });
        else if (lost && cards.has(lost) && !document.querySelector('dialog[open]')) focusCard(lost);
    }
    // With many changes at once it would be costly, and of no use.
    if (flashing.size <= MAX_FLASHING && !still.matches) {
        const colours = [style.getPropertyValue('--flash'), style.getPropertyValue('--card')];
        for (const id of flashing) cards.get(id)?.animate({ backgroundColor: colours }, { duration: 1400, easing: 'ease-out' });
    }
    flashing.clear();
}

function nextTo(card) {
    const item = card.parentElement;
    const other = item.nextElementSibling ?? item.previousElementSibling;
    return other?.querySelector('[data-task-id]')?.dataset.taskId ?? null;
}

function putAfter(parent, element, previous) {
    const next = previous ? previous.nextElementSibling : parent.firstElementChild;
    if (next === element && element.parentElement === parent) return;
    // Where the browser has moveBefore, it keeps the focus and the animations of the element.
    if (parent.moveBefore && element.isConnected && parent.isConnected) parent.moveBefore(element, next);
    else parent.insertBefore(element, next);
}

function drawCard(task) {
    let card = cards.get(task.id);
    if (!card) {
        card = make('div', {
            className: 'card', role: 'button', tabIndex: -1, 'aria-describedby': 'keys', data: { taskId: task.id },
        }, make('span', { className: 'title' }), make('span', { className: 'facts' }));
        cards.set(task.id, card);
        make('li', {}, card);
    }
    const [title, facts] = card.children;
    setText(title, task.title);
    card.dataset.label = task.label;
    card.classList.toggle('waiting', Boolean(task.waiting));
    const key = `${task.label}|${task.due}|${Boolean(task.notes)}`;
    if (facts.dataset.key !== key) {
        facts.dataset.key = key;
        facts.replaceChildren(...makeFacts(task));
    }
}

function makeFacts({ label, due, notes }) {
    const found = [];
    if (label) found.push(make('span', { className: 'unseen' }, `Label: ${LABELS[label]}. `));
    if (due) {
        const now = new Date(), [year, month, day] = due.split('-').map(Number);
        const today = Date.UTC(now.getFullYear(), now.getMonth(), now.getDate());
        const days = (Date.UTC(year, month - 1, day) - today) / 86_400_000;
        const when = make('span', { className: 'due' }, icon('due'), make('span', { className: 'unseen' }, 'Due '));
        when.append(dayFormat.format(new Date(year, month - 1, day)));
        when.dataset.when = days < 0 ? 'overdue' : days <= 2 ? 'soon' : 'later';
        if (days < 0) when.append(make('span', { className: 'unseen' }, ', overdue'));
        found.push(when);
    }
    if (notes) found.push(make('span', {}, icon('notes'), make('span', { className: 'unseen' }, 'Has notes')));
    return found;
}

function removeCard(id) {
    cards.get(id)?.parentElement.remove();
    cards.delete(id);
}

function setCurrent(id) {
    if (id === current && cards.get(id)?.tabIndex === 0) return;
    if (cards.has(current)) cards.get(current).tabIndex = -1;
    current = id;
    if (cards.has(id)) cards.get(id).tabIndex = 0;
}
