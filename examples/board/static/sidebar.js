// The list of projects and their boards, with links that switch without loading a new page.

import { createBoard, createProject, renameProject } from './commands.js';
import { ask } from './dialogs.js';
import { byId, icon, make, setText } from './elements.js';
import { known, onChange } from './store.js';

const side = byId('side');
const projects = new Map();
let go;

// goTo(boardId) shows another board.
export function start(goTo) {
    go = goTo;
    onChange((dirty) => {
        if (dirty.lists) draw();
    });
    byId('menu').addEventListener('click', () => open(!document.body.classList.contains('side-open')));
    byId('shade').addEventListener('click', () => open(false));
    addEventListener('keydown', (event) => {
        if (event.key === 'Escape' && document.body.classList.contains('side-open')) open(false);
    });
    byId('new-project').addEventListener('click', newProject);
    side.addEventListener('click', clicked);
}

// Opens or closes the list, which covers the board on a narrow screen.
export function open(wanted) {
    if (wanted === document.body.classList.contains('side-open')) return;
    document.body.classList.toggle('side-open', wanted);
    byId('menu').setAttribute('aria-expanded', String(wanted));
    byId('shade').hidden = !wanted;
    byId('board').inert = wanted;
    if (wanted) (side.querySelector('[aria-current]') ?? side.querySelector('a, button')).focus();
    else byId('menu').focus();
}

function clicked(event) {
    const link = event.target.closest('a[data-board-id]');
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
        event.preventDefault();
        open(false);
        go(link.dataset.boardId);
    }
    const { newBoard, renameProject: renamed } = event.target.closest('button')?.dataset ?? {};
    if (newBoard) {
        ask({
            title: 'New board', label: 'Name', go: 'Create',
            action: async (name) => {
                const id = await createBoard(newBoard, name);
                open(false);
                go(id);
            },
        });
    }
    if (renamed) {
        ask({
            title: 'Rename project', label: 'Name', value: known.projects.get(renamed)?.name, go: 'Rename',
            action: (name) => renameProject(renamed, name),
        });
    }
}

export function newProject() {
    ask({
        title: 'New project', label: 'Name', go: 'Create',
        action: async (name) => {
            const id = await createProject(name);
            open(false);
            go(id);
        },
    });
}

// --- Drawing ----------------------------------------------------------------------------------------------------------------

const byRank = (a, b) => a.rank - b.rank || (a.id < b.id ? -1 : 1);

function draw() {
    const boards = new Map();
    for (const board of [...known.boards.values()].sort(byRank)) {
        boards.set(board.project_id, [...(boards.get(board.project_id) ?? []), board]);
    }
    for (const [id, { element, links }] of projects) {
        for (const [boardId, link] of links) {
            if (known.boards.has(boardId)) continue;
            link.parentElement.remove();
            links.delete(boardId);
        }
        if (known.projects.has(id)) continue;
        element.remove();
        projects.delete(id);
    }
    for (const [number, project] of [...known.projects.values()].sort(byRank).entries()) {
        if (!projects.has(project.id)) projects.set(project.id, makeProject(project.id));
        const { element, name, edit, add, list, links } = projects.get(project.id);
        setText(name, project.name);
        edit.setAttribute('aria-label', `Rename project ${project.name}`);
        add.setAttribute('aria-label', `New board in ${project.name}`);
        place(byId('projects'), element, number);
        for (const [index, board] of (boards.get(project.id) ?? []).entries()) {
            let link = links.get(board.id);
            if (!link) {
                const label = make('span');
                link = make('a', { href: `/boards/${board.id}`, data: { boardId: board.id } }, icon('board'), label);
                links.set(board.id, link);
                make('li', {}, link);
            }
            place(list, link.parentElement, index);
            setText(link.lastElementChild, board.name);
            if (board.id === known.boardId) link.setAttribute('aria-current', 'page');
            else link.removeAttribute('aria-current');
        }
    }
}

// An element in its right place is not moved: it would lose the focus.
function place(parent, child, index) {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
}

function makeProject(id) {
    const name = make('h2');
    const edit = make('button', { className: 'icon', data: { renameProject: id, testid: 'rename-project' } }, icon('edit'));
    const add = make('button', { className: 'icon', data: { newBoard: id, testid: 'new-board' } }, icon('plus'));
    const list = make('ul');
    const element = make('section', { data: { projectId: id } }, make('header', {}, name, edit, add), list);
    return { element, name, edit, add, list, links: new Map() };
}
