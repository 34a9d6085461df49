// A page in TypeScript: it is compiled, never run. What must be refused says so above its line.

import {
    connect, RefusedError, Connection, type Message, type Presence, type Status, type TaskEvent,
} from '../../../cartows/static/cartows.js';

interface Task {
    id: string;
    title: string;
}

const live: Connection = connect('/ws', {
    filters: { board_id: ['b1', 2] },
    token: async () => 'a token',
    load: async (reason) => {
        const known: 'first' | 'history' | 'restored' | 'incomplete' | 'asked' = reason;
        console.log(known);
    },
});

live.on('task.created', (message) => {
    const id: string | number = message.data.task_id;
    const action: 'created' = message.data.action;
    console.log(id, action);
});
live.on('task.updated', (message: Message<TaskEvent<Task>>) => {
    const title: string | undefined = message.data.task?.title;
    console.log(title, message.data.changes?.title);
});
live.on('*', (message) => console.log(message.type, message.id?.length));
live.on('comment.added', (message) => console.log(message.data.anything));
live.on('error', (message) => {
    if (message.data.code === 'FORBIDDEN') console.log(message.data.details);
});

const off: () => void = live.onState((status: Status) => console.log(status.retryAt));
off();

const present: Presence<{ name: string }> = live.presence<{ name: string }>({ board_id: 'b1' }, { name: 'Ann' });
for (const [who, entries] of present) console.log(who, entries[0]?.meta.name);
present.onJoin(({ who, meta, first }) => console.log(who, meta.name, first));
const map: ReadonlyMap<string, readonly { ref: string }[]> = present;
console.log(map.size);

live.subscribe({ board_id: 'b2' }, { since: live.position ?? undefined }).catch((error: unknown) => {
    if (error instanceof RefusedError) console.log(error.code);
});
live.reload().then(() => live.close());
const taken: boolean = live.send('cursor.moved', { x: 1 });
console.log(taken);

// @ts-expect-error: a task is created, not moved
live.on('task.created', (message) => message.data.action === 'moved');
// @ts-expect-error: there is no such field
live.on('project.updated', (message) => message.data.task_id);
// @ts-expect-error: there is no such option
connect('/ws', { filter: {} });
// @ts-expect-error: connect() makes them
new Connection();
