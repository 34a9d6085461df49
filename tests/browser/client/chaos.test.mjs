// Seeded random games against the model of a server. In all of them an event of a subscribed room comes, once and in order, or the
// page has loaded since; none comes while the page loads; and what `World.leave` checks holds.

import assert from 'node:assert/strict';
import { deferred, scene, seeded } from './world.mjs';
import { numbers, Server } from './model.mjs';

const GAMES = Number(process.env.CARTOWS_GAMES ?? 12);
// Each game is played in rounds: what is lost in one must not be hidden by a load of the next.
const ROUNDS = 8;
const STEPS = 40;

class Game {
    constructor(world, seed, rules) {
        this.random = seeded(seed);
        world.chance = this.random;
        this.world = world;
        this.rules = rules;
        this.server = new Server(world);
        if (rules.rate) this.server.takes = () => this.random() > 0.3;
        this.names = rules.names ?? ['b=1', 'b=2', 'p=1'];
        // Rooms of which every event must come, and the last request for each.
        this.firm = new Set();
        this.word = new Map();
        this.required = new Map();
        this.delivered = [];
        // Events that came before a replay from an old position was requested: on another connection the server sends them again.
        this.again = new Set();
        this.covered = 0;
        this.loads = [];
        this.states = [];
        this.faults = [];
    }

    pick(list) { return list[Math.floor(this.random() * list.length)]; }

    grouped(rooms) {
        const found = {};
        for (const room of rooms) (found[room[0]] ??= []).push(room.slice(2));
        return found;
    }

    start() {
        const { rules, server } = this;
        const load = () => {
            // It sees what there is at the time of the request.
            const call = { ...deferred(), sees: server.published };
            this.loads.push(call);
            return call.promise;
        };
        const begin = rules.names ? this.names : this.names.slice(0, 2);
        if (rules.rendered) {
            for (let n = 0; n < 5; n++) server.publish([this.pick(begin)]);
            this.covered = server.published;
        }
        this.live = this.world.connect({
            filters: this.grouped(begin),
            ...(rules.rendered ? { since: server.id(), onReload: load } : { load }),
        });
        for (const room of begin) this.firm.add(room);
        this.live.on('task.created', ({ data }) => {
            if (this.loads.length) this.faults.push(`event ${data.seq} while the page loads`);
            if (this.delivered.includes(data.seq) && !this.again.has(data.seq)) this.faults.push(`event ${data.seq} twice`);
            if (rules.ordered && this.delivered.at(-1) > data.seq) this.faults.push(`event ${data.seq} after ${this.delivered.at(-1)}`);
            this.delivered.push(data.seq);
        });
    }

    subscribe(room) {
        const { live, rules, server } = this;
        const since = rules.replays && live.position !== null && this.random() < 0.7
            ? (rules.replays === 'any' && server.head ? server.id(Math.floor(this.random() * server.head)) : live.position) : undefined;
        if (rules.replays === 'any') this.again = new Set(this.delivered);
        const word = {};
        this.word.set(room, word);
        live.subscribe(this.grouped([room]), { since }).then(() => {
            if (this.word.get(room) !== word) return;
            this.firm.add(room);
            if (since === undefined) return;
            const [epoch, n] = numbers(since);
            for (const event of server.log) {
                if (event.rooms.includes(room) && event.epoch === epoch && event.n > n) this.required.set(event.seq, event.rooms);
            }
        }, () => {});
    }

    // Nothing of this room is owed any more, what is on its way included.
    release(room) {
        this.word.set(room, null);
        this.firm.delete(room);
        for (const [seq, rooms] of this.required) if (!rooms.some((each) => this.firm.has(each))) this.required.delete(seq);
    }

    unsubscribe(room) {
        this.release(room);
        this.live.unsubscribe(this.grouped([room]));
    }

