// Words to the user: what went wrong, for everybody to see, and what happened, for those who cannot see it.

const PATIENCE = 8000;

const box = document.getElementById('toast');
const announcer = document.getElementById('announcer');
let timer;

export function toast(text) {
    clearTimeout(timer);
    // A modal dialog covers the page: the words go above it.
    (document.querySelector('dialog[open]') ?? document.body).append(box);
    box.hidden = false;
    box.textContent = text;
    timer = setTimeout(() => { box.hidden = true; }, PATIENCE);
}

box.addEventListener('click', () => { box.hidden = true; });

// It outlives the dialog that it stood in.
document.addEventListener('close', (event) => {
    if (event.target.contains(box)) document.body.append(box);
}, true);

export function announce(text) {
    announcer.textContent = text;
}
