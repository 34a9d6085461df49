// The users who have this board open, as initials on a colour that is the same everywhere, and the name of this user.

import { change } from './call.js';
import { ask } from './dialogs.js';
import { onPresence, showMe } from './live.js';
import { byId, make } from './elements.js';

const MAX_SHOWN = 5;
const { me } = document.body.dataset;
let name = document.body.dataset.name;

const list = byId('presence');
const shown = new Map();

export const meta = () => ({ name });

export function start() {
    onPresence(draw);
    list.addEventListener('click', (event) => {
        if (!event.target.closest('button')) return;
        ask({
            title: 'Your name', text: 'Other users see it while you have a board open.', label: 'Name', value: name, maxLength: 40,
            optional: true, go: 'Save',
            action: async (wanted) => {
                ({ name } = await change('PUT', '/me', { name: wanted }));
                showMe(meta());
            },
        });
    });
}

function draw(presence) {
    const users = [...(presence ?? [])].map(([identity, entries]) => {
        // It comes from another page, so it may be anything.
        const given = entries.at(-1)?.meta?.name;
        const shownName = identity === me ? name : (typeof given === 'string' ? given.slice(0, 40).trim() : '');
        return { identity, shownName: shownName || (identity === me ? '' : `Guest ${identity.slice(-3)}`) };
    });
    if (!users.some(({ identity }) => identity === me)) users.push({ identity: me, shownName: name });
    users.sort((a, b) => (b.identity === me) - (a.identity === me) || (a.identity < b.identity ? -1 : 1));

    const rest = users.length > MAX_SHOWN ? users.length - MAX_SHOWN + 1 : 0;
    const seen = users.slice(0, users.length - rest);
    // A very large room has only a count.
    const more = presence && !presence.complete ? Math.max(0, presence.count - 1) : rest;
    let previous = null;
    const there = new Set(seen.map(({ identity }) => identity));
    for (const [identity, item] of shown) {
        if (!there.has(identity)) {
            item.remove();
            shown.delete(identity);
        }
    }
    for (const { identity, shownName } of seen) {
        const mine = identity === me;
        let item = shown.get(identity);
        if (!item) {
            const avatar = make('span', { className: 'avatar' });
            avatar.style.setProperty('--hue', hue(identity));
            item = make('li', { data: { identity } }, mine ? make('button', { data: { testid: 'me' } }, avatar) : avatar);
            shown.set(identity, item);
        }
        const avatar = item.querySelector('.avatar');
        const text = mine ? `${shownName || 'You'}${shownName ? ' (you)' : ''}` : shownName;
        avatar.textContent = shownName ? initials(shownName) : 'You';
        avatar.classList.toggle('unnamed', !shownName);
        item.firstElementChild.title = mine ? `${text}: choose a name` : text;
        item.firstElementChild.setAttribute('aria-label', item.firstElementChild.title);
        if (!mine) avatar.setAttribute('role', 'img');
        // An item in its right place is not moved: it would lose the focus.
        const next = previous ? previous.nextElementSibling : list.firstElementChild;
        if (next !== item) list.insertBefore(item, next);
        previous = item;
    }
    list.querySelector('.more')?.remove();
    if (more) {
        const avatar = make('span', { className: 'avatar', title: `${more} more` }, `+${more}`);
        list.append(make('li', { className: 'more' }, avatar));
    }
}

function initials(text) {
    const words = text.split(/\s+/).filter(Boolean);
    const letters = words.length > 1 ? [words[0], words.at(-1)].map((word) => [...word][0]) : [...words[0]].slice(0, 2);
    return letters.join('').toUpperCase();
}

function hue(identity) {
    let sum = 7;
    for (const letter of identity) sum = (sum * 31 + letter.codePointAt(0)) % 3600;
    return sum / 10;
}
