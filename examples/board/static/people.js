// Who is looking at this board: initials on a colour that is the same on every screen, and the name of this browser's user.

import { change } from './call.js';
import { ask } from './dialogs.js';
import { onPresence, showMe } from './live.js';
import { byId, make } from './make.js';

const MOST = 5;
const { me } = document.body.dataset;
let name = document.body.dataset.name;

const list = byId('people');
const shown = new Map();

export const meta = () => ({ name });

export function start() {
    onPresence(draw);
    list.addEventListener('click', (event) => {
        if (!event.target.closest('button')) return;
        ask({
            title: 'Your name', text: 'Others see it while you look at a board.', label: 'Name', value: name, most: 40,
            optional: true, go: 'Save',
            action: async (wanted) => {
                ({ name } = await change('PUT', '/me', { name: wanted }));
                showMe(meta());
            },
        });
    });
}

function draw(presence) {
    const people = [...(presence ?? [])].map(([who, entries]) => {
        // It comes from another page: it may be anything.
        const said = entries.at(-1)?.meta?.name;
        const called = who === me ? name : (typeof said === 'string' ? said.slice(0, 40).trim() : '');
        return { who, called: called || (who === me ? '' : `Guest ${who.slice(-3)}`) };
    });
    if (!people.some(({ who }) => who === me)) people.push({ who: me, called: name });
    people.sort((a, b) => (b.who === me) - (a.who === me) || (a.who < b.who ? -1 : 1));

    const rest = people.length > MOST ? people.length - MOST + 1 : 0;
    const seen = people.slice(0, people.length - rest);
    // In a very large room there is only a number.
    const more = presence && !presence.complete ? Math.max(0, presence.count - 1) : rest;
    let previous = null;
    const there = new Set(seen.map(({ who }) => who));
    for (const [who, item] of shown) {
        if (!there.has(who)) {
            item.remove();
            shown.delete(who);
        }
    }
    for (const { who, called } of seen) {
        const mine = who === me;
        let item = shown.get(who);
        if (!item) {
            const avatar = make('span', { className: 'avatar' });
            avatar.style.setProperty('--hue', hue(who));
            item = make('li', { data: { who } }, mine ? make('button', { data: { testid: 'me' } }, avatar) : avatar);
            shown.set(who, item);
        }
        const avatar = item.querySelector('.avatar');
        const text = mine ? `${called || 'You'}${called ? ' (you)' : ''}` : called;
        avatar.textContent = called ? initials(called) : 'You';
        avatar.classList.toggle('unnamed', !called);
        item.firstElementChild.title = mine ? `${text}: choose a name` : text;
        item.firstElementChild.setAttribute('aria-label', item.firstElementChild.title);
        if (!mine) avatar.setAttribute('role', 'img');
        // One that stands where it should is not touched: it would lose the focus.
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

function hue(who) {
    let sum = 7;
    for (const letter of who) sum = (sum * 31 + letter.codePointAt(0)) % 3600;
    return sum / 10;
}
