"""A task list that changes in every open browser at once: Flask, cartows and one page, in one file.

Run it from here with ``gunicorn -k gthread --threads 8 app:app`` or ``flask run``, then open two windows.
"""

import itertools
import threading

from flask import Flask, abort, jsonify, render_template_string, request

from cartows import CartoWS, Hub

BOARDS = {"today": "Today", "later": "Later"}

app = Flask(__name__)
# FLASK_CARTOWS_PATH=/live in the environment becomes app.config["CARTOWS_PATH"] = "/live"; the same for every setting.
app.config.from_prefixed_env()
app.json.sort_keys = False

hub = Hub()
CartoWS(app, hub)

# The "database". It is in the memory of one process, so this example needs a single worker.
tasks: dict[str, dict] = {}
numbers = itertools.count(1)
# Guards tasks; held while publishing, so that events are in the order of the changes.
lock = threading.Lock()


@app.errorhandler(400)
@app.errorhandler(404)
@app.errorhandler(415)
def explain(error):
    return jsonify(message=error.description), error.code


@app.get("/")
def page():
    return render_template_string(PAGE, boards=BOARDS, path=app.config.get("CARTOWS_PATH", "/ws"))


@app.get("/tasks")
def list_tasks():
    with lock:
        return jsonify(list(tasks.values()))


@app.post("/tasks")
def create_task():
    task = {"id": None, "board_id": "today", "title": None, "done": False} | wanted()
    if task["title"] is None:
        abort(400, "A task needs a title.")
    with lock:
        task["id"] = f"t{next(numbers)}"
        tasks[task["id"]] = task
        hub.broadcast_task_created(task["id"], task["board_id"], task)
        return dict(task), 201


@app.patch("/tasks/<task_id>")
def update_task(task_id):
    changes = wanted()
    with lock:
        task = tasks.get(task_id) or abort(404, f"There is no task {task_id}.")
        if "board_id" in changes and changes["board_id"] != task["board_id"]:
            abort(400, "A task stays on its board.")
        task.update(changes)
        hub.broadcast_task_updated(task_id, task["board_id"], changes, task)
        return dict(task)


@app.delete("/tasks/<task_id>")
def delete_task(task_id):
    with lock:
        task = tasks.pop(task_id, None) or abort(404, f"There is no task {task_id}.")
        hub.broadcast_task_deleted(task_id, task["board_id"])
        return "", 204


FIELDS = {
    "title": (lambda value: isinstance(value, str) and 0 < len(value.strip()) <= 200, "text of 1 to 200 characters"),
    "board_id": (lambda value: isinstance(value, str) and value in BOARDS, " or ".join(BOARDS)),
    "done": (lambda value: isinstance(value, bool), "true or false"),
}


def wanted():
    """Return the checked fields of the request's JSON."""
    body = request.get_json()
    if not isinstance(body, dict):
        abort(400, "Send a JSON object.")
    fields = {name: body[name] for name in FIELDS if name in body}
    for name, value in fields.items():
        good, allowed = FIELDS[name]
        if not good(value):
            abort(400, f"{name} must be {allowed}.")
    return fields


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tasks, live</title>
<link rel="icon" href="data:image/svg+xml,
  <svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'><circle cx='4' cy='4' r='4' fill='teal'/></svg>">
<style>
:root {
  color-scheme: light dark;
  --page: #f6f5f2; --card: #ffffff; --line: #dfddd6; --text: #1d1f21; --soft: #62666b;
  --accent: #0f766e; --on-accent: #ffffff; --flash: #d9f3ee;
  --good: #15803d; --wait: #b45309; --bad: #b91c1c; --blue: #1d4ed8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181b; --card: #1e2226; --line: #343a40; --text: #e8e8e6; --soft: #9da3aa;
    --accent: #2dd4bf; --on-accent: #06251f; --flash: #17403b;
    --good: #4ade80; --wait: #fbbf24; --bad: #f87171; --blue: #93b4ff;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
button, input, select { font: inherit; color: inherit; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
header, main { max-width: 68rem; margin: 0 auto; padding: 0 1rem; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem .75rem;
  padding-top: 1.25rem; padding-bottom: 1rem; }
h1 { font-size: 1.375rem; line-height: 1.2; margin: 0; flex: 1 0 auto; }
h2 { font-size: 1rem; margin: 0; }
main { display: grid; gap: 1rem; padding-bottom: 3rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; min-width: 0;
  overflow: hidden; }
section > .head { display: flex; align-items: center; justify-content: space-between; gap: .75rem; min-height: 3.75rem;
  padding: .5rem 1rem; border-bottom: 1px solid var(--line); }
@media (min-width: 56rem) { main { grid-template-columns: 1fr 1fr; align-items: start; } }

#light { display: inline-flex; align-items: center; gap: .5rem; font-size: .875rem; color: var(--soft);
  min-height: 2rem; }
#light::before { content: ""; width: .7rem; height: .7rem; border-radius: 50%; background: var(--wait); }
#light.live::before { background: var(--good); }
#light.gone::before { background: var(--bad); }

.field, .button { min-height: 2.75rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--card);
  padding: 0 .75rem; }
