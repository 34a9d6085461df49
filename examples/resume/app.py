"""A page that loses its network and misses nothing: Flask, cartows, one page, and a cable to pull.

Run it from here with ``gunicorn -k gthread --threads 8 app:app``, then open http://127.0.0.1:8000/.
"""

import contextlib
import itertools
import threading
import time
from collections import deque
from urllib.parse import urlsplit

from cable import Cable
from flask import Flask, abort, jsonify, render_template_string, request

from cartows import CartoWS, Hub, HubClosed


def same_host(request):
    """Accept pages of this host, whatever their port.

    By default a page may only connect to its own origin, which includes the port. This page is loaded from the server's
    port and connects to the cable's, which for a browser is another origin.
    """
    return urlsplit(request.headers["Origin"]).hostname == urlsplit(request.host_url).hostname


app = Flask(__name__)
app.config.update(CABLE_PORT=8001, PAUSED=False, CARTOWS_ALLOWED_ORIGINS=same_host)
# FLASK_CABLE_PORT=9001 in the environment becomes app.config["CABLE_PORT"] = 9001; the same for every setting.
app.config.from_prefixed_env()

hub = Hub()
CartoWS(app, hub)

# The "database". It is in the memory of one process, so this example needs a single worker.
numbers: deque[int] = deque(maxlen=1000)
following = itertools.count(1)
# Guards numbers; held while publishing, so that events are in the order of the numbers.
lock = threading.Lock()

# A number a second is published while this is set.
running = threading.Event()
if not app.config["PAUSED"]:
    running.set()

# Between the page's WebSocket and the server; made by the first request.
cable: Cable | None = None


@app.before_request
def set_up():
    """Start the threads, once: only a request shows on which port the server listens."""
    global cable
    with lock:
        if cable is None:
            host = request.environ["SERVER_NAME"]
            cable = Cable((host, app.config["CABLE_PORT"]), (host, int(request.environ["SERVER_PORT"])))
            threading.Thread(target=tick, name="ticks", daemon=True).start()


def tick():
    with contextlib.suppress(HubClosed):  # the worker is shutting down
        while running.wait():
            publish(1)
            time.sleep(1)


def publish(count):
    with lock:
        for n in itertools.islice(following, count):
            numbers.append(n)
            hub.broadcast("tick", {"n": n})


@app.errorhandler(400)
def explain(error):
    return jsonify(message=error.description), error.code


@app.get("/")
def page():
    return render_template_string(PAGE, path=app.config.get("CARTOWS_PATH", "/ws"), port=cable.port)


@app.get("/state")
def state():
    with lock:
        last = numbers[-1] if numbers else 0
    return jsonify(plugged=cable.plugged, running=running.is_set(), last=last, port=cable.port)


@app.get("/numbers")
def list_numbers():
    with lock:
        return jsonify(list(numbers))


@app.post("/numbers")
def publish_some():
    count = request.args.get("count", 1, int)
    if not 1 <= count <= 1000:
        abort(400, "count must be 1 to 1000.")
    publish(count)
    return state()


@app.post("/pull")
def pull():
    cable.pull()
    return state()


@app.post("/plug")
def plug():
    cable.plug()
    return state()


@app.post("/pause")
def pause():
    running.clear()
    return state()


@app.post("/run")
def run():
    running.set()
    return state()


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pull the network</title>
<link rel="icon" href="data:image/svg+xml,
  <svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'><circle cx='4' cy='4' r='4' fill='teal'/></svg>">
<style>
:root {
  color-scheme: light dark;
  --page: #f6f5f2; --card: #ffffff; --line: #dfddd6; --text: #1d1f21; --soft: #62666b;
  --accent: #0f766e; --on-accent: #ffffff; --flash: #d9f3ee;
  --good: #15803d; --wait: #b45309; --bad: #b91c1c; --replayed: #fde9c8; --on-replayed: #7c3a06;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181b; --card: #1e2226; --line: #343a40; --text: #e8e8e6; --soft: #9da3aa;
    --accent: #2dd4bf; --on-accent: #06251f; --flash: #17403b;
    --good: #4ade80; --wait: #fbbf24; --bad: #f87171; --replayed: #4a3208; --on-replayed: #fcd48a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
button { font: inherit; color: inherit; }
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
@media (min-width: 56rem) {
  main { grid-template-columns: 3fr 2fr; align-items: start; }
  #wire { grid-column: 1 / -1; }
}

#light { display: inline-flex; align-items: center; gap: .5rem; font-size: .875rem; color: var(--soft);
  min-height: 2rem; }
