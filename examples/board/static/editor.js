// The dialog in which a card is edited. Typed text is never overwritten: when another user changes or deletes the card
// meanwhile, the dialog shows that, and the text stays.

import { createTask, deleteTask, saveTask } from './commands.js';
import { ask } from './dialogs.js';
import { byId, make } from './elements.js';
import { known, onChange, serverTask, taskOf } from './store.js';
import { cardOf, focusCard } from './view.js';

const dialog = byId('editor');
const form = dialog.querySelector('form');
const part = (name) => dialog.querySelector(`[data-${name}]`);
const hint = (name) => dialog.querySelector(`[data-hint="${name}"]`);
const FIELDS = ['title', 'notes', 'label', 'due'];

// The card being edited, in the version that the fields were last merged with; null if there is none.
let edited = null;
let deleted = false;
let saving = false;

export function start() {
    form.addEventListener('submit', (event) => {
        event.preventDefault();
        if (!saving) save();
    });
    form.addEventListener('keydown', (event) => {
        // Enter saves in the title, which is one line; in the notes Ctrl+Enter does.
        if (event.key === 'Enter' && !event.isComposing && (event.target.name === 'title' || event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            form.requestSubmit();
        }
    });
    part('delete').addEventListener('click', () => {
        const { id } = edited;
        askDelete(id, () => finish());
    });
    dialog.addEventListener('cancel', (event) => {
        if (event.target !== dialog || !changed().length) return;
        event.preventDefault();
        ask({
            title: 'Discard your changes?', text: 'The text that you typed is not saved.',
            stay: 'Keep editing', go: 'Discard', danger: true, action: () => finish(),
        });
    });
    dialog.addEventListener('close', () => {
        const id = edited?.id;
        edited = null;
        if (id && cardOf(id)) focusCard(id);
        else document.querySelector('#board [tabindex="0"]')?.focus();
    });
    onChange((dirty) => {
        if (edited && edited.board_id !== known.boardId && !changed().length) finish();
        else if (dirty.tasks.has(edited?.id)) follow();
    });
}

export function edit(id) {
    const task = taskOf(id);
    if (!task || task.waiting || dialog.open) return;
    edited = task;
    deleted = false;
    for (const name of FIELDS) {
        write(name, task[name]);
        hint(name).hidden = true;
    }
    part('notice').hidden = true;
    part('wrong').textContent = '';
    part('delete').hidden = false;
    part('save').textContent = 'Save';
    setSaving(false);
    dialog.showModal();
    form.elements.title.focus();
}

// Deletes a card after a confirmation; then the focus goes to the next card.
export function askDelete(id, then = () => {}) {
    const task = taskOf(id);
    if (!task) return;
    ask({
        title: 'Delete this card?', text: `“${task.title}” will be deleted for all users. This cannot be undone.`,
        go: 'Delete', danger: true,
        action: () => {
            then();
            deleteTask(id);
        },
    });
}

// --- Fields -----------------------------------------------------------------------------------------------------------------

function read(name) {
    const { value } = form.elements[name];
    if (name === 'title') return value.replace(/\s+/g, ' ').trim();
    return name === 'due' ? value || null : value.trim();
}

function write(name, value) {
    // Radio buttons cannot be set to an empty value.
    if (name === 'label') for (const button of form.elements.label) button.checked = button.value === (value ?? '');
    else form.elements[name].value = value ?? '';
}

function changed() {
    return edited ? FIELDS.filter((name) => read(name) !== edited[name]) : [];
}

const FIELD_NAMES = { title: 'the title', notes: 'the notes', label: 'the label', due: 'the due date' };

// Follows changes of the card, by an event or a reload.
function follow() {
    if (!edited || deleted || saving || known.state !== 'shown' || edited.board_id !== known.boardId) return;
    const task = serverTask(edited.id);
    if (!task) showDeleted();
    else if (task.version > edited.version) merge(task);
}

// Merges a change of another user: unedited fields are updated; edited ones get a hint.
function merge(task) {
    const mine = new Set(changed());
    for (const name of FIELDS) {
        if (task[name] === edited[name]) continue;
        if (!mine.has(name)) {
            write(name, task[name]);
        } else if (read(name) !== task[name]) {
            const take = make('button', { className: 'small' }, 'Use that');
            take.addEventListener('click', () => {
                write(name, task[name]);
                hint(name).hidden = true;
            });
            const text = String(task[name] || 'nothing');
            const start = text.length > 120 ? `${text.slice(0, 120)} …` : text;
            hint(name).replaceChildren(`Another user changed ${FIELD_NAMES[name]} to “${start}”. `, take);
            hint(name).hidden = false;
        }
    }
    edited = { ...edited, ...task };
}

function showDeleted() {
    deleted = true;
    part('wrong').textContent = '';
    part('notice').textContent = 'Another user deleted this card. The text here is kept until you close the dialog.';
    part('notice').hidden = false;
    part('delete').hidden = true;
    part('save').textContent = 'Add as a new card';
}

// --- Saving -----------------------------------------------------------------------------------------------------------------

function setSaving(now) {
    saving = now;
    part('save').disabled = now;
}

function finish() {
    setSaving(false);
    dialog.close();
}

async function save() {
    const title = read('title');
    if (!title) {
        part('wrong').textContent = 'A card needs a title.';
        form.elements.title.focus();
        return;
    }
    if (deleted && edited.board_id !== known.boardId) {
        part('wrong').textContent = 'Another board is shown. Go back to the board of this card first.';
        return;
    }
    if (deleted) {
        const columns = known.board?.columns ?? [];
        const column = columns.find(({ id }) => id === edited.column_id) ?? columns[0];
        if (!column) return;
        const { notes, label, due } = Object.fromEntries(FIELDS.map((name) => [name, read(name)]));
        setSaving(true);
        if (await createTask(column.id, title, { notes, label, due })) finish(); else setSaving(false);
        return;
    }
    const fields = Object.fromEntries(changed().map((name) => [name, read(name)]));
    if (!Object.keys(fields).length) {
        finish();
        return;
    }
    // It stays open until the answer arrives, so that the text is not lost if saving fails.
    const { id } = edited;
    part('wrong').textContent = '';
    setSaving(true);
    try {
        await saveTask(id, fields);
        if (edited?.id === id) finish();
    } catch (error) {
        if (edited?.id !== id) return;
        setSaving(false);
        if (error.status === 404) {
            showDeleted();
        } else {
            part('wrong').textContent = `Not saved: ${error.message}`;
            follow();
        }
    }
}
