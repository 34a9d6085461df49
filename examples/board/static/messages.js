// Messages to the user: visible ones about errors, and announcements for screen readers.

const TIMEOUT = 8000;  // milliseconds

const box = document.getElementById('toast');
const announcer = document.getElementById('announcer');
let timer;

export function toast(text) {
    clearTimeout(timer);
    // A modal dialog covers the page: show the message in the dialog.
    (document.querySelector('dialog[open]') ?? document.body).append(box);
    box.hidden = false;
    box.textContent = text;
    timer = setTimeout(() => { box.hidden = true; }, TIMEOUT);
}

box.addEventListener('click', () => { box.hidden = true; });

// The message outlives the dialog that it was shown in.
document.addEventListener('close', (event) => {
    if (event.target.contains(box)) document.body.append(box);
}, true);

export function announce(text) {
    announcer.textContent = text;
}