#light::before { content: ""; width: .7rem; height: .7rem; border-radius: 50%; background: var(--wait); }
#light.live::before { background: var(--good); }
#light.gone::before { background: var(--bad); }

.button { min-height: 2.75rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--card);
  padding: 0 .75rem; cursor: pointer; }
.button.main { background: var(--accent); border-color: var(--accent); color: var(--on-accent); font-weight: 600; }
.button.small { min-height: 2.25rem; font-size: .875rem; padding: 0 .625rem; color: var(--soft); }
.button.small:hover { color: var(--text); }
.buttons { display: flex; flex-wrap: wrap; gap: .5rem; padding: 0 1rem 1rem; }
#problem { margin: 0; padding: 0 1rem 1rem; font-size: .875rem; color: var(--bad); }
#problem:empty { display: none; }

#cable { display: flex; align-items: center; gap: .5rem; padding: 1rem; font-variant-numeric: tabular-nums; }
#cable b { font-weight: 600; }
#cable div { flex: none; }
#cable div:last-child { text-align: right; }
#cable small { display: block; font-size: .8125rem; color: var(--soft); }
#cable i { flex: 1; height: 3px; border-radius: 2px; background: var(--good); }
#cable span { color: var(--bad); font-size: .8125rem; }
#cable span, #cable span + i { display: none; }
#cable.out i { background: var(--bad); }
#cable.out span, #cable.out span + i { display: block; }

#verdict { margin: 0; padding: .75rem 1rem; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
#verdict.bad { color: var(--bad); font-weight: 600; }
.key { display: flex; flex-wrap: wrap; justify-content: flex-end; gap: .25rem 1rem; margin: 0; font-size: .8125rem;
  color: var(--soft); }
.key .n { min-width: 1.25rem; width: 1.25rem; height: 1.25rem; display: inline-block; vertical-align: -.3rem;
  margin-right: .375rem; }
#numbers { display: flex; flex-wrap: wrap; gap: .375rem; margin: 0; padding: 1rem; list-style: none;
  max-height: 60vh; overflow-y: auto; }
.n { min-width: 2.5rem; padding: .125rem .375rem; border-radius: .375rem; border: 1px solid var(--line);
  text-align: center; font-size: .875rem; font-variant-numeric: tabular-nums; }
.n.live { background: var(--flash); border-color: transparent; }
.n.replayed { background: var(--replayed); color: var(--on-replayed); border-color: transparent; font-weight: 600; }
.n.bad { border-color: var(--bad); color: var(--bad); }

#log { list-style: none; margin: 0; padding: 0; max-height: 70vh; overflow-y: auto; }
#log li { display: flex; gap: .625rem; padding: .5rem 1rem; border-top: 1px solid var(--line); font-size: .875rem; }
#log li:first-child { border-top: 0; }
#log time { color: var(--soft); font-variant-numeric: tabular-nums; flex: none; }
#log p { margin: 0; min-width: 0; overflow-wrap: anywhere; }
#log .good { color: var(--good); }
#log .bad { color: var(--bad); }
</style>
</head>
<body>
<header>
  <h1>Pull the network</h1>
  <span id="light" role="status">connecting</span>
  <button id="again" class="button small" type="button" hidden>Retry</button>
</header>
<main>
  <section id="wire">
    <div id="cable">
      <div><b>This page</b><small id="here">has received nothing</small></div>
      <i></i><span>pulled</span><i></i>
      <div><b>Server</b><small id="there">&nbsp;</small></div>
    </div>
    <div class="buttons">
      <button id="plug" class="button main" type="button">Pull the network</button>
      <button id="some" class="button" type="button">Publish five</button>
      <button id="run" class="button" type="button">Pause</button>
    </div>
    <p id="problem" role="alert"></p>
  </section>
  <section>
    <div class="head">
      <h2>Numbers</h2>
      <p class="key">
        <span><span class="n live"></span>live</span>
        <span><span class="n replayed"></span>replayed</span>
        <span><span class="n"></span>from the list</span>
      </p>
    </div>
    <p id="verdict" role="status">No numbers yet.</p>
    <ol id="numbers"></ol>
  </section>
  <section>
    <div class="head"><h2>Messages of this page</h2></div>
    <ul id="log" aria-live="polite"></ul>
  </section>
