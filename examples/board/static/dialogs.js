// Small dialogs: one asks for a line of text, one for confirmation.

import { byId, make } from './elements.js';

const dialog = byId('ask');
const part = (name) => dialog.querySelector(`[data-${name}]`);
const field = dialog.querySelector('input');
let current = null;

// Asks for a line of text (label), or for confirmation (text). An error of `action` is shown, and the dialog stays open.
// `stay` renames Cancel where that is the better choice; `extra` are more buttons: { text, action, danger, off }.
export function ask(question) {
    current = question;
    byId('ask-title').textContent = question.title;
    part('text').textContent = question.text ?? '';
    part('text').hidden = !question.text;
    part('label').textContent = question.label ?? '';
    field.parentElement.hidden = !question.label;
    field.required = Boolean(question.label) && !question.optional;
    field.maxLength = question.maxLength ?? 80;
    field.value = question.value ?? '';
    part('wrong').textContent = '';
    part('go').textContent = question.go;
    part('go').classList.toggle('danger', Boolean(question.danger));
    part('stay').textContent = question.stay ?? 'Cancel';
    part('extra').replaceChildren(...(question.extra ?? []).map(makeExtra));
    setBusy(false);
    if (!dialog.open) dialog.showModal();
    if (question.label) field.select();
    else part(question.stay ? 'stay' : 'go').focus();
}

function makeExtra({ text, action, danger, off }) {
    const button = make('button', { className: danger ? 'danger' : '', disabled: Boolean(off) }, text);
    button.addEventListener('click', () => perform(action));
    return button;
}

function setBusy(busy) {
    for (const button of dialog.querySelectorAll('.foot button:not([data-close])')) button.disabled = busy;
}

async function perform(action) {
    const mine = current;
    part('wrong').textContent = '';
    setBusy(true);
    try {
        await action();
        if (mine === current) dialog.close();
    } catch (error) {
        if (mine === current) part('wrong').textContent = error.message;
    } finally {
        if (mine === current) setBusy(false);
    }
}

dialog.addEventListener('submit', (event) => {
    event.preventDefault();
    const value = field.value.trim();
    if (current.label && !current.optional && !value) {
        field.focus();
        return;
    }
    const { action } = current;
    perform(() => action(value));
});

// --- All dialogs ------------------------------------------------------------------------------------------------------------

let dragged = false;

for (const each of document.querySelectorAll('dialog')) {
    each.addEventListener('pointerdown', (event) => { dragged = event.target !== each; });
    each.addEventListener('click', (event) => {
        // A click beside the dialog closes it, but not one that ends a selection of text in it.
        if (event.target.closest('[data-close]') || (event.target === each && !dragged)) {
            each.dispatchEvent(new Event('cancel', { cancelable: true })) && each.close();
        }
    });
}