.field { min-width: 0; }
.button { cursor: pointer; }
.button.main { background: var(--accent); border-color: var(--accent); color: var(--on-accent); font-weight: 600; }
.small { min-height: 2.25rem; font-size: .875rem; padding: 0 .625rem; }
.button.small { color: var(--soft); }
.button.small:hover { color: var(--text); }

#add { display: grid; grid-template-columns: 1fr auto; gap: .5rem; padding: 1rem;
  border-bottom: 1px solid var(--line); }
#add .title { grid-column: 1 / -1; }
#problem { grid-column: 1 / -1; margin: 0; font-size: .875rem; color: var(--bad); }
#problem:empty { display: none; }
@media (min-width: 30rem) {
  #add { grid-template-columns: 1fr auto auto; }
  #add .title { grid-column: auto; }
}

ul { list-style: none; margin: 0; padding: 0; }
#tasks li { display: flex; align-items: center; gap: .5rem; padding: .5rem 1rem; border-top: 1px solid var(--line); }
#tasks li:first-child { border-top: 0; }
#tasks label { display: flex; align-items: center; gap: .75rem; flex: 1; min-width: 0; min-height: 2.75rem;
  cursor: pointer; }
#tasks input[type=checkbox] { width: 1.15rem; height: 1.15rem; flex: none; margin: 0; accent-color: var(--accent); }
#tasks .name { overflow-wrap: anywhere; }
#tasks .done .name { color: var(--soft); text-decoration: line-through; }
#tasks .board { font-size: .75rem; color: var(--soft); border: 1px solid var(--line); border-radius: 1rem;
  padding: 0 .5rem; flex: none; }
#tasks li > .field { flex: 1; }
@media (max-width: 30rem) {
  #tasks li { flex-wrap: wrap; }
  #tasks label { flex: 1 0 100%; }
  #tasks .board { margin: 0 auto 0 1.9rem; }
}
.flash { animation: flash 1.6s ease-out; }
@keyframes flash { from { background: var(--flash); } }
@media (prefers-reduced-motion: reduce) { .flash { animation: none; } }

.empty { margin: 0; padding: 1.25rem 1rem; color: var(--soft); font-size: .9375rem; }
ul:not(:empty) + .empty { display: none; }
pre { margin: .75rem 0 0; padding: .75rem; background: var(--page); border-radius: .5rem; color: var(--text);
  white-space: pre-wrap; overflow-wrap: anywhere; font: .8125rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
#events li { border-top: 1px solid var(--line); }
#events li:first-child { border-top: 0; }
#events summary { display: flex; align-items: baseline; gap: .625rem; padding: .5rem 1rem; cursor: pointer;
  font-size: .875rem; list-style: none; }
