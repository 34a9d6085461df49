// Small dialogs: a question for one line of text, and a question for yes or no.

import { byId, make } from './make.js';

const dialog = byId('ask');
const part = (name) => dialog.querySelector(`[data-${name}]`);
const field = dialog.querySelector('input');
let asked = null;

// Asks for a line of text (label), or just whether to go on (text). What `action` throws is shown, and the dialog stays.
// `stay` is what Cancel is called where that is the better choice; `extra` are more buttons: { text, action, danger, off }.
export function ask(question) {
    asked = question;
    byId('ask-title').textContent = question.title;
    part('text').textContent = question.text ?? '';
    part('text').hidden = !question.text;
    part('label').textContent = question.label ?? '';
    field.parentElement.hidden = !question.label;
    field.required = Boolean(question.label) && !question.optional;
    field.maxLength = question.most ?? 80;
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
    const mine = asked;
    part('wrong').textContent = '';
    setBusy(true);
    try {
        await action();
        if (mine === asked) dialog.close();
    } catch (error) {
        if (mine === asked) part('wrong').textContent = error.message;
    } finally {
        if (mine === asked) setBusy(false);
    }
}

dialog.addEventListener('submit', (event) => {
    event.preventDefault();
    const value = field.value.trim();
    if (asked.label && !asked.optional && !value) {
        field.focus();
        return;
    }
    const { action } = asked;
    perform(() => action(value));
});

// --- What all dialogs have in common ----------------------------------------------------------------------------------------

let dragged = false;

for (const each of document.querySelectorAll('dialog')) {
    each.addEventListener('pointerdown', (event) => { dragged = event.target !== each; });
    each.addEventListener('click', (event) => {
        // Beside it, and not at the end of selecting text in it.
        if (event.target.closest('[data-close]') || (event.target === each && !dragged)) {
            each.dispatchEvent(new Event('cancel', { cancelable: true })) && each.close();
        }
    });
}
