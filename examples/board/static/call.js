// Requests to the REST API. Changes are sent one after another: two moves of one card must not overtake each other.

const TIMEOUT = 15_000;  // milliseconds

export class CallError extends Error {
    constructor(message, status) {
        super(message);
        this.status = status;  // undefined when there was no answer
    }
}

export async function call(method, path, body) {
    const options = { method, signal: AbortSignal.timeout(TIMEOUT), headers: {} };
    if (body !== undefined) {
        options.headers['Content-Type'] = 'application/json';
        options.body = JSON.stringify(body);
    }
    let response, answer = null;
    try {
        response = await fetch(`/api${path}`, options);
        if (response.status !== 204) answer = await response.json();
    } catch {
        if (response?.ok === false) throw new CallError(`The server failed (${response.status}).`, response.status);
        throw new CallError(navigator.onLine ? 'The server cannot be reached.' : 'There is no network.');
    }
    if (!response.ok) throw new CallError(answer?.message ?? `The server failed (${response.status}).`, response.status);
    return answer;
}

let last = Promise.resolve();

export function change(method, path, body) {
    const mine = last.then(() => call(method, path, body));
    last = mine.catch(() => {});
    return mine;
}