#events summary::-webkit-details-marker { display: none; }
#events time { color: var(--soft); font-variant-numeric: tabular-nums; flex: none; }
#events .type { font: 600 .8125rem ui-monospace, Menlo, Consolas, monospace; flex: none; color: var(--soft); }
#events .created { color: var(--good); }
#events .updated { color: var(--blue); }
#events .deleted, #events .error { color: var(--bad); }
#events .what { color: var(--soft); white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
#events pre { margin: 0 1rem .75rem; }
@media (min-width: 56rem) { #events { max-height: 70vh; overflow-y: auto; } }
</style>
</head>
<body>
<header>
  <h1>Tasks, live</h1>
  <span id="light" role="status">connecting</span>
  <button id="again" class="button small" type="button" hidden>Retry</button>
</header>
<main>
  <section>
    <div class="head">
      <h2>Tasks</h2>
      <select id="filter" class="field small" aria-label="Boards to show">
        <option value="">All boards</option>
        {% for id, name in boards.items() %}<option value="{{ id }}">{{ name }} only</option>{% endfor %}
      </select>
    </div>
    <form id="add">
      <input class="field title" name="title" required maxlength="200" autocomplete="off"
             placeholder="What is to be done?" aria-label="Title of the new task">
      <select class="field" name="board_id" aria-label="Board of the new task">
        {% for id, name in boards.items() %}<option value="{{ id }}">{{ name }}</option>{% endfor %}
      </select>
      <button class="button main">Add</button>
      <p id="problem" role="alert"></p>
    </form>
    <ul id="tasks"></ul>
    <div class="empty">No tasks yet. Add one here, or from a shell:<pre id="curl"></pre></div>
  </section>
  <section>
    <div class="head">
      <h2>Events</h2>
      <button id="clear" class="button small" type="button">Clear</button>
    </div>
    <ul id="events"></ul>
    <p class="empty">Messages of the server appear here. Open this page in a second window and watch both.</p>
  </section>
</main>
<script>
const path = {{ path|tojson }}, boards = {{ boards|tojson }};
const $ = (id) => document.getElementById(id);

// --- The connection --------------------------------------------------------------------------------------------------

let ws, tries = 0, retry, countdown, lastMessage = 0, advice = {}, waiting = null;

function connect() {
    clearTimeout(retry);
    clearInterval(countdown);
    show('', 'connecting');
    const board = $('filter').value;
    const query = board ? '?board_id=' + encodeURIComponent(board) : '';
    const scheme = location.protocol === 'https:' ? 'wss://' : 'ws://';
    const mine = ws = new WebSocket(scheme + location.host + path + query);
    advice = {};
    lastMessage = Date.now();

    mine.onmessage = (event) => {
        if (mine !== ws) return;
        lastMessage = Date.now();
        const message = JSON.parse(event.data);
        if (message.type !== 'pong') log(message);

        switch (message.type) {
            case 'connected':  // From here on no event is missed; earlier changes are in the list.
                tries = 0;
                show('live', 'live');
                load();
                break;
            case 'task.created':
            case 'task.updated':
            case 'task.deleted':
                if (waiting) waiting.push(message); else apply(message);
                break;
            case 'disconnect':
                advice = message.data;
                break;
            case 'error':
                console.error('Error:', message.error);
                break;
        }
    };

    mine.onclose = (event) => {
        if (mine === ws) lost(event.code, event.reason);
    };
}

function lost(code, reason) {
    ws = null;
    const final = code === 1009 || (code >= 3500 && code <= 3999) || (code >= 4500 && code <= 4999);
    if (final || advice.reconnect === false) {
        show('gone', 'closed: ' + (reason || code));
        return;
    }
    // Twice as long each time, up to 30 s, with jitter.
    const minimum = Math.max(advice.retry_after_ms || 0, Math.min(30000, 500 * 2 ** tries++));
    const pause = minimum * (1 + Math.random() / 2);
    const at = Date.now() + pause;
    const count = () => show('', 'again in ' + Math.max(1, Math.ceil((at - Date.now()) / 1000)) + ' s');
    count();
    countdown = setInterval(count, 1000);
    retry = setTimeout(connect, pause);
}

function drop() {  // Without waiting for the other side, which may not be reachable.
    const old = ws;
    ws = null;
    if (old) old.close();
}

setInterval(() => {
    if (!ws || ws.readyState !== WebSocket.OPEN) return;
    if (Date.now() - lastMessage > 60000) {
        drop();
        lost(1006, '');
    } else {
        ws.send(JSON.stringify({ type: 'ping', timestamp: new Date() }));
    }
}, 25000);

window.addEventListener('online', () => { if (!ws) connect(); });
$('again').onclick = connect;
$('filter').onchange = () => { drop(); connect(); };

function show(state, text) {
    $('light').className = state;
    $('light').textContent = text;
    $('again').hidden = state === 'live' || text === 'connecting';
}

// --- The list --------------------------------------------------------------------------------------------------------

const tasks = new Map();

async function load() {
    const since = waiting = [];  // Events that arrive meanwhile are applied after the list.
    const found = await call('GET', '/tasks');
    if (since !== waiting) return;
    waiting = null;
    if (found) {
        const board = $('filter').value;
        const shown = found.filter((task) => !board || task.board_id === board);
        const ids = new Set(shown.map((task) => task.id));
        for (const id of [...tasks.keys()]) if (!ids.has(id)) remove(id);
        shown.forEach(put);
    }
    since.forEach(apply);
}

function apply({ type, data }) {
    if (type === 'task.deleted') {
        remove(data.task_id);
    } else {
        flash(put(data.task));
    }
}

function remove(id) {
    tasks.get(id)?.row.remove();
    tasks.delete(id);
}

function put(task) {
    let entry = tasks.get(task.id);
    if (!entry) {
        entry = { row: make('li') };
        tasks.set(task.id, entry);
        $('tasks').append(entry.row);
    }
    entry.task = task;
    if (!entry.editing) draw(entry);
    return entry.row;
}

function draw(entry) {
    const { row, task } = entry;
    const label = make('label'), box = make('input');
    box.type = 'checkbox';
    box.checked = task.done;
    box.onchange = () => { box.disabled = true; change(entry, { done: box.checked }); };
    label.append(box, make('span', 'name', task.title));
    const edit = make('button', 'button small', 'Edit');
    edit.onclick = () => rename(entry);
    edit.setAttribute('aria-label', 'Edit ' + task.title);
    const deleteButton = make('button', 'button small', 'Delete');
    deleteButton.onclick = async () => {
        deleteButton.disabled = true;
        if (await call('DELETE', '/tasks/' + task.id)) loadIfOffline(); else draw(entry);
    };
    deleteButton.setAttribute('aria-label', 'Delete ' + task.title);
    row.classList.toggle('done', task.done);
    row.replaceChildren(label, make('span', 'board', boards[task.board_id]), edit, deleteButton);
}

function rename(entry) {
    const field = make('input', 'field');
    field.value = entry.task.title;
    field.maxLength = 200;
    field.setAttribute('aria-label', 'New title');
    entry.editing = true;
    const close = (save) => {
        if (!entry.editing) return;
        entry.editing = false;
        const title = field.value.trim();
        if (save && title && title !== entry.task.title) change(entry, { title });
        draw(entry);
    };
    field.onkeydown = (event) => {
        if (event.key === 'Enter') close(true);
        if (event.key === 'Escape') close(false);
    };
    field.onblur = () => close(true);
    entry.row.replaceChildren(field);
    field.select();
}

async function change(entry, fields) {
    if (await call('PATCH', '/tasks/' + entry.task.id, fields)) loadIfOffline(); else draw(entry);
}

// The list changes when the event arrives, as in any other window; without a connection it is loaded.
function loadIfOffline() {
    if (!ws || ws.readyState !== WebSocket.OPEN) load();
}

async function call(method, url, body) {
    $('problem').textContent = '';
    try {
        const options = { method, headers: {} };
        if (body) {
            options.body = JSON.stringify(body);
            options.headers['Content-Type'] = 'application/json';
        }
        const response = await fetch(url, options);
        if (response.status === 204) return true;
        const answer = await response.json();
        if (!response.ok) throw new Error(answer.message);
        return answer;
    } catch (error) {
        const why = error instanceof TypeError ? 'the server cannot be reached' : error.message;
        $('problem').textContent = method + ' ' + url + ' failed: ' + why;
        return null;
    }
}

$('add').onsubmit = async (event) => {
    event.preventDefault();
    const form = event.target;
    const made = await call('POST', '/tasks', Object.fromEntries(new FormData(form)));
    if (made) {
        form.title.value = '';
        loadIfOffline();
    }
    form.title.focus();
};

// --- The log ---------------------------------------------------------------------------------------------------------

function log(message) {
    const data = message.data || {}, known = tasks.get(data.task_id);
    const item = make('li'), details = make('details'), line = make('summary');
    const when = make('time', '', new Date(message.timestamp).toLocaleTimeString([], { hour12: false }));
    const what = message.error || data.task?.title || known?.task.title || data.reason || data.client_id || '';
    line.append(when, make('span', 'type ' + message.type.split('.').pop(), message.type), make('span', 'what', what));
    details.append(line, make('pre', '', JSON.stringify(message, null, 2)));
    item.append(details);
    $('events').prepend(item);
    flash(item);
    while ($('events').childElementCount > 100) $('events').lastElementChild.remove();
}

$('clear').onclick = () => $('events').replaceChildren();

function make(tag, style, text) {
    const element = document.createElement(tag);
    if (style) element.className = style;
    if (text !== undefined) element.textContent = text;
    if (tag === 'button') element.type = 'button';
    return element;
}

function flash(element) {
    element.classList.remove('flash');
    void element.offsetWidth;  // Restarts the animation.
    element.classList.add('flash');
}

const sample = `-H 'Content-Type: application/json' -d '{"title": "Water the plants"}'`;
$('curl').textContent = `curl ${location.origin}/tasks ${sample}`;
connect();
</script>
</body>
</html>
"""
