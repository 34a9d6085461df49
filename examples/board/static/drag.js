// Drag and drop with a mouse, a pen or a finger: a mouse drags at once, a finger after a long press, so that the board can
// still be scrolled.

import { moveTask } from './commands.js';
import { make } from './elements.js';
import { onChange, taskOf, tasksByColumn } from './store.js';
import { board, cardOf } from './view.js';

const SLOP = 5;  // pixels that a mouse may move before it drags, and twice that for a finger
const LONG_PRESS = 350;  // milliseconds
const EDGE = 56;  // pixels from the edge within which it scrolls
const SPEED = 14;  // pixels per frame at most

// The pressed card, and once it moves its copy and target: { id, pointerId, x, y, startX, startY, ghost, line, place, timer, frame }.
let drag = null;

export function start() {
    board.addEventListener('pointerdown', pressed);
    addEventListener('pointermove', moved);
    addEventListener('pointerup', released);
    addEventListener('pointercancel', cancelled);
    addEventListener('blur', () => stop());
    addEventListener('keydown', (event) => {
        if (event.key === 'Escape' && drag?.ghost) {
            event.preventDefault();
            event.stopPropagation();
            stop();
        }
    }, true);
    // Without this the browser would scroll with the finger, and cancel the drag.
    board.addEventListener('touchmove', (event) => {
        if (drag?.ghost && event.cancelable) event.preventDefault();
    }, { passive: false });
    board.addEventListener('contextmenu', (event) => {
        if (drag && drag.type !== 'mouse') event.preventDefault();
    });
    board.addEventListener('dragstart', (event) => event.preventDefault());
    onChange(() => {
        // Another user deleted the dragged card.
        if (drag?.ghost && !taskOf(drag.id)) stop();
    });
}

function pressed(event) {
    const card = event.target.closest('[data-task-id]');
    if (!card || event.button !== 0 || !event.isPrimary || drag) return;
    const id = card.dataset.taskId;
    if (taskOf(id)?.waiting) return;
    drag = {
        id, pointerId: event.pointerId, type: event.pointerType, startX: event.clientX, startY: event.clientY,
        x: event.clientX, y: event.clientY,
    };
    if (event.pointerType !== 'mouse') drag.timer = setTimeout(lift, LONG_PRESS);
}

function moved(event) {
    if (event.pointerId !== drag?.pointerId) return;
    drag.x = event.clientX;
    drag.y = event.clientY;
    const far = Math.hypot(drag.x - drag.startX, drag.y - drag.startY);
    if (drag.ghost) {
        follow();
    } else if (drag.type === 'mouse') {
        if (far > SLOP) lift();
    } else if (far > 2 * SLOP) {
        stop();  // the user scrolls
    }
}

function lift() {
    const card = cardOf(drag.id);
    if (!card) return stop();
    clearTimeout(drag.timer);
    const { left, top, width } = card.getBoundingClientRect();
    const ghost = card.cloneNode(true);
    ghost.removeAttribute('data-task-id');
    ghost.setAttribute('aria-hidden', 'true');
    ghost.tabIndex = -1;
    ghost.classList.add('ghost');
    ghost.style.width = `${width}px`;
    drag.grip = { x: drag.startX - left, y: drag.startY - top };
    drag.ghost = ghost;
    drag.line = make('li', { className: 'drop-line', role: 'presentation' });
    document.body.append(ghost);
    document.body.classList.add('dragging');
    card.classList.add('lifted');
    if (drag.type !== 'mouse') navigator.vibrate?.(15);
    follow();
    drag.frame = requestAnimationFrame(scroll);
}

function follow() {
    const { ghost, grip, x, y } = drag;
    ghost.style.transform = `translate(${x - grip.x}px, ${y - grip.y}px) rotate(1.5deg)`;
    aim();
}

// Finds the target, and draws the line there.
function aim() {
    const column = columnAt(drag.x);
    const list = column?.querySelector('.cards');
    if (!list) return;
    const columnId = column.dataset.columnId;
    const others = (tasksByColumn().get(columnId) ?? []).filter((task) => task.id !== drag.id);
    const before = others.find(({ id }) => {
        const box = cardOf(id)?.getBoundingClientRect();
        return box && drag.y < box.top + box.height / 2;
    });
    drag.place = { columnId, beforeId: before?.id ?? null };
    const next = before ? cardOf(before.id).parentElement : null;
    if (drag.line.parentElement !== list || drag.line.nextElementSibling !== next) list.insertBefore(drag.line, next);
}

// The column under the pointer, or the nearest one between columns and beside the board.
function columnAt(x) {
    let best = null, least = Infinity;
    for (const column of board.querySelectorAll('[data-column-id]')) {
        const { left, right } = column.getBoundingClientRect();
        const distance = x < left ? left - x : x > right ? x - right : 0;
        if (distance < least) [best, least] = [column, distance];
    }
    return best;
}

function scroll() {
    if (!drag?.ghost) return;
    const list = drag.line.parentElement;
    const across = push(board, 'scrollLeft', drag.x, 'left', 'right');
    const down = list ? push(list, 'scrollTop', drag.y, 'top', 'bottom') : 0;
    if (across || down) aim();
    drag.frame = requestAnimationFrame(scroll);
}

function push(element, property, at, low, high) {
    const box = element.getBoundingClientRect();
    const before = element[property];
    const depth = at < box[low] + EDGE ? at - box[low] - EDGE : at > box[high] - EDGE ? at - box[high] + EDGE : 0;
    if (depth) element[property] += Math.max(-1, Math.min(1, depth / EDGE)) * SPEED;
    return Math.abs(element[property] - before);
}

function released(event) {
    if (event.pointerId !== drag?.pointerId) return;
    const { id, ghost, place } = drag;
    stop();
    if (!ghost) return;
    // The click at the end of a drag must not open the card.
    const swallow = (click) => {
        click.preventDefault();
        click.stopPropagation();
    };
    addEventListener('click', swallow, { capture: true, once: true });
    setTimeout(() => removeEventListener('click', swallow, true), 0);
    if (place && !isAt(id, place)) moveTask(id, place.columnId, place.beforeId);
}

function isAt(id, { columnId, beforeId }) {
    const list = tasksByColumn().get(columnId) ?? [];
    const index = list.findIndex((task) => task.id === id);
    return index >= 0 && (list[index + 1]?.id ?? null) === beforeId;
}

function cancelled(event) {
    if (event.pointerId === drag?.pointerId) stop();
}

function stop() {
    if (!drag) return;
    clearTimeout(drag.timer);
    cancelAnimationFrame(drag.frame);
    drag.ghost?.remove();
    drag.line?.remove();
    cardOf(drag.id)?.classList.remove('lifted');
    document.body.classList.remove('dragging');
    drag = null;
}