</main>
<script>
const path = {{ path|tojson }}, port = {{ port|tojson }};
const $ = (id) => document.getElementById(id);

// --- The connection --------------------------------------------------------------------------------------------------

const TIMEOUT = 3000;  // How long the server may take to answer, in ms.

let ws, tries = 0, retry, countdown, advice = {};
let last = null;     // The id of the last message that had one: where to resume.
let sent = 0;        // When the oldest request without an answer was sent: the handshake, then pings.
let replaying = 0;   // How many of the next events are replayed ones.

function connect() {
    clearTimeout(retry);
    clearInterval(countdown);
    show('', 'connecting');
    const query = last ? '?since=' + encodeURIComponent(last) : '';
    log('connecting to ' + path + query);
    const scheme = location.protocol === 'https:' ? 'wss://' : 'ws://';
    const mine = ws = new WebSocket(scheme + location.hostname + ':' + port + path + query);
    advice = {};
    sent = Date.now();

    mine.onmessage = (event) => {
        if (mine !== ws) return;
        sent = 0;
        const message = JSON.parse(event.data);

        switch (message.type) {
            case 'connected':
                tries = 0;
                show('live', 'live');
                if (message.data.recovered) {  // Missed events follow, then live ones, without a gap in between.
                    replaying = message.data.replayed;
                    log('back: ' + replaying + ' missed, replayed', 'good');
                } else {  // The history does not reach that far back, or this is the first time: load the list.
                    replaying = 0;
                    log(last ? 'back, but not recovered: loading the list' : 'connected: loading the list');
                    load();
                }
                break;
            case 'tick':
                receive(message.data.n, replaying > 0 ? 'replayed' : 'live');
                if (replaying > 0) replaying--;
                break;
            case 'disconnect':
                advice = message.data;
                break;
            case 'error':
                log('error: ' + message.error, 'bad');
                break;
        }
        if (message.id) last = message.id;
    };

    mine.onclose = (event) => {
        if (mine === ws) lost(event.code, event.reason || 'the connection broke');
    };
}

function lost(code, reason) {
    const old = ws;
    ws = null;
    old.close();  // Without waiting for the other side, which may not be reachable.
    log(reason + ' (' + code + ')', 'bad');
    const final = code === 1009 || (code >= 3500 && code <= 3999) || (code >= 4500 && code <= 4999);
    if (final || advice.reconnect === false) {
        show('gone', 'closed: ' + reason);
        return;
    }
    // Twice as long each time, with jitter. Up to 4 s, since a user is watching; in a real app 30 s is better.
    const minimum = Math.max(advice.retry_after_ms || 0, Math.min(4000, 500 * 2 ** tries++));
    const pause = minimum * (1 + Math.random() / 2);
    const at = Date.now() + pause;
    const count = () => show('', 'again in ' + Math.max(1, Math.ceil((at - Date.now()) / 1000)) + ' s');
    count();
    countdown = setInterval(count, 1000);
    retry = setTimeout(connect, pause);
}

// A pulled cable closes nothing: the page can only notice that an answer does not arrive.
setInterval(() => {
    if (!ws) return;
    if (sent && Date.now() - sent > TIMEOUT) {
        lost(1006, 'no answer for ' + TIMEOUT / 1000 + ' s');
    } else if (!sent && ws.readyState === WebSocket.OPEN) {
        sent = Date.now();
        ws.send(JSON.stringify({ type: 'ping' }));
    }
}, 1000);

window.addEventListener('online', () => { if (!ws) connect(); });
$('again').onclick = connect;

function show(state, text) {
    $('light').className = state;
    $('light').textContent = text;
    $('again').hidden = state === 'live' || text === 'connecting';
}

// --- The numbers -----------------------------------------------------------------------------------------------------

