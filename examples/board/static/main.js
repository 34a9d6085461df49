// Starts the page, and keeps the address in sync with the board that is shown.

import * as columns from './columns.js';
import * as drag from './drag.js';
import * as editor from './editor.js';
import * as keyboard from './keyboard.js';
import * as live from './live.js';
import * as presence from './presence.js';
import * as sidebar from './sidebar.js';
import { toast } from './messages.js';
import * as view from './view.js';

const boardInAddress = () => location.pathname.match(/^\/boards\/([^/]+)/)?.[1] ?? '';

function goTo(boardId) {
    if (boardInAddress() !== boardId) history.pushState(null, '', `/boards/${boardId}`);
    live.show(boardId);
}

view.start();
sidebar.start(goTo);
columns.start();
drag.start();
keyboard.start();
editor.start();
presence.start();
addEventListener('popstate', () => live.show(boardInAddress()));

view.board.addEventListener('click', (event) => {
    const id = event.target.closest('[data-task-id]')?.dataset.taskId;
    if (id) editor.edit(id);
});

live.start(boardInAddress(), presence.meta()).catch((error) => {
    console.error(error);
    toast('The page could not start. Please reload it.');
});