    async step() {
        const { server, world, live, rules, random } = this;
        const chance = random();
        if (chance < 0.3) {
            const rooms = random() < 0.3 && rules.both !== false ? [this.pick(this.names), this.pick(this.names)] : [this.pick(this.names)];
            const event = server.publish(rooms);
            if (rooms.some((room) => this.firm.has(room))) this.required.set(event.seq, event.rooms);
        } else if (chance < 0.55) {
            for (const line of server.open) server.deliver(line, 1 + Math.floor(random() * 3));
        } else if (chance < 0.65) {
            for (const line of server.open) if (line.asked.length) server.take(line);
        } else if (chance < 0.73) {
            for (const line of server.waiting) if (random() < 0.2) server.refuse(line); else server.accept(line);
        } else if (chance < 0.78) {
            for (const line of server.open) server.drop(line);
        } else if (chance < 0.783) {
            server.forget();
        } else if (chance < 0.785) {
            server.restart();
        } else if (chance < 0.85) {
            this.finish(random() < 0.3);
        } else if (chance < 0.9) {
            await world.pass(random() * 4000);
        } else if (chance < 0.92) {
            live.retry();
        } else if (chance < 0.93) {
            world.visible = random() < 0.7;
        } else if (chance < 0.94) {
            world.happens('pagehide', { persisted: true });
            world.happens('pageshow', { persisted: true });
        } else if (chance < 0.945) {
            world.happens(this.pick(['online', 'offline']));
        } else if (rules.reloads && chance < 0.955) {
            live.reload();
        } else if (rules.rooms) {
            const room = this.pick(this.names);
            const what = random();
            if (what < 0.55) this.subscribe(room);
            else if (what < 0.85) this.unsubscribe(room);
            else if (what < 0.92 && rules.refusals !== false) {
                const since = rules.replays && live.position !== null ? live.position : undefined;
                live.subscribe({ b: 'secret' }, { since }).catch(() => {});
            } else if (rules.revokes) {
                this.release(room);
                server.revoke(room);
            }
        }
        await world.flush();
    }

    finish(fails) {
        const call = this.loads.shift();
        if (!call) return;
        if (fails) {
            call.reject(new Error('no network'));
        } else {
            this.covered = Math.max(this.covered, call.sees);
            call.resolve();
        }
    }

    async finishAll() {
        const { world, server } = this;
        world.visible = true;
        const { takes } = server;
        server.takes = () => true;
        const busy = () => this.live.state !== 'open' || this.loads.length || server.open.some(({ asked, out }) => asked.length || out.length);
        for (let n = 0; n < 4 || (n < 60 && busy()); n++) {
            server.finishAll();
            await world.flush();
            this.finish(false);
            await world.pass(1000);
        }
        server.takes = takes;
        assert.equal(this.live.state, 'open');
        assert.equal(this.loads.length, 0);
        // And it still receives what it should.
        for (const room of this.firm) this.required.set(server.publish([room]).seq, [room]);
        server.finishAll();
        await world.flush();
    }

    verify() {
        const lost = [...this.required.keys()].filter((seq) => seq > this.covered && !this.delivered.includes(seq));
        assert.deepEqual(this.faults, []);
        assert.deepEqual(lost, [], 'events that never came, and nothing was loaded since');
    }
}

function games(name, rules) {
    for (let seed = 1; seed <= GAMES; seed++) {
        scene(`${name}: game ${seed}`, async (world) => {
            const game = new Game(world, seed * 7919, rules);
            game.start();
            for (let round = 0; round < ROUNDS; round++) {
                for (let n = 0; n < STEPS; n++) await game.step();
                await game.finishAll();
                game.verify();
            }
            assert.ok(game.delivered.length > 0);
            assert.ok(world.sockets.length > 1);
        });
    }
}

const long = Array.from({ length: 60 }, (_, n) => `b=${'x'.repeat(80)}${n}`);

games('drops, replays, refusals and slow loads', { ordered: true });
games('a page that was rendered with a position', { ordered: true, rendered: true });
games('rooms come and go', { rooms: true, revokes: true });
games('rooms come with a replay', { rooms: true, replays: 'position', refusals: false });
games('reload() now and then', { ordered: true, reloads: true });
games('rooms come with a replay, and are refused', { rooms: true, replays: 'position' });
games('rooms come with a replay from an old position', { rooms: true, replays: 'any', refusals: false });
games('messages that are not handled', { rooms: true, rate: true });
games('a rendered page with reload()', { ordered: true, rendered: true, reloads: true });
games('more rooms than a query has', { names: long, both: false });
games('a rendered page with more rooms than a query has', { names: long, both: false, rendered: true });