const KEPT = 500;  // How many numbers stay on the page.

let first = 0, newest = 0, replayed = 0, missing = 0, repeated = 0, waiting = null;
let wire = 0;  // The last number that arrived as an event since the list was loaded.

function receive(n, kind) {
    if (waiting) {
        waiting.push([n, kind]);
        return;
    }
    // Each number must arrive once and in order: this is what the page demonstrates.
    if (n > wire && n <= newest) {  // The list was newer.
        wire = n;
        return;
    }
    const expected = newest + 1;
    if (n < expected) repeated++;
    if (n > expected && newest) missing += n - expected;
    put(n, n === expected || !newest ? kind : kind + ' bad');
    first = first || n;
    newest = wire = Math.max(newest, n);
    if (kind === 'replayed') replayed++;
    summarize();
}

async function load() {
    const mine = waiting = [];  // Events that arrive meanwhile are applied after the list.
    const found = await call('GET', '/numbers');
    if (mine !== waiting) return;
    if (!found) {
        setTimeout(() => { if (mine === waiting) load(); }, 1000);
        return;
    }
    waiting = null;
    $('numbers').replaceChildren();
    first = found[0] || 0;
    newest = found[found.length - 1] || 0;
    wire = replayed = missing = repeated = 0;
    found.forEach((n) => put(n, ''));
    summarize();
    mine.forEach(([n, kind]) => receive(n, kind));
}

function put(n, style) {
    const list = $('numbers'), atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.append(make('li', 'n ' + style, n));
    while (list.childElementCount > KEPT) list.firstElementChild.remove();
    if (atEnd) list.scrollTop = list.scrollHeight;
}

function summarize() {
    $('here').textContent = newest ? 'has received ' + newest : 'has received nothing';
    $('verdict').className = missing || repeated ? 'bad' : '';
    $('verdict').textContent = newest
        ? `${first} to ${newest}: ${missing || 'none'} missing, ${repeated || 'none'} repeated, ${replayed} replayed.`
        : 'No numbers yet.';
}

// --- The server, sent on its own port, which works while the cable is out --------------------------------------------

let state = {}, refreshes = 0;

async function call(method, url) {
    try {
        const response = await fetch(url, { method });
        const answer = await response.json();
        if (!response.ok) throw new Error(answer.message);
        $('problem').textContent = '';
        return answer;
    } catch (error) {
        const why = error instanceof TypeError ? 'the server cannot be reached' : error.message;
        $('problem').textContent = method + ' ' + url + ' failed: ' + why;
        return null;
    }
}

async function refresh(answer) {
    const mine = ++refreshes, found = await answer;
    if (!found || mine !== refreshes) return;  // An older answer may arrive last.
    plug(found.plugged);
    state = found;
    $('run').textContent = state.running ? 'Pause' : 'Continue';
    $('there').textContent = 'has published ' + state.last;
}

function plug(plugged) {
    if (state.plugged === !plugged) log(plugged ? 'the cable is plugged in' : 'the cable is pulled: the page gets no notice');
    state.plugged = plugged;
    $('cable').className = plugged ? '' : 'out';
    $('plug').textContent = plugged ? 'Pull the network' : 'Plug it in';
}

$('plug').onclick = () => {
    const url = state.plugged ? '/pull' : '/plug';
    plug(!state.plugged);
    refresh(call('POST', url));
};
$('some').onclick = () => refresh(call('POST', '/numbers?count=5'));
$('run').onclick = () => refresh(call('POST', state.running ? '/pause' : '/run'));
setInterval(() => refresh(call('GET', '/state')), 1000);
refresh(call('GET', '/state'));

// --- The log ---------------------------------------------------------------------------------------------------------

function log(text, style) {
    const item = make('li');
    item.append(make('time', '', new Date().toLocaleTimeString([], { hour12: false })), make('p', style, text));
    $('log').prepend(item);
    while ($('log').childElementCount > 100) $('log').lastElementChild.remove();
}

function make(tag, style, text) {
    const element = document.createElement(tag);
    if (style) element.className = style;
    if (text !== undefined) element.textContent = text;
    return element;
}

connect();
</script>
</body>
</html>
"""
